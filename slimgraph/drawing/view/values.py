"""Values: what a report says of each term, written into its box; constraints that are violated look different."""

from __future__ import annotations

from typing import Any

from slimgraph.drawing.form import View
from slimgraph.errors import OptionError
from slimgraph.report import Report


def write_values(form: View, x: Any, report: Any) -> None:
    """Writes the numbers of `report`, from `problem.report(data)`, into the terms of the problem `x`.

    Raises OptionError for what is no report, for what is no problem, and for the report of another problem.
    """
    if not isinstance(report, Report):
        raise OptionError(f"values takes what problem.report(data) gives; got {type(report).__name__}")
    loss = getattr(x, "loss", None)
    if loss is None:
        raise OptionError(f"values are told of a Problem, whose loss has terms; got {type(x).__name__}")
    names = loss.names()[len(loss.objectives) :]
    ours = {name: str(c) for name, c in zip(names, loss.constraints, strict=True)}
    ours |= dict.fromkeys(loss.names()[: len(loss.objectives)], "objective")
    theirs = {c.name: c.text for c in report.constraints} | dict.fromkeys(report.objectives, "objective")
    if ours != theirs:
        odd = next(name for name in {**theirs, **ours} if ours.get(name) != theirs.get(name))
        raise OptionError(
            f"values is the report of another problem: {odd!r} is {_text(theirs, odd)} there, {_text(ours, odd)} here"
        )
    constraints = {c.name: c for c in report.constraints}
    for number, name in enumerate(loss.names()):
        look = form.nodes[f"term:{number}"]
        if name not in constraints:
            look["label"] += f"\n= {report.objectives[name]:.4g}"
        elif constraints[name].satisfied < 1:
            look["kind"] = "violated"
            share, most = 100 * (1 - constraints[name].satisfied), constraints[name].max_violation
            look["label"] += f"\nviolated in {share:.3g} %\nby up to {most:.3g}"
        else:
            look["label"] += "\nheld"
    if "reg_error" in form and report.reg_errors:
        form.nodes["reg_error"]["label"] += f"\n= {x.reg_weight * sum(report.reg_errors.values()):.4g}"


def _text(terms: dict[str, str], name: str) -> str:
    text = terms.get(name)
    return "not" if text is None else text if text == "objective" else repr(text)
