"""Rows of a folder of shards, numbered through in the order of its index."""

from __future__ import annotations

import functools
import resource
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from netsim.foundation.refusal import Refusal
from trainer.data.protocol import BadExamples, Split
from trainer.data.shard.file import Array, open_shard
from trainer.data.shard.index import ShardEntry

SPLIT_SEED = 1797

Row = TypeVar("Row")


class Shelf(Protocol):
    """What an index says of its shards, whatever they hold."""

    @property
    def shards(self) -> tuple[ShardEntry, ...]:
        """The shards in their order."""
        ...

    @property
    def num_examples(self) -> int:
        """Rows of all shards together."""
        ...


class ShardRows:
    """Finds and reads rows, and keeps `held_out` of them out of training.

    The held-out rows are the last of a fixed shuffle, so that a larger `held_out` contains a smaller one.
    """

    def __init__(self, folder: Path, index: Shelf, held_out: int) -> None:
        if held_out >= index.num_examples:
            problem = f"leaves none of its {index.num_examples} examples to train on ({held_out})"
            raise Refusal(folder, "data.held_out", problem, "hold out fewer")
        self._files = [folder / entry.file for entry in index.shards]
        self._ends = np.cumsum([entry.num_examples for entry in index.shards])
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # A global shuffle asks any shard for each row: those that are open are kept, as far as half of the limit goes.
        self._open = functools.lru_cache(maxsize=max(most // 2, 1))(open_shard)
        shuffled = torch.randperm(index.num_examples, generator=torch.Generator().manual_seed(SPLIT_SEED))
        self.splits: dict[Split, Tensor] = {"train": shuffled[:-held_out], "held_out": shuffled[-held_out:]}

    def read(self, indices: Tensor, row_of: Callable[[Mapping[str, Array], int], Row]) -> list[Row]:
        """Reads rows, in the order of `indices`, int64 [B].

        Args:
            row_of: reads one from the arrays of its shard, by its number there; raises ValueError if it is bad.

        Raises:
            BadExamples: some cannot be read; names each with its place.
        """
        rows: list[Row] = []
        reasons: dict[int, str] = {}
        for number in indices.tolist():
            shard = int(np.searchsorted(self._ends, number, side="right"))
            row = number - int(self._ends[shard - 1] if shard else 0)
            try:
                rows.append(row_of(self._open(self._files[shard]), row))
            except (OSError, ValueError) as error:
                reasons[number] = f"{self._files[shard]}:{row}: {error}"
        if reasons:
            raise BadExamples(reasons)
        return rows


def check_same(folder: Path, index: object, config: object, names: tuple[str, ...]) -> None:
    """Refuses an index that differs, in one of `names`, from the section that a run began with."""
    for name in names:
        found, wanted = getattr(index, name), getattr(config, name)
        if found != wanted:
            remedy = "bring the folder back, or leave the field out to start another run"
            raise Refusal(folder, f"data.{name}", f"is {wanted} but the index says {found}", remedy)
