"""The command line: python -m trainer VERB; `--help` lists the verbs."""

import argparse
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from typing import NoReturn

from trainer.command.check import CHECK
from trainer.command.compare import COMPARE
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
from trainer.command.pairs import PAIRS
from trainer.command.report import REPORT
from trainer.command.sample import SAMPLE
from trainer.command.shards import SHARDS
from trainer.command.steps import STEPS
from trainer.command.trace import TRACE
from trainer.command.train import TRAIN
from trainer.distributed.process.launcher import end_launcher
from trainer.distributed.refusal import StartRefused, located
from trainer.training.failure import RunFailed

VERBS = (
    TRAIN,
    CHECK,
    SAMPLE,
    STEPS,
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
        _complain(f"{self.prog.removeprefix('python -m ')}: {message}; see {self.prog} --help")
        raise SystemExit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb.

    Args:
        arguments: command line without the program; None: the process's own.

    Returns:
        0 done, 1 failed, 2 wrong input, 75 told to stop and saved.
    """
    warnings.filterwarnings("ignore", module=r"megatron\.")  # one warning for each accelerator library that is absent
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated")  # DeepSpeed's own calls
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if any(word.startswith("-") or "overrides" not in options for word in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest  # argparse stops collecting overrides at the first option
    try:
        code = options.verb.run(options)
        if code == WRONG_INPUT:  # of a stage
            end_launcher()
        return code
    except ValueError as error:
        if options.debug:
            traceback.print_exc()
        _complain(f"trainer {options.verb.name}: {located(error, getattr(options, 'config', None))}")
        if isinstance(error, StartRefused):
            end_launcher()
        return WRONG_INPUT
    except RunFailed as error:
        if options.debug:
            traceback.print_exc()
        _complain(f"trainer {options.verb.name}: {error}")
        return 1


def _complain(line: str) -> None:
    """Prints a line once a node, on its first rank; the others wait, for torchrun ends all ranks when one ends."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(line, file=sys.stderr)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(WRONG_INPUT))
        time.sleep(PATIENCE_S)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m trainer",
        description="Train flow-matching, language and mixture-of-experts models on one or many nodes.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong input (one line on standard error says what and how to mend it), "
        "75 told to stop by SIGTERM or SIGUSR2: saved, start it again to go on.",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for verb in VERBS:
        verb.add_to(verbs)
    return parser


if __name__ == "__main__":
    sys.exit(main())
