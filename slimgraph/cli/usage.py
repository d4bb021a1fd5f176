"""Wrong usage in a user's words: what argparse and jsonargparse say, made short, with the nearest name."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from slimgraph.errors import OptionError, did_you_mean

WORDS = {
    "NoneType": "null",
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "Mapping": "fields with values",
}


class Parser(argparse.ArgumentParser):
    """A parser that raises OptionError where argparse would end the program."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise OptionError(plain(message, options_of(self)))


def options_of(parser: argparse.ArgumentParser) -> list[str]:
    """Every option of the parser and of its commands, with the dashes."""
    found: dict[str, None] = {}
    for action in parser._actions:
        found |= dict.fromkeys(action.option_strings)
        for command in action.choices.values() if isinstance(action.choices, Mapping) else ():
            found |= dict.fromkeys(options_of(command))
    return list(found)


def plain(message: str, known: Iterable[str] = ()) -> str:
    """The message of a parser as one sentence, with the nearest of the `known` options and classes.

    >>> plain("unrecognized arguments: --model.lrr 0.1", ["--model.lr", "--seed"])
    "there is no option '--model.lrr'. Did you mean '--model.lr'?"
    >>> plain("Subcommand 'fit' does not accept option 'model.lrr'", ["--model.lr", "--seed"])
    "fit has no field 'model.lrr'. Did you mean 'model.lr'?"
    """
    known = list(known)
    if found := re.match(r"unrecognized arguments: ([^\s=]*)", message):
        if found[1].endswith((".yaml", ".yml")):
            return f"{found[1]!r} stands alone; a configuration file is given as -c {found[1]}"
        return f"there is no option {found[1]!r}.{did_you_mean(found[1], known)}"
    if found := re.match(r"Subcommand '(.*?)' does not accept option '(.*?)'", message):
        return f"{found[1]} has no field {found[2]!r}.{did_you_mean(found[2], (name.lstrip('-') for name in known))}"
    if found := re.match(r"the following arguments are required: (\w+)\.(.*)", message):
        return f"{found[1]} needs {found[2]}; give it in the file of -c, or as --{found[2]}"
    if found := re.match(r'Parser key "(.+?)":\s*(.*)', message, re.DOTALL):
        return f"{found[1]}{_wrong_value(found[2], known)}"
    return message.strip()


def _wrong_value(said: str, known: Iterable[str]) -> str:
    """The end of the sentence about a field whose value fits none of the types that it may have.

    jsonargparse lists what it found wrong with each of them.
    """
    tried, _, got = said.partition("Given value:")
    faults = [" ".join(fault.split()) for fault in re.split(r"\n\s*- ", tried.partition("Errors:")[2])[1:]]
    needed: list[str] = []
    for fault in faults:
        if found := re.match(r"Problem with given class_path '(.*?)': (.*?)( Given value type.*)?$", fault):
            return f": {_of_class(found[1], found[2])}"
        if found := re.match(r"Expected a dot import path string: (\S+)", fault):
            return f": there is no class {found[1]!r}.{did_you_mean(found[1], known)}"
        if found := re.match(r"Expected a (?:<class '(?:\w+\.)*(\w+)'>|typing\.Literal\[(.*)\])", fault):
            needed.append(WORDS.get(found[1], found[1]) if found[1] else found[2])
    if needed and got:
        return f" needs {' or '.join(dict.fromkeys(needed))}, got {got.strip()!r}"
    return f": {' '.join(said.split())}"


def _of_class(path: str, said: str) -> str:
    """What is wrong with a class or its options, with the nearest of those that there are."""
    module, _, name = path.rpartition(".")
    holder = sys.modules.get(module)
    if found := re.match(r"Option '(.*?)' is not accepted", said):
        known = inspect.signature(getattr(holder, name)).parameters if hasattr(holder, name) else ()
        return f"{name} has no option {found[1]!r}.{did_you_mean(found[1], known)}"
    if "has no attribute" in said and holder is not None:
        return f"{said}.{did_you_mean(name, vars(holder))}"
    return said
