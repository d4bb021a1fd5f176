"""A problem as a graph: data, nodes, terms, loss and the flow of reg_error."""

from __future__ import annotations

from typing import Any

from slimgraph import wiring
from slimgraph.slim import reg_error_terms
from slimgraph.system import System


def to_networkx(problem: Any) -> Any:
    """What `Problem.to_networkx` does."""
    graph = wiring.to_networkx(problem.run_order, problem.loss.terms, problem.loss.names(), problem.labels)
    graph.add_node("loss", kind="loss", label=type(problem.loss).__name__, part=problem.loss)
    for number in range(len(problem.loss.terms)):
        graph.add_edge(f"term:{number}", "loss", key="")
    if not problem.regularised:
        return graph
    kinds = ", ".join(sorted({type(module).__name__ for _, module in problem.regularised}))
    factor = "" if problem.reg_weight == 1 else f"{problem.reg_weight:g} * "
    graph.add_node("reg_error", kind="reg_error", label=f"{factor}reg_error of {kinds}")
    graph.add_edge("reg_error", "loss", key="")
    for label, node in zip(problem.labels, problem.run_order, strict=True):
        for place, part in _drawn(label, node):
            if reg_error_terms(part):
                graph.add_edge(place, "reg_error", key="")
    return graph


def _drawn(label: str, node: Any) -> list[tuple[str, Any]]:
    """What stands for a node, each part with its id in the graph; a System is drawn open, as its own nodes."""
    if isinstance(node, System):
        return list(zip(node.places(node.name or label), node.nodes, strict=True))
    return [(f"node:{label}", node)]
