"""The command line: python -m trainer VERB; `--help` lists the verbs."""

import argparse
import os
import re
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from functools import partial
from typing import NoReturn

from netsim.foundation.files import is_full
from netsim.foundation.refusal import DiskFull, Failure
from trainer.command.check import CHECK
from trainer.command.compare import COMPARE
from trainer.command.edit import EDIT
from trainer.command.encode import ENCODE
from trainer.command.encode_captions import ENCODE_CAPTIONS
from trainer.command.encode_text import ENCODE_TEXT
from trainer.command.evaluate import EVALUATE
from trainer.command.export import EXPORT
from trainer.command.features import FEATURES
from trainer.command.fid import FID
from trainer.command.fit_path import FIT_PATH
from trainer.command.generate import GENERATE
from trainer.command.import_features import IMPORT_FEATURES
from trainer.command.import_weights import IMPORT_WEIGHTS
from trainer.command.index_tars import INDEX_TARS
from trainer.command.keys import KEYS
from trainer.command.pairs import PAIRS
from trainer.command.report import REPORT
from trainer.command.restore import RESTORE
from trainer.command.sample import SAMPLE
from trainer.command.shards import SHARDS
from trainer.command.steps import STEPS
from trainer.command.trace import TRACE
from trainer.command.train import TRAIN
from trainer.command.verb import refuse_misspelt
from trainer.config.rules.objection import errors_in
from trainer.config.trust import trusting
from trainer.distributed.process.interrupt import interruptible
from trainer.distributed.process.launcher import end_launcher
from trainer.distributed.process.stop import SIGNALS
from trainer.distributed.process.verdict import VARIABLE, refuse, reported
from trainer.distributed.refusal import StartRefused, located

VERBS = (
    TRAIN,
    CHECK,
    KEYS,
    SAMPLE,
    EDIT,
    STEPS,
    RESTORE,
    EVALUATE,
    FID,
    COMPARE,
    GENERATE,
    SHARDS,
    ENCODE,
    ENCODE_CAPTIONS,
    ENCODE_TEXT,
    INDEX_TARS,
    FEATURES,
    IMPORT_FEATURES,
    IMPORT_WEIGHTS,
    FIT_PATH,
    PAIRS,
    EXPORT,
    TRACE,
    REPORT,
)
"""Every verb, in the order of the help."""

PATIENCE_S = 5.0
WRONG_INPUT = 2


class _Parser(argparse.ArgumentParser):
    """Wrong arguments are wrong input: one line, not a usage text."""

    def error(self, message: str) -> NoReturn:
        _complain(f"{self.prog.removeprefix('python -m ')}: {_of_a_verb(message)}; see {self.prog} --help")
        raise SystemExit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb.

    Args:
        arguments: command line without the program; None: the process's own.

    Returns:
        0 done, 1 failed, 2 wrong input, 75 told to stop and saved. A rank whose launcher asks for a verdict returns 0
        in place of 75, for torchrun would start the ranks of other nodes again.

    Raises:
        SystemExit: wrong arguments (2), or told to stop by signal N with nothing saved (128 + N).
    """
    warnings.filterwarnings("ignore", module=r"megatron\.")  # one warning for each accelerator library that is absent
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated")  # DeepSpeed's own calls
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if any(word.startswith("-") or "overrides" not in options for word in rest):
        dashed = [word.lstrip("-") for word in rest if "=" in word and "." in word.partition("=")[0]]
        settings = f"; settings have no dashes: {' '.join(dashed)}" if dashed and "overrides" in options else ""
        parser.error(f"unrecognized arguments: {' '.join(rest)}{settings}")
    if rest:
        options.overrides += rest  # argparse stops collecting overrides at the first option
    try:
        with (
            interruptible(partial(_say_stopped, options.verb.name)),
            trusting(folders=getattr(options, "trust_code", False)),
        ):
            refuse_misspelt(options)
            code = reported(options.verb.start(options))
        if code == 0 and os.environ.get("RANK", "0") == "0":
            from trainer.command.following import show_following  # brings pydantic, which help does without

            show_following(options)
        if code == WRONG_INPUT:  # of a stage
            end_launcher()
        return code
    except ValueError as error:
        if options.debug:
            traceback.print_exc()
        path = getattr(options, "config", None)
        line = "\n".join(f"trainer {options.verb.name}: {located(one, path)}" for one in errors_in(error))
        _complain(line)
        refuse(line)  # ends the other ranks of the node, of which the first one speaks
        if isinstance(error, StartRefused):
            end_launcher()
        return WRONG_INPUT
    except ModuleNotFoundError as error:
        from netsim.foundation.extra import remedy

        absent = remedy(error)
        if absent is None or options.debug:
            raise
        line = f"trainer {options.verb.name}: {absent}"
        _complain(line)
        refuse(line)
        return WRONG_INPUT
    except (Failure, OSError) as error:
        if isinstance(error, OSError) and not is_full(error):
            raise
        if options.debug:
            traceback.print_exc()
        line = f"trainer {options.verb.name}: {error}"
        if isinstance(error, DiskFull | OSError):  # may be of this rank alone
            print(line, file=sys.stderr, flush=True)
        else:
            _complain(line)
        return 1


def _of_a_verb(message: str) -> str:
    """A complaint about the verb that names the nearest one, in place of a list of all."""
    wrong = re.match(r"argument VERB: invalid choice: '(.*)' \(choose", message)
    if wrong is None:
        return message
    from netsim.foundation.refusal import nearest  # brings pydantic, which help does without

    near = nearest(wrong[1], (verb.name for verb in VERBS))
    return f"{wrong[1]} is not a verb" + (f"; use {near}" if near else "")


def _complain(line: str) -> None:
    """Prints a line once a node, on its first rank; the others wait, for torchrun ends all ranks when one ends."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(line, file=sys.stderr)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(WRONG_INPUT))
        time.sleep(PATIENCE_S)


def _say_stopped(verb: str, words: str, number: int) -> None:
    """Prints once that a command was told to stop; a launcher that asks for a verdict says so itself.

    torchrun ends the ranks that are left by SIGTERM when one has failed, and that one has said why.
    """
    quiet = VARIABLE in os.environ or (number == signal.SIGTERM and "TORCHELASTIC_RUN_ID" in os.environ)
    if os.environ.get("RANK", "0") == "0" and not quiet:
        left = "nothing was saved" if verb == "train" else "it is not finished"
        print(f"trainer {verb}: {words}; {left}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m trainer",
        description="Train flow-matching, language and mixture-of-experts models on one or many nodes.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong input (one line on standard error says what is wrong and what to "
        "write), 75 told to stop by Ctrl-C, SIGTERM or SIGUSR2: saved, start it again to go on; "
        "130 (Ctrl-C) or 143 (SIGTERM) told to stop with nothing to save. A second Ctrl-C ends at once.",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for verb in VERBS:
        verb.add_to(verbs)
    return parser


if __name__ == "__main__":
    ended_with = main()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)  # all is said: what comes now ends the process without words
    sys.exit(ended_with)
