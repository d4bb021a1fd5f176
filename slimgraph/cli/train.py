"""`slimgraph fit | validate | test | predict`: LightningCLI over LitProblem and LitDataModule."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, TextIO

import lightning
from lightning.pytorch.callbacks import Callback, Checkpoint, ProgressBar, RichProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger

from slimgraph.cli.ending import DONE
from slimgraph.cli.predictions import Predictions, refuse_path
from slimgraph.cli.usage import options_of, plain
from slimgraph.errors import Advice, MissingFileError, OptionError
from slimgraph.training import FitProgress, LitDataModule, LitProblem
from slimgraph.training.checkpoint import CheckpointFiles

# What ckpt_path may be beside the path of a file, see lightning.Trainer.fit.
CHOSEN_BY_LIGHTNING = ("best", "last", "hpc", "registry")
OUTPUTS = {"fit": "FILE.ckpt for the checkpoint at the end", "predict": "FILE.npz or FILE.pt for what comes out"}


def run(given: list[str]) -> int:
    """Runs one of the four commands; `given` begins with its name."""
    with _plain_warnings():
        Training(given)
    return DONE


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Inside, Advice is a line of ours; Lightning recommends no other products and does not warn of its own code."""
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")

    def is_no_tip(record: logging.LogRecord) -> bool:
        return "Tip:" not in record.getMessage()

    log.addFilter(is_no_tip)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec")
            others = warnings.showwarning

            def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
                # The place would be the script that pip wrote, which tells a user nothing.
                if issubclass(category, Advice):
                    sys.stderr.write(f"slimgraph: advice: {message}\n")
                else:
                    others(message, category, *place)

            warnings.showwarning = show
            yield
    finally:
        log.removeFilter(is_no_tip)


def _kinds(base: type) -> Iterator[type]:
    """The classes below `base` that are imported: those that a configuration may name without their path."""
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)


