"""`slimgraph`: which command it is, and how it ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from slimgraph.cli import look
from slimgraph.cli.ending import DONE, FAILED, INTERRUPTED, tell
from slimgraph.cli.named import current_folder_on_path
from slimgraph.cli.usage import Parser
from slimgraph.errors import OptionError, did_you_mean

TRAINING = {
    "fit": "train a problem by a configuration file",
    "validate": "its losses on the validation data",
    "test": "its losses on the test data",
    "predict": "what its nodes give for new data, into a file",
}
LOOKING = {
    "check": "what is wrong with a problem or its data, before training",
    "draw": "the diagram of a problem or a part of one",
    "diff": "in what two diagrams differ",
}
CODES = "exit codes: 0 done; 1 failed, a problem found, diagrams that differ; 2 wrong usage; 130 interrupted"


def main(given: Sequence[str] | None = None) -> int:
    """Runs `slimgraph` with these arguments, those of the process where none are given, and returns the exit code.

    What goes wrong is one line on standard error; `--debug`, anywhere, shows the traceback.

    >>> main(["draw", "slimgraph.slim:IdentityLinear", "--args", "insize=1", "outsize=1", "--format", "mermaid"])
    flowchart LR
    ...
    0
    """
    given = list(sys.argv[1:] if given is None else given)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    with current_folder_on_path():
        try:
            return _run(given)
        except KeyboardInterrupt:
            return INTERRUPTED
        except SystemExit as end:
            return _code(end)
        except Exception as error:  # noqa: BLE001  # Here the program ends, and every error is told.
            return tell(error, debug=debug)


def _run(given: list[str]) -> int:
    command = given[0] if given else "--help"
    if command in TRAINING:
        # LightningCLI has parsers of its own, and takes five seconds to open.
        return import_module("slimgraph.cli.train").run(given)
    if not command.startswith("-") and command not in LOOKING:
        known = [*TRAINING, *LOOKING]
        raise OptionError(f"slimgraph has no command {command!r}.{did_you_mean(command, known)} It has {known}.")
    return look.run(_parser().parse_args(given or [command]))


def _parser() -> Parser:
    parser = Parser(
        prog="slimgraph", epilog=f"{CODES}. --debug shows tracebacks; slimgraph COMMAND --help says more of a command."
    )
    version = import_module("slimgraph").__version__
    parser.add_argument("--version", action="version", version=f"slimgraph {version}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, text in TRAINING.items():
        commands.add_parser(command, help=text)
    for command, text in LOOKING.items():
        look.add_arguments(command, commands.add_parser(command, help=text, description=text))
    return parser


def _code(end: SystemExit) -> int:
    """The exit code of what ends a program by itself: --help, Lightning after a signal, a user's sys.exit."""
    if isinstance(end.__context__, KeyboardInterrupt):
        # Lightning has put things away and ended with 1.
        return INTERRUPTED
    if end.code is None or isinstance(end.code, int):
        return end.code or DONE
    sys.stderr.write(f"slimgraph: error: {end.code}\n")
    return FAILED
