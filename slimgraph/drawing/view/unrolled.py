"""Unrolling: the nodes of a System drawn once for each of its first steps, with the states handed on."""

from __future__ import annotations

from typing import Any

from slimgraph.drawing.form import View
from slimgraph.drawing.view.choice import Choice
from slimgraph.errors import OptionError


def unroll_systems(form: View, steps: int, depth: int | None, collapsed: Choice) -> View:
    """`form` with `steps` copies of every open System, fewer where it runs fewer; "..." stands for the other steps.

    Raises OptionError where no System is open.
    """
    boxes = form.graph["boxes"]
    paths = [path for path, about in boxes.items() if getattr(about.get("part"), "kind", "") == "system"]
    outermost = [path for path in paths if not any(path[: len(other)] == other for other in paths if other != path)]
    seen = [path for path in outermost if depth is None or len(path) <= depth]
    open_ones = [p for p in seen if not collapsed.holds((boxes[p]["title"], p[-1]), boxes[p]["part"])]
    if not open_ones:
        raise OptionError(f"unroll={steps} needs a System that is drawn open; there is none in the picture")
    for path in open_ones:
        form = _Unrolled(form, path, boxes[path]["part"], steps).result
    return form


class _Unrolled:
    """The copies of one System, in the box `path`, in the making."""

    def __init__(self, form: View, path: tuple[str, ...], system: Any, steps: int) -> None:
        self.form, self.path, self.system = form, path, system
        self.steps = steps if system.nsteps is None else min(steps, system.nsteps)
        self.goes_on = system.nsteps is None or system.nsteps > steps
        self.inside = {p for p, a in form.nodes(data=True) if a["cluster"][: len(path)] == path}
        self.result = View()
        self.result.graph.update(form.graph)
        self.result.graph["boxes"] = dict(form.graph["boxes"])
        self.more = self._new(f"{'/'.join(path)}/...")
        placed = False
        for place, attributes in form.nodes(data=True):
            if place not in self.inside:
                self.result.add_node(place, **attributes)
            elif not placed:
                placed = True
                self._add_steps()
        for tail, head, key, about in form.edges(keys=True, data=True):
            self._add_edge(tail, head, key, about)
        self._drop_idle()
        self.result.graph["order"] = [*self.form.graph.get("order", ()), *self._in_a_row()]

    def _add_steps(self) -> None:
        boxes = self.result.graph["boxes"]
        for step in range(self.steps):
            word = f"step {step}"
            boxes[*self.path, word] = {"title": word}
            for place, attributes in self.form.nodes(data=True):
                if place in self.inside:
                    cluster = (*self.path, word, *attributes["cluster"][len(self.path) :])
                    self.result.add_node(self._at(place, step), **{**attributes, "cluster": cluster})
        for path, about in self.form.graph["boxes"].items():
            if path[: len(self.path)] == self.path and path != self.path:
                for step in range(self.steps):
                    boxes[*self.path, f"step {step}", *path[len(self.path) :]] = about
        if self.goes_on:
            self.result.add_node(self.more, kind="more", label="...", cluster=self.path)

    def _in_a_row(self) -> list[tuple[str, str]]:
        """What hands a state on stands before everything of the next step, or the steps would climb like stairs."""
        tails = {t for t, h, fed in self.form.edges(data="feedback") if fed and {t, h} <= self.inside}
        words = {(*self.path, f"step {step}"): step for step in range(1, self.steps)}
        found = []
        for place, attributes in self.result.nodes(data=True):
            step = words.get(attributes["cluster"][: len(self.path) + 1])
            if step and not self.result.in_degree(place):
                found += [(self._at(tail, step - 1), place) for tail in sorted(tails)]
        return found

    def _at(self, place: Any, step: int) -> str:
        return self._new(f"{place}@{step}")

    def _new(self, name: str) -> str:
        """`name` as the id of a new node: any key or node may be called so already."""
        while name in self.form:
            name += "'"
        return name

    def _add_edge(self, tail: Any, head: Any, key: Any, about: dict[str, Any]) -> None:
        entry = _entry(about)
        if tail in self.inside and head in self.inside:
            self._hand_on(tail, head, key, entry)
        elif head in self.inside:
            self._read(tail, head, key, about, entry)
        elif tail in self.inside:
            self._give(tail, head, key, about, entry)
        else:
            self.result.add_edge(tail, head, key, **about)

    def _hand_on(self, tail: Any, head: Any, key: Any, entry: dict[str, Any]) -> None:
        feedback = entry.pop("feedback", False)
        for step in range(self.steps):
            if not feedback:
                self.result.add_edge(self._at(tail, step), self._at(head, step), key, **entry)
            elif step + 1 < self.steps:
                self.result.add_edge(self._at(tail, step), self._at(head, step + 1), key, **entry)
            elif self.goes_on:
                self.result.add_edge(self._at(tail, step), self.more, key, **entry)

    def _read(self, tail: Any, head: Any, key: Any, about: dict[str, Any], entry: dict[str, Any]) -> None:
        if about.get("own", key) in self.system.written:
            # A start: the later steps have it from the one before.
            self.result.add_edge(tail, self._at(head, 0), key, **entry)
            return
        source = self.form.nodes[tail]
        part = self.form.nodes[head].get("part")
        ahead = self.system.entries_ahead(about.get("own", key), part)
        for step in range(self.steps):
            if source.get("kind") == "data":
                # Each step has its own entry beside it, so that no arrow runs along the whole series.
                entries = f"{step}" if ahead == 1 else f"{step}:{step + ahead}"
                place, box = self._new(f"{tail}@{entries}"), (*self.path, f"step {step}")
                self.result.add_node(place, kind="data", label=f"{source['label']}[{entries}]", cluster=box)
                self.result.add_edge(place, self._at(head, step), "", **entry)
            else:
                self.result.add_edge(tail, self._at(head, step), key, **entry)

    def _give(self, tail: Any, head: Any, key: Any, about: dict[str, Any], entry: dict[str, Any]) -> None:
        if key == "":
            # A map adds its reg_error once, not once a step.
            self.result.add_edge(self._at(tail, self.steps - 1), head, key, **about)
            return
        series = f"{tail}:{key}"
        if self.form.nodes[head].get("kind") == "data":
            series = head
        elif series not in self.result:
            self.result.add_node(series, kind="data", label=str(key), cluster=self.path[:-1])
        if series != head:
            self.result.add_edge(series, head, key, **about)
        for step in range(self.steps):
            self.result.add_edge(self._at(tail, step), series, key, **entry)
        if self.goes_on:
            self.result.add_edge(self.more, series, key)

    def _drop_idle(self) -> None:
        """Data that only the steps read stand there as their entries."""
        for place, attributes in self.form.nodes(data=True):
            if attributes.get("kind") == "data" and not self.result.degree(place):
                self.result.remove_node(place)


def _entry(about: dict[str, Any]) -> dict[str, Any]:
    """What is known of one entry of a series."""
    shape = about.get("shape")
    return dict(about) if shape is None or len(shape) < 3 else {**about, "shape": (shape[0], *shape[2:])}
