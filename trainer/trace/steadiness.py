"""Whether recorded steps are alike, so that one of them can stand for a run."""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from trainer.trace.columns import Codes, Columns, mixed, word_code

_ALL_TO_ALL, _ALL_GATHER, _REDUCE_SCATTER = (word_code(op) for op in (b"all_to_all", b"all_gather", b"reduce_scatter"))


def is_steady(steps: Sequence[int], columns: Columns, groups: Iterable[str]) -> bool:
    """Whether two or more consecutive steps were recorded and a rank issued the same operations in all of them.

    Sizes must be the same too, but for those that follow the routing: of all-to-alls, and of the groups that share
    experts, where coherent dispatch gathers the keys and values of as many tokens as the fullest rank holds. Where
    steps share what a task collects, only the first of them has rollouts: then cycles must be alike, of which more than
    one must have been begun.
    """
    if len(steps) < 2 or any(second != first + 1 for first, second in pairwise(steps)):
        return False
    signatures = _signatures(columns, groups)
    found = [signatures[columns.step == np.uint64(step)] for step in steps]
    return any(_repeats(found, cycle) for cycle in range(1, len(steps)))


def _repeats(steps: Sequence[Codes], cycle: int) -> bool:
    return all(np.array_equal(step, earlier) for step, earlier in zip(steps[cycle:], steps, strict=False))


def _signatures(columns: Columns, groups: Iterable[str]) -> Codes:
    """A number for what must be alike of each record."""
    shared = [word_code(name.encode()) for name in groups if re.fullmatch(r"expert(_\d+)?", name)]
    gathers = (columns.op == _ALL_GATHER) | (columns.op == _REDUCE_SCATTER)
    routed = (columns.op == _ALL_TO_ALL) | gathers & np.isin(columns.group, np.array(shared, np.uint64))
    sizes = (np.where(routed, np.uint64(0), total) for total in (columns.bytes_in, columns.bytes_out))
    alike = (getattr(columns, name) for name in ("phase", "op", "group", "dtype", "peer"))
    return mixed(columns.micro, *alike, *sizes)
