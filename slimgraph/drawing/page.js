// Pans, zooms, folds and tells the facts of the one diagram in this page. Without it the picture stands as it is.
"use strict";
(() => {
  const svg = document.querySelector("svg"), root = svg.querySelector("g.graph"), tip = document.getElementById("tip");
  const plan = JSON.parse(document.getElementById("plan").textContent);
  const SPACE = "http://www.w3.org/2000/svg", HIDDEN = "gone", SLACK = 15, STEP = 1.25;
  const make = (tag, values, text) => {
    const made = document.createElementNS(SPACE, tag);
    for (const [name, value] of Object.entries(values)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const box = (part) => {
    const b = part.getBBox();
    return { x: b.x, y: b.y, w: b.width, h: b.height };
  };

  // ---- the parts, by the numbers that Graphviz gives them --------------------------------------------------------
  // plan.nodes: the box of each node; plan.boxes: the box round each box; plan.edges: [tail, head, feedback, labels].
  const nodes = plan.nodes.map((inside, i) => ({ inside, g: svg.getElementById(`node${i + 1}`) }));
  const boxes = plan.boxes.map(([around, title, size], i) => ({ around, title, size, g: svg.getElementById(`clust${i + 1}`) }));
  const edges = plan.edges.map(([tail, head, back, labels], i) =>
    ({ tail, head, back, labels, g: svg.getElementById(`edge${i + 1}`) }));
  const told = (g) => {
    // Graphviz's own tooltips would show beside ours.
    const links = [...g.querySelectorAll("a")];
    const text = links.map((a) => a.getAttribute("xlink:title")).find(Boolean) || "";
    for (const a of links) a.removeAttribute("xlink:title");
    g.querySelector("title")?.remove();
    return text;
  };
  // The page is the paper.
  root.querySelectorAll(":scope > title, :scope > polygon").forEach((e) => e.remove());
  for (const part of [...nodes, ...boxes, ...edges]) {
    part.facts = told(part.g);
    part.box = box(part.g);
    // What Graphviz drew, for when a fold is undone.
    part.drawn = [...part.g.querySelectorAll("path, polygon")].map((e) => [e, e.tagName === "path" ? "d" : "points",
      e.getAttribute(e.tagName === "path" ? "d" : "points"), box(e)]);
    part.texts = [...part.g.querySelectorAll("text")].map((e) => [e, box(e)]);
  }
  for (const edge of edges) {
    const [from, to] = [edge.tail, edge.head].map((i) => nodes[i].facts.split("\n")[0]);
    edge.facts = `${edge.labels.join(", ") || "arrow"}\nfrom: ${from}\nto: ${to}`;
  }
  for (const { g, facts } of [...nodes, ...edges]) g.setAttribute("aria-label", facts.replaceAll("\n", ". "));
  const made = root.appendChild(make("g", { id: "made" }));

  // ---- the view ----------------------------------------------------------------------------------------------------
  let view = null, touched = false, whole = box(root);
  const scale = () => Math.max(view.w / svg.clientWidth, view.h / svg.clientHeight);
  const look = () => svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.w} ${view.h}`);
  const moved = root.transform.baseVal.consolidate()?.matrix || { e: 0, f: 0 };
  const fit = () => {
    touched = false;
    const pad = 24;
    view = { x: whole.x + moved.e - pad, y: whole.y + moved.f - pad, w: whole.w + 2 * pad, h: whole.h + 2 * pad };
    // A small diagram is not blown up to the size of the window.
    const most = 1.8 * scale();
    if (most < 1) zoom(1 / most);
    touched = false;
    look();
  };
  const zoom = (factor, x = 0.5, y = 0.5) => {
    touched = true;
    view = { x: view.x + view.w * x * (1 - factor), y: view.y + view.h * y * (1 - factor), w: view.w * factor, h: view.h * factor };
    look();
  };
  const pan = (dx, dy) => {
    touched = true;
    view = { ...view, x: view.x - dx * scale(), y: view.y - dy * scale() };
    look();
  };
  const at = (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    return [(point.x - view.x) / view.w, (point.y - view.y) / view.h];
  };
  svg.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(Math.max(-0.4, Math.min(0.4, event.deltaY * 0.0015))), ...at(event));
  }, { passive: false });
  let held = null;
  svg.addEventListener("pointerdown", (event) => { held = [event.clientX, event.clientY, false]; });
  window.addEventListener("pointermove", (event) => {
    if (!held || !event.buttons) return;
    const [dx, dy] = [event.clientX - held[0], event.clientY - held[1]];
    // A hand that clicks is never quite still.
    if (!held[2] && Math.hypot(dx, dy) < 4) return;
    held = [event.clientX, event.clientY, true];
    svg.classList.add("held");
    hide();
    pan(dx, dy);
  });
  window.addEventListener("pointerup", () => svg.classList.remove("held"));
  const dragged = () => Boolean(held && held[2]);
  const keys = {
    "+": () => zoom(1 / STEP), "=": () => zoom(1 / STEP), "-": () => zoom(STEP), "0": fit, "Escape": () => hide(),
    "ArrowLeft": () => pan(60, 0), "ArrowRight": () => pan(-60, 0), "ArrowUp": () => pan(0, 60), "ArrowDown": () => pan(0, -60),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });
  window.addEventListener("resize", () => { if (!touched) fit(); });
  window.addEventListener("beforeprint", fit);

  // ---- facts -------------------------------------------------------------------------------------------------------
  const hide = () => { tip.hidden = true; };
  const tell = (facts, place) => {
    const [title, ...lines] = facts.split("\n");
    tip.replaceChildren(Object.assign(document.createElement("strong"), { textContent: title }));
    for (const line of lines) {
      const p = tip.appendChild(document.createElement("div")), colon = line.indexOf(": ");
      if (colon > 0) p.appendChild(Object.assign(document.createElement("em"), { textContent: line.slice(0, colon + 1) }));
      p.append(line.slice(colon > 0 ? colon + 1 : 0));
    }
    tip.hidden = false;
    const size = tip.getBoundingClientRect(), gap = 10;
    const below = place.bottom + gap + size.height <= innerHeight;
    tip.style.left = `${Math.max(gap, Math.min(place.left, innerWidth - size.width - gap))}px`;
    tip.style.top = `${Math.max(gap, below ? place.bottom + gap : place.top - gap - size.height)}px`;
  };
  const say = (g, facts, near) => {
    const show = () => {
      if (!facts) return;
      tell(facts, g.getBoundingClientRect());
      svg.classList.toggle("dim", Boolean(near));
      for (const part of near ? near() : []) part.classList.add("near");
    };
    const end = () => {
      hide();
      svg.classList.remove("dim");
      for (const part of svg.querySelectorAll(".near")) part.classList.remove("near");
    };
    g.addEventListener("pointerenter", show);
    g.addEventListener("pointerleave", end);
    g.addEventListener("focus", show);
    g.addEventListener("blur", end);
  };
  nodes.forEach((node, i) => {
    node.g.setAttribute("tabindex", "0");
    node.g.setAttribute("role", "img");
    say(node.g, node.facts, () => [node.g, ...edges.filter((e) => e.tail === i || e.head === i)
      .flatMap((e) => [e.g, nodes[e.tail].g, nodes[e.head].g])]);
  });
  for (const edge of edges) say(edge.g, edge.facts, () => [edge.g, nodes[edge.tail].g, nodes[edge.head].g]);

  // ---- folding -----------------------------------------------------------------------------------------------------
  const folded = new Set();
  // The outermost folded box round `inside`, or -1.
  const hider = (inside) => {
    let found = -1;
    for (let i = inside; i >= 0; i = boxes[i].around) if (folded.has(i)) found = i;
    return found;
  };
  const toggle = (i, focus) => {
    if (!folded.delete(i)) folded.add(i);
    draw();
    if (focus) svg.querySelector(`[data-box="${i}"]`)?.focus();
  };
  const button = (g, i, title) => {
    g.dataset.box = i;
    for (const [name, value] of [["tabindex", "0"], ["role", "button"], ["aria-expanded", String(!folded.has(i))], ["aria-label", title]])
      g.setAttribute(name, value);
    g.addEventListener("click", () => { if (!dragged()) toggle(i, false); });
    g.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      toggle(i, true);
    });
    return g;
  };
  const sign = (x, y, open) => {
    const g = make("g", { class: "sign" });
    g.append(make("circle", { cx: x, cy: y, r: 7 }), make("path", { d: `M${x - 3.5},${y}h7${open ? "" : `M${x},${y - 3.5}v7`}` }));
    return g;
  };
  boxes.forEach((one, i) => {
    const head = make("g", { class: "head" });
    head.append(...one.g.querySelectorAll("text"));
    head.append(sign(one.box.x + one.box.w - 12, one.box.y, true));
    one.g.append(button(head, i, `fold ${one.title}`));
    say(head, one.facts);
    const [width, height] = [Math.max(...one.texts.map(([, b]) => b.w), 56) + 28, 16 * one.texts.length + 26];
    one.small = { x: one.box.x + (one.box.w - width) / 2, y: one.box.y + (one.box.h - height) / 2, w: width, h: height };
  });

  // Where a coordinate goes when the empty room that a fold leaves is taken out.
  const squeeze = (spans, kept) => {
    const cuts = [];
    for (let [from, to] of spans.sort((a, b) => a[0] - b[0])) {
      from = Math.max(from, cuts.length ? cuts.at(-1)[1] : from);
      for (const [a, b] of kept) {
        if (b <= from || a >= to) continue;
        if (a > from) cuts.push([from, a]);
        from = b;
      }
      if (from < to) cuts.push([from, to]);
    }
    return (x) => x - cuts.reduce((sum, [a, b]) => sum + Math.max(0, Math.min(x, b) - a), 0);
  };
  const along = (b, axis) => axis === "x" ? [b.x, b.x + b.w] : [b.y, b.y + b.h];
  const laid = () => {
    const seen = [...nodes.filter((n) => hider(n.inside) < 0).map((n) => n.box),
      ...boxes.filter((_, i) => folded.has(i) && hider(i) === i).map((b) => b.small),
      ...boxes.filter((_, i) => hider(i) < 0).flatMap((b) => b.texts.map(([, t]) => t)),
      ...edges.filter((e) => hider(nodes[e.tail].inside) < 0 && hider(nodes[e.head].inside) < 0).flatMap((e) => e.texts.map(([, t]) => t))];
    const shut = boxes.filter((_, i) => folded.has(i) && hider(i) === i).map((b) => b.box);
    return ["x", "y"].map((axis) => squeeze(shut.map((b) => along(b, axis)),
      seen.map((b) => along(b, axis)).map(([a, b]) => [a - SLACK, b + SLACK]).sort((a, b) => a[0] - b[0])));
  };
  const middle = (b) => [b.x + b.w / 2, b.y + b.h / 2];
  const shifted = (b, [fx, fy]) => {
    const [x, y] = middle(b);
    return { ...b, x: b.x + fx(x) - x, y: b.y + fy(y) - y };
  };
  const shift = (element, b, map) => {
    const to = shifted(b, map);
    element.setAttribute("transform", `translate(${to.x - b.x} ${to.y - b.y})`);
  };
  const bend = (text, [fx, fy]) => text.replace(/(-?[\d.]+),(-?[\d.]+)/g, (_, x, y) => `${fx(+x)},${fy(+y)}`);

  const line = (from, to, back, labels, look) => {
    const [[ax, ay], [bx, by]] = [middle(from), middle(to)];
    let start, end, bow, point;
    const tipped = (x, y, dx, dy) => `${x},${y} ${x - 7 * dx - 2.5 * dy},${y - 7 * dy - 2.5 * dx} ${x - 7 * dx + 2.5 * dy},${y - 7 * dy + 2.5 * dx}`;
    const right = to.x - from.x - from.w, away = Math.max(to.y - from.y - from.h, from.y - to.y - to.h);
    if (right > 0 && 3 * right > away && !back) {
      [start, end, point] = [[from.x + from.w, ay], [to.x, by], [1, 0]];
      const half = (end[0] - start[0]) / 2;
      bow = [[start[0] + half, start[1]], [end[0] - half, end[1]]];
    } else if (away > 0 && !back) {
      const down = to.y > from.y;
      [start, end, point] = down ? [[ax, from.y + from.h], [bx, to.y], [0, 1]] : [[ax, from.y], [bx, to.y + to.h], [0, -1]];
      const half = (end[1] - start[1]) / 2;
      bow = [[ax, start[1] + half], [bx, end[1] - half]];
    } else {
      [start, end, point] = [[ax, from.y], [bx, to.y], [0, 1]];
      const top = Math.min(from.y, to.y) - 45;
      bow = [[ax, top], [bx, top]];
    }
    const g = make("g", { class: "edge" }), base = [end[0] - 7 * point[0], end[1] - 7 * point[1]];
    g.append(make("path", { d: `M${start}C${bow[0]} ${bow[1]} ${base}`, fill: "none", stroke: look.color, "stroke-width": 1.1,
      ...(back ? { "stroke-dasharray": "5,2" } : {}) }));
    g.append(make("polygon", { points: tipped(...end, ...point), fill: look.color }));
    const shown = labels.length > 4 ? [...labels.slice(0, 3), `and ${labels.length - 3} more`] : labels;
    const x = (start[0] + 3 * bow[0][0] + 3 * bow[1][0] + base[0]) / 8, y = (start[1] + 3 * bow[0][1] + 3 * bow[1][1] + base[1]) / 8;
    shown.forEach((label, k) => g.append(make("text", { x, y: y - 4 - 12 * (shown.length - 1 - k), "text-anchor": "middle",
      "font-size": 10, "font-family": look.font, fill: "#3e4c59" }, label)));
    return g;
  };

  const draw = () => {
    const map = laid(), place = (fold, b) => shifted(fold >= 0 ? boxes[fold].small : b, map);
    hide();
    made.replaceChildren();
    for (const { g, inside, box: b } of nodes) {
      g.classList.toggle(HIDDEN, hider(inside) >= 0);
      shift(g, b, map);
    }
    boxes.forEach((one, i) => {
      one.g.classList.toggle(HIDDEN, hider(i) >= 0);
      for (const [path, name, value] of one.drawn) path.setAttribute(name, bend(value, map));
      for (const [text, b] of one.texts) shift(text, b, map);
      const corner = { x: one.box.x + one.box.w - 12, y: one.box.y, w: 0, h: 0 };
      shift(one.g.querySelector(".sign"), corner, map);
      if (!folded.has(i) || hider(i) !== i) return;
      const b = shifted(one.small, map), g = make("g", { class: "shut" }), [shape] = one.drawn[0];
      g.append(make("rect", { x: b.x, y: b.y, width: b.w, height: b.h, rx: 6, fill: shape.getAttribute("fill"), stroke: shape.getAttribute("stroke") }));
      g.append(make("rect", { x: b.x + 3, y: b.y + 3, width: b.w - 6, height: b.h - 6, rx: 4, fill: "none", stroke: shape.getAttribute("stroke") }));
      one.texts.forEach(([text], k) => {
        const copy = text.cloneNode(true);
        copy.removeAttribute("transform");
        for (const [name, value] of [["x", b.x + b.w / 2], ["y", b.y + 17 + 15 * k], ["text-anchor", "middle"]]) copy.setAttribute(name, value);
        g.append(copy);
      });
      const size = `${one.size} ${one.size === 1 ? "part" : "parts"}`;
      g.append(make("text", { x: b.x + b.w / 2, y: b.y + b.h - 10, "text-anchor": "middle", "font-size": 10,
        "font-family": one.texts[0]?.[0].getAttribute("font-family") || "sans-serif", fill: "#52606d" }, size));
      g.append(sign(b.x + b.w - 12, b.y, false));
      say(g, one.facts);
      made.append(button(g, i, `unfold ${one.title}, ${size}`));
    });
    const lines = new Map();
    for (const edge of edges) {
      const [tail, head] = [nodes[edge.tail], nodes[edge.head]], [a, b] = [hider(tail.inside), hider(head.inside)];
      edge.g.classList.toggle(HIDDEN, a >= 0 || b >= 0);
      if (a < 0 && b < 0) {
        for (const [element, name, value, drawn] of edge.drawn)
          if (name === "d") element.setAttribute(name, bend(value, map));
          else shift(element, drawn, map);
        for (const [text, drawn] of edge.texts) shift(text, drawn, map);
      } else if (a !== b) {
        // All arrows that now lead from one place to another are one.
        const name = JSON.stringify([a, b, a < 0 && edge.tail, b < 0 && edge.head, edge.back]);
        if (!lines.has(name)) lines.set(name, { from: place(a, tail.box), to: place(b, head.box), back: edge.back, labels: new Set(),
          look: { color: edge.drawn[0][0].getAttribute("stroke"), font: edge.texts[0]?.[0].getAttribute("font-family") || "sans-serif" } });
        for (const label of edge.labels) lines.get(name).labels.add(label);
      }
    }
    for (const { from, to, back, labels, look } of lines.values()) made.prepend(line(from, to, back, [...labels], look));
    whole = box(root);
    if (!touched) fit();
  };
  const all = (fold) => {
    folded.clear();
    if (fold) boxes.forEach((_, i) => folded.add(i));
    draw();
  };
  const buttons = { in: () => zoom(1 / STEP), out: () => zoom(STEP), fit, fold: () => all(true), unfold: () => all(false) };
  for (const [name, act] of Object.entries(buttons)) document.getElementById(name).addEventListener("click", act);
  document.querySelector("nav").hidden = false;
  if (!boxes.length) for (const name of ["fold", "unfold"]) document.getElementById(name).hidden = true;
  svg.classList.add("live");
  draw();
  fit();
})();
