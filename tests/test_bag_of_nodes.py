"""The nodes of a Problem are a bag: in whatever order they are declared, the results are the same, to the bit."""

from __future__ import annotations

import random

import networkx as nx
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slimgraph import Node, PenaltyLoss, Problem, wiring
from slimgraph.wiring import order

BATCH = {"a": torch.tensor([0.3, -1.7]), "b": torch.tensor([1.1, 0.4])}


class Mix:
    """A function whose result changes with the order of what it is given, and with the node that it is in."""

    def __init__(self, number, results):
        self.number, self.results = number, results

    def __call__(self, *values, **named):
        total = torch.tensor(float(self.number))
        for value in (*values, *named.values()):
            total = torch.sin(3 * total + value)
        return tuple(total + i for i in range(self.results))


def acyclic(size, seed):
    """Nodes n0, n1, ... of which each reads some of the keys before it, and a shuffle of them."""
    # One seed instead of a draw for each choice: a thousand graphs in seconds.
    chance, nodes, known = random.Random(seed), [], list(BATCH)
    for i in range(size):
        reads = chance.sample(known, chance.randint(1, min(3, len(known))))
        writes = [f"k{i}", "_", f"l{i}"][: chance.randint(1, 3)]
        inputs = {key: f"v{place}" for place, key in enumerate(reads)} if chance.random() < 0.5 else reads
        nodes.append(Node(Mix(i, len(writes)), inputs, writes, name=f"n{i}"))
        known += nodes[-1].output_keys
    return nodes, chance.sample(nodes, size)


graphs = st.builds(acyclic, st.integers(1, 7), st.integers(0, 2**32))


def first_by_declaration(nodes):
    """Of the orders in which nodes follow the writers of what they read, the one first by declared places."""
    writer = {key: place for place, node in enumerate(nodes) for key in node.output_keys}
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(nodes)))
    graph.add_edges_from((writer[k], i) for i, node in enumerate(nodes) for k in node.input_keys if k in writer)
    return list(nx.lexicographical_topological_sort(graph))


@settings(max_examples=1000, deadline=None)
@given(graphs)
def test_any_order_of_declaration_gives_the_same_results_to_the_bit(bag):
    nodes, shuffled = bag
    expected = dict(BATCH)
    for node in nodes:
        expected |= node(expected)
    problem = Problem(shuffled, PenaltyLoss())
    result = problem.step(BATCH)
    assert result.keys() == expected.keys()
    assert all(torch.equal(result[key], value) for key, value in expected.items())
    assert problem.run_order == [shuffled[place] for place in first_by_declaration(shuffled)]


@settings(max_examples=60, deadline=None)
@given(graphs)
def test_the_same_bag_declared_twice_has_one_plan(bag):
    _, shuffled = bag
    plan = order(shuffled)
    assert order(shuffled) == plan
    planned = [shuffled[place] for place in plan]
    # What is declared as it runs, runs as it is declared.
    assert order(planned) == list(range(len(planned)))
    assert wiring.read_first(planned) == [
        key for key in dict.fromkeys(k for node in planned for k in node.input_keys) if key in BATCH
    ]
