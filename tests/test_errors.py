"""The hint to a mistyped name, and the signatures that a user reads."""

from __future__ import annotations

import inspect

import pytest

from slimgraph import AugmentedLagrangeLoss, System, blocks, slim
from slimgraph.data import Normalizer
from slimgraph.errors import nearest


@pytest.mark.parametrize("cls", [AugmentedLagrangeLoss, System, Normalizer, blocks.MLP, slim.SVDLinear])
def test_help_shows_what_the_constructor_takes(cls):
    shown = inspect.signature(cls).parameters
    assert list(shown) == list(inspect.signature(cls.__init__).parameters)[1:]
    assert not {"args", "options"} & set(shown)


def test_case_decides_only_between_names_that_are_equally_like():
    assert nearest("X", ["x", "u"]) == "x"
    assert nearest("relu", ["ELU", "ReLU", "SELU"]) == "ReLU"
    assert nearest("Ab", ["ab", "Ab"]) == "Ab"
    assert nearest("q", ["x"]) is None
