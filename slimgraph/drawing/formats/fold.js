// Folds the boxes of the diagram that page.js has read: what is inside goes, its arrows lead to the box, and the room it
// took is taken out.

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
