// Pans and zooms the one diagram of a page and tells its facts; without a script the picture stands as it is.

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
window.addEventListener("resize", () => {
  hide();
  if (!touched) fit();
});
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
