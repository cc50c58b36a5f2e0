"""The program moe: its verbs, and the option that an error is about."""

import argparse

from moe.command.exchange import EXPORT, IMPORT
from moe.command.place import PLACE
from moe.command.traces import PRICE, RECORD, REPLAY
from netsim.foundation.command import WRONG_INPUT, Program

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


class _Moe(Program):
    """The program; a ValueError that begins with an option's field names that option, any other the source file."""

    def ending(self, error: BaseException, options: argparse.Namespace) -> tuple[int, str] | None:
        ending = super().ending(error, options)
        if ending is not None or not isinstance(error, ValueError):
            return ending
        text = " ".join(str(error).split())
        field, _, problem = text.partition(": ")
        source = options.source[0] if isinstance(options.source, list) else options.source
        return WRONG_INPUT, f"{_OPTIONS[field]}: {problem}" if field in _OPTIONS else f"{source}: {text}"


PROGRAM = _Moe(
    "moe",
    (PLACE, REPLAY, PRICE, RECORD, EXPORT, IMPORT),
    "Place the experts of a mixture-of-experts model on ranks.",
)