class ConfigParser(LightningArgumentParser):
    """Lightning's parser; wrong usage is an OptionError."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            # A parser within tries one of the types that a value may have.
            super().error(message, ex)
        raise OptionError(message) from ex


class LastCheckpoint(Callback):
    """Writes one checkpoint at the end of a fit, of the weights that the callbacks before it left."""

    def __init__(self, path: str):
        self.path = path

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # Within the fit: a process that spawned others has no trainer to save from afterwards.
        trainer.save_checkpoint(self.path, weights_only=False)
        if trainer.is_global_zero:
            sys.stdout.write(f"{self.path}\n")

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        # An error has its own line; after a signal nothing else would say that the file is missing.
        if trainer.is_global_zero and isinstance(exception, SystemExit | KeyboardInterrupt):
            sys.stderr.write(f"slimgraph: the fit was stopped; {self.path} was not written\n")


class Training(LightningCLI):
    """LightningCLI with defaults of its own: nothing is written that was not asked for, and the seed is 0.

    There is no logger and no checkpoint but those that the configuration names; where it names a logger, a fit leaves
    its whole configuration beside the logs.
    """

    def __init__(self, given: list[str]):
        self.command = given[0]
        version = import_module("slimgraph").__version__
        header = [f"slimgraph=={version}, lightning=={lightning.__version__}"]
        super().__init__(
            LitProblem,
            LitDataModule,
            trainer_defaults={"logger": False},
            seed_everything_default=0,
            save_config_callback=None,
            parser_class=ConfigParser,
            parser_kwargs={
                "prog": "slimgraph",
                "allow_abbrev": False,
                self.command: {"allow_abbrev": False, "dump_header": header},
            },
            args=given,
            auto_configure_optimizers=False,
            # A checkpoint of LitProblem holds what it is made of, and loads without a command line.
            load_from_checkpoint_support=False,
        )

    # ---- what is asked for

    def subcommands(self) -> dict[str, set[str]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The one command that is run: each of them has a parser of a hundred options, which takes time to make."""
        return {self.command: LightningCLI.subcommands()[self.command]}

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **options: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **options)
        if subcommand in OUTPUTS:
            parser.add_argument("--output", type=str | None, default=None, help=OUTPUTS[subcommand])
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        try:
            self.config = parser.parse_args(args)  # pyright: ignore[reportArgumentType]
        except OptionError as error:
            classes = [each.__name__ for base in (Callback, Logger) for each in _kinds(base)]
            raise OptionError(plain(str(error), [*options_of(parser), *classes])) from error

    def _parse_ckpt_path(self) -> None:
        """Fills in what only the checkpoint says; where the configuration differs, it wins, and that is told."""
        command = self.config.subcommand
        path, model = self.config[command].get("ckpt_path"), self.config[command].model
        if path is None or path in CHOSEN_BY_LIGHTNING or "://" in path:
            return
        if not Path(path).exists():
            raise MissingFileError(f"ckpt_path: there is no checkpoint {path!r}")
        if Path(path).is_dir():
            return
        stored = CheckpointFiles().load_checkpoint(path, weights_only=True).get("hyper_parameters", {})
        defaults = self._parser(command).get_defaults().model
        for key, value in stored.items():
            if key not in model or value == (model[key] or defaults[key]):
                continue
            if model[key] == defaults[key]:
                model[key] = value
            else:
                sys.stderr.write(
                    f"slimgraph: {path} was made with model.{key} {value!r}, this run has {model[key]!r}\n"
                )

    def before_instantiate_classes(self) -> None:
        given = self.config[self.config.subcommand]
        if not any(given.data[name] for name in ("setup_function", "train", "val", "test", "predict")):
            raise OptionError(
                f"{self.config.subcommand} needs data.setup_function; give it in the file of -c, or as"
                " --data.setup_function"
            )

    # ---- what is made of it

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> lightning.Trainer:
        named = config["callbacks"] or []
        named = list(named) if isinstance(named, list) else [named]
        if config["enable_checkpointing"] is None:
            config["enable_checkpointing"] = any(isinstance(callback, Checkpoint) for callback in named)
        # Without a word Lightning would take null for "make a logger".
        config["logger"] = config["logger"] or False
        if config["logger"] and self.subcommand == "fit":
            self.save_config_callback = SaveConfigCallback
        last = [LastCheckpoint(self.output)] if self.subcommand == "fit" and self.output else []
        config["callbacks"] = [*named, *last, *self._bar(config, named)]
        return super()._instantiate_trainer(config, callbacks)

    def _bar(self, config: dict[str, Any], named: list[Callback]) -> list[Callback]:
        if config["barebones"] or any(isinstance(callback, ProgressBar) for callback in named):
            return []
        if self.subcommand == "fit":
            # Where there is no terminal it writes one line at the end.
            return [] if config["enable_progress_bar"] is False else [FitProgress()]
        if config["enable_progress_bar"] is None:
            config["enable_progress_bar"] = sys.stdout.isatty()
        return [RichProgressBar()] if config["enable_progress_bar"] else []

    # ---- what comes out

    @property
    def output(self) -> str | None:
        """The file that `--output` names."""
        return self._get(self.config_init, "output")

    def before_fit(self) -> None:
        if self.output is not None:
            refuse_path(self.output, (".ckpt",))
        elif not (self.trainer.checkpoint_callbacks or self.trainer.fast_dev_run):  # pyright: ignore[reportAttributeAccessIssue]
            self._say("nothing will keep what this fit learns; add --output FILE.ckpt or a ModelCheckpoint", sys.stderr)

    def before_predict(self) -> None:
        if self.output is not None:
            refuse_path(self.output, Predictions.ENDINGS)
            if (world := self.trainer.world_size) > 1:
                raise OptionError(f"--output takes the predictions of one device, not {world}; add --trainer.devices 1")

    def predict(self, **options: Any) -> None:
        """Predicts, says what came out, and writes it to the file of `--output`."""
        batches: Any = self.trainer.predict(**options)
        if batches is None:
            # Asked for by --return_predictions false, and spawned processes give none.
            return self._say("predicted; nothing was handed back")
        predictions = Predictions(self.model.problem, batches)
        if self.output is not None:
            predictions.save(self.output)
        part = "" if self.trainer.world_size == 1 else f" on the first of {self.trainer.world_size} devices"
        self._say(f"{predictions}{part}{'' if self.output is None else f', in {self.output}'}")

    def _say(self, text: str, stream: TextIO | None = None) -> None:
        if self.trainer.is_global_zero:
            (stream or sys.stdout).write(f"{'slimgraph: ' if stream else ''}{text}\n")
