"""What is done to a problem without training it: `check`, `draw`, `diff`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from slimgraph.cli.ending import DONE, FAILED, WRONG_USAGE, ending
from slimgraph.cli.named import arguments, maker, read_config, training_set
from slimgraph.cli.predictions import refuse_path
from slimgraph.doors import open_door
from slimgraph.errors import OptionError

PATH = "module:function"
DRAW_OPTIONS = ("depth", "unroll", "only", "collapse", "inside")


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Gives the parser of one of the commands its options."""
    {"check": _add_check, "draw": _add_draw, "diff": _add_diff}[command](parser)


def run(given: argparse.Namespace) -> int:
    """Runs the command that was given and returns its exit code."""
    return {"check": _check, "draw": _draw, "diff": _diff}[given.command](given)


# ---- check


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("problem", nargs="?", metavar=PATH, help="what makes the problem")
    parser.add_argument("-c", "--config", metavar="FILE", help="take problem and data from a configuration file")
    parser.add_argument("--args", nargs="+", default=[], metavar="KEY=VALUE", help="its arguments, or a JSON object")
    parser.add_argument("--data", metavar=PATH, help="what makes the data, or one batch: a dict of tensors")
    parser.add_argument("--data-args", nargs="+", default=[], metavar="KEY=VALUE", help="the arguments of --data")
    parser.add_argument("--allow-unused", action="store_true", help="let parameters be that the loss does not reach")


def _check(given: argparse.Namespace) -> int:
    config = read_config(given.config) if given.config else {}
    model, data = _section(config, "model"), _section(config, "data")
    path, data_path = given.problem or model.get("problem"), given.data or data.get("setup_function")
    # The arguments of a file belong to the function that it names.
    problem_args = {} if given.problem else dict(model.get("problem_args") or {})
    data_args = {} if given.data else dict(data.get("setup_args") or {})
    if not path:
        raise OptionError(f"check needs {PATH}, or -c FILE with model.problem")
    problem_args |= arguments(given.args)
    data_args |= arguments(given.data_args)
    make, make_data = maker(path, problem_args), maker(data_path, data_args) if data_path else None
    with ending(FAILED):
        problem = make()
        if not hasattr(problem, "check"):
            raise OptionError(f"{path!r} gave a {type(problem).__name__}; check takes a Problem")
        if make_data is None:
            found = f"{problem}\nNo data were given: only the wiring was checked."
        else:
            found = problem.check(training_set(make_data()), allow_unused=given.allow_unused)
        sys.stdout.write(f"{found}\n")
    return DONE


def _section(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name) or {}
    if not isinstance(section, dict):
        raise OptionError(f"section {name!r} of the configuration is {section!r}; it holds fields")
    return section


# ---- draw and diff


def _add_draw(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("thing", metavar=PATH, help="what makes the thing that has a graph: a problem, a node, a map")
    parser.add_argument("--args", nargs="+", default=[], metavar="KEY=VALUE", help="its arguments, or a JSON object")
    parser.add_argument("-o", "--output", metavar="FILE", help="the picture; its ending is the format")
    parser.add_argument("--format", choices=("dot", "mermaid"), help="the text that is printed without -o (dot)")
    parser.add_argument("--depth", type=int, help="how many levels of boxes are opened")
    parser.add_argument("--unroll", type=int, help="how many steps of a System are drawn beside each other")
    parser.add_argument("--only", nargs="+", metavar="KEY", help="only what leads to these keys or terms")
    parser.add_argument("--collapse", nargs="+", metavar="NAME", help="boxes that are drawn as one shape")
    parser.add_argument("--inside", nargs="*", metavar="NAME", help="nodes whose inside is opened; all without a name")


def _draw(given: argparse.Namespace) -> int:
    if given.output and given.format:
        raise OptionError("--format is for text on standard output; with -o the ending of the file is the format")
    drawing = open_door("drawing")
    if given.output:
        refuse_path(given.output, drawing.ENDINGS)
    thing = maker(given.thing, arguments(given.args))()
    options = {name: value for name in DRAW_OPTIONS if (value := getattr(given, name)) is not None}
    if given.inside == []:
        options["inside"] = True
    picture = drawing.draw(thing, given.output, **options)
    sys.stdout.write(f"{given.output}\n" if given.output else getattr(picture, given.format or "dot"))
    return DONE


def _add_diff(parser: argparse.ArgumentParser) -> None:
    for name in "ab":
        parser.add_argument(name, metavar=name.upper(), help=f"{PATH} of the {'second' if name == 'b' else 'first'}")
    for name in "ab":
        parser.add_argument(f"--args-{name}", nargs="+", default=[], metavar="KEY=VALUE", help=f"for {name.upper()}")
    parser.add_argument("-o", "--output", metavar="FILE", help="the differences as a picture")


def _diff(given: argparse.Namespace) -> int:
    # As diff has it: 1 says that they differ, so that trouble is 2.
    with ending(WRONG_USAGE):
        one, other = maker(given.a, arguments(given.args_a))(), maker(given.b, arguments(given.args_b))()
        difference = open_door("drawing").diff(one, other)
        if given.output:
            difference.save(given.output)
        sys.stdout.write(f"{difference}\n")
    return FAILED if difference else DONE
