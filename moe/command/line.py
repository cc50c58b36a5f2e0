"""The verbs of moe, and what becomes of their errors."""

import argparse
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from moe.command.export import EXPORT
from moe.command.following import FOLLOWING, show
from moe.command.import_placement import IMPORT
from moe.command.place import PLACE
from moe.command.price import PRICE
from moe.command.record import RECORD
from moe.command.replay import REPLAY
from netsim.foundation.extra import remedy
from netsim.foundation.refusal import Failure, Refusal

VERBS = (PLACE, REPLAY, PRICE, RECORD, EXPORT, IMPORT)
"""Every verb, in the order of the help."""
_DESCRIPTION = "Place the experts of a mixture-of-experts model on ranks."
_OPTIONS = {
    "objective": "--objective",
    "cost": "--cost",
    "solver": "--solver",
    "seed": "--seed",
    "slots": "--slots-per-rank",
    "num_nodes": "--nodes",
    "ranks_per_node": "--ranks-per-node",
    "report": "--report",
    "max_load": "--max-load",
    "compute": "--compute",
    "expert_parameters": "--expert-parameters",
    "to": "--to",
    "from": "--from",
    "out": "--out",
    "current": "--current",
    "scenario": "--scenario",
    "nodes": "--nodes",
    "slots_per_rank": "--slots-per-rank",
    "dense_layers": "--dense-layers",
    "ranks": "--ranks",
    "model": "--model",
    "top_k": "--top-k",
    "max_tokens": "--max-tokens",
    "batch": "--batch",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        wrong = re.match(r"argument VERB: invalid choice: '(.*)' \(choose", message)
        if wrong is not None:
            from netsim.foundation.refusal import nearest  # brings pydantic, which help does without

            near = nearest(wrong[1], (verb.name for verb in VERBS))
            message = f"{wrong[1]} is not a verb" + (f"; use {near}" if near else "")
        self.exit(2, f"{self.prog.removeprefix('python -m ')}: {message}; see {self.prog} --help\n")


def run(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: Arguments after `python -m moe`; those of the process by default.

    Returns:
        0 when done, 1 when it failed, 2 for wrong input; one line on stderr names what is wrong and the remedy.
    """
    arguments = _parser(sys.argv[1:] if argv is None else argv).parse_args(argv)
    try:
        arguments.verb.start(arguments)
    except ValueError as error:
        if arguments.debug:
            traceback.print_exc()
        print(f"moe {arguments.verb.name}: {_located(error, arguments.source)}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        line = remedy(error)
        if line is None or arguments.debug:
            raise
        print(f"moe {arguments.verb.name}: {line}", file=sys.stderr)
        return 2
    except Failure as error:
        if arguments.debug:
            traceback.print_exc()
        print(f"moe {arguments.verb.name}: {error}", file=sys.stderr)
        return 1
    show(FOLLOWING.get(arguments.verb.name), vars(arguments))
    return 0


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m moe", description=_DESCRIPTION)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for verb in VERBS:
        verb.add_to(verbs, described=verb.name in argv)
    return parser


def _located(error: ValueError, source: Path | list[Path]) -> str:
    text = " ".join(str(error).split())
    source = source[0] if isinstance(source, list) else source
    if isinstance(error, Refusal):
        return text
    field, _, problem = text.partition(": ")
    return f"{_OPTIONS[field]}: {problem}" if field in _OPTIONS else f"{source}: {text}"
