"""The command line: python -m trainer VERB; `--help` lists the verbs."""

import argparse
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from netsim.foundation.command import WRONG_INPUT, Program
from netsim.foundation.refusal import DiskFull, Refusal
from trainer.command.compare import compare, mixture
from trainer.command.data import encode, encode_captions, encode_text, index_tars, pairs, shards
from trainer.command.draw import edit, generate, restore, sample
from trainer.command.measure import evaluate, fid, steps
from trainer.command.networks import export, features, fit_path, import_features, import_weights
from trainer.command.report import report, trace
from trainer.command.run import check, keys, train
from trainer.config.rules.objection import errors_in
from trainer.config.trust import trusting
from trainer.distributed.process.exit_status import VARIABLE, StartRefused, located, refuse, reported
from trainer.distributed.process.signals import SIGNALS, end_launcher, interruptible

VERBS = (
    train,
    check,
    keys,
    sample,
    edit,
    steps,
    restore,
    evaluate,
    fid,
    compare,
    mixture,
    generate,
    shards,
    encode,
    encode_captions,
    encode_text,
    index_tars,
    features,
    import_features,
    import_weights,
    fit_path,
    pairs,
    export,
    trace,
    report,
)
"""Every verb, in the order of the help."""

PATIENCE_S = 5.0


class Trainer(Program):
    """A command of one rank or of many: one of a node speaks, and the launcher gets to know how it ended."""

    @contextmanager
    def around(self, options: argparse.Namespace) -> Iterator[None]:
        """A verb ends when a signal stops it, and imports only code that is trusted."""
        stopped = partial(_say_stopped, options.verb.name)
        with interruptible(stopped), trusting(folders=getattr(options, "trust_code", False)):
            _refuse_misspelt(options)
            yield

    def exit_code(self, code: int) -> int:
        """Tells the launcher how a rank ended, which else starts it again."""
        if code == WRONG_INPUT:  # of a stage
            end_launcher()
        return reported(code)

    def ending(self, error: BaseException, options: argparse.Namespace) -> tuple[int, str] | None:
        """An error of a value is about the configuration where it names neither file nor option."""
        if isinstance(error, ValueError):
            path = getattr(options, "config", None)
            return WRONG_INPUT, "\n".join(located(one, path) for one in errors_in(error))
        if isinstance(error, ModuleNotFoundError) and options.debug:
            return None
        return super().ending(error, options)

    def say(self, line: str, code: int, error: BaseException | None) -> None:
        """Prints a line; the launcher starts no rank again whose input is wrong."""
        if isinstance(error, DiskFull | OSError):  # may be of this rank alone
            print(line, file=sys.stderr, flush=True)
            return
        _complain(line)
        if code == WRONG_INPUT and error is not None:
            refuse(line)  # ends the other ranks of the node, of which the first one speaks
        if isinstance(error, StartRefused):
            end_launcher()

    def values(self, options: argparse.Namespace) -> Mapping[str, Any]:
        """Options, and the folder of the run where they name a configuration."""
        values = vars(options)
        return {**values, "run_dir": _run_dir(options.config, options.overrides)} if "config" in values else values

    def show_following(self, options: argparse.Namespace) -> None:
        """Prints what to do next, unless the configuration is not what it was when the verb began."""
        with suppress(Refusal):
            super().show_following(options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb.

    Args:
        arguments: command line without the program; None: that of the process.

    Returns:
        0 done, 1 failed, 2 wrong input, 75 stopped and saved. A rank whose launcher asks for an exit status returns 0
        in place of 75, for torchrun would start the ranks of other nodes again.

    Raises:
        SystemExit: stopped by signal N with nothing saved (128 + N).
    """
    warnings.filterwarnings("ignore", module=r"megatron\.")  # one warning for each accelerator library that is absent
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated")  # DeepSpeed's own calls
    return program().main(arguments)


def program() -> Trainer:
    """The program with all verbs."""
    return Trainer(
        "trainer",
        VERBS,
        "Train flow-matching, language and mixture-of-experts models on one or many nodes.",
        "Exit codes: 0 done, 1 failed, 2 wrong input (one line on standard error says what is wrong and what to "
        "write), 75 stopped by Ctrl-C, SIGTERM or SIGUSR2: saved, start it again to resume; "
        "130 (Ctrl-C) or 143 (SIGTERM) stopped with nothing to save. A second Ctrl-C ends at once.",
    )


def _complain(line: str) -> None:
    """Prints a line once a node, on its first rank; the others wait, for torchrun ends all ranks when one ends."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(line, file=sys.stderr)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(WRONG_INPUT))
        time.sleep(PATIENCE_S)


def _say_stopped(verb: str, words: str, number: int) -> None:
    """Prints once that a command was stopped; a launcher that asks for an exit status says so itself."""
    quiet = VARIABLE in os.environ or (number == signal.SIGTERM and "TORCHELASTIC_RUN_ID" in os.environ)
    if os.environ.get("RANK", "0") == "0" and not quiet:
        left = "nothing was saved" if verb == "train" else "it is not finished"
        print(f"trainer {verb}: {words}; {left}", file=sys.stderr, flush=True)


def _refuse_misspelt(options: argparse.Namespace) -> None:
    """Refuses unknown keys of a configuration before a verb imports anything; ranks compare their files first."""
    several_nodes = os.environ.get("WORLD_SIZE", "1") != os.environ.get("LOCAL_WORLD_SIZE", "1")
    if not hasattr(options, "config") or several_nodes:
        return
    from trainer.config.misspelt import check_names  # brings pydantic, which help does without

    try:
        check_names(options.config, options.overrides)
    except ValueError as error:
        raise StartRefused(str(error)) from error


def _run_dir(config: Path, overrides: Sequence[str]) -> object:
    """The folder of a configuration's run."""
    from trainer.config.document import apply_override, read_document

    document = read_document(config)
    for override in overrides:
        if override.startswith("run."):
            apply_override(config, document, override)
    run = document.get("run")
    return run.get("dir") if isinstance(run, dict) else None


if __name__ == "__main__":
    ended_with = main()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)  # all is said: what comes now ends the process without words
    sys.exit(ended_with)
