"""Examples in a folder of safetensors or npz files, read row by row."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from moe.files import FileError
from trainer.data.protocol import BadExamples, Batch, Dataset, Split
from trainer.data.shard_file import check_shard, open_shard
from trainer.data.shard_index import ShardIndex, read_index

SPLIT_SEED = 1797
OPEN_SHARDS = 64


class ShardsConfig(BaseModel, extra="forbid", frozen=True):
    """A folder that `trainer.data.write_shards` or the encode verb wrote; only headers are read at start."""

    kind: Literal["shards"]
    path: Path
    """The folder, with its index.json."""
    held_out: PositiveInt
    """Examples that are kept out of training."""
    shape: tuple[PositiveInt, ...]
    """Of an example; left out: what the index says."""
    num_classes: NonNegativeInt
    """Left out: what the index says."""
    digest: str
    """Of the index, so that a run goes on with the data it began with; left out: taken from it."""

    @model_validator(mode="before")
    @classmethod
    def _what_is_left_out_is_what_the_index_says(cls, document: Any) -> Any:
        if not isinstance(document, dict) or not isinstance(document.get("path"), str | Path):
            return document
        if all(document.get(name) is not None for name in ("shape", "num_classes", "digest")):
            return document
        try:
            index = read_index(Path(document["path"]))
        except FileError as error:
            raise ValueError(f"path: {error}") from error
        held_out = document.get("held_out")
        if isinstance(held_out, int) and held_out >= index.num_examples:
            problem = f"{held_out} of {index.num_examples} examples leave none to train on"
            raise ValueError(f"held_out: {problem}; hold out fewer")
        found = {"shape": index.shape, "num_classes": index.num_classes, "digest": index.digest}
        return {**document, **{name: value for name, value in found.items() if document.get(name) is None}}


class Shards(Dataset):
    """Rows of shards, numbered through in the order of the index.

    The held-out rows are the last of a fixed shuffle, so that a larger `held_out` contains a smaller one.

    Args:
        config: which folder.

    Raises:
        FileError: the index is no longer what the configuration says, or a shard is not what the index says.
    """

    def __init__(self, config: ShardsConfig) -> None:
        index = read_index(config.path)
        remedy = "bring the folder back, or leave the field out to start another run"
        for name in ("digest", "shape", "num_classes"):
            found, wanted = getattr(index, name), getattr(config, name)
            if found != wanted:
                raise FileError(config.path, f"data.{name}", f"is {wanted} where the index says {found}", remedy)
        if config.held_out >= index.num_examples:
            problem = f"leaves none of its {index.num_examples} examples to train on ({config.held_out})"
            raise FileError(config.path, "data.held_out", problem, "hold out fewer")
        for number in range(len(index.shards)):
            check_shard(config.path, number, index)
        self.shape, self.num_classes = index.shape, index.num_classes
        self._folder, self._index = config.path, index
        self._ends = np.cumsum([shard.num_examples for shard in index.shards])
        self._open = functools.lru_cache(maxsize=OPEN_SHARDS)(open_shard)
        self._shift, self._scale = (_by_channel(values, index) for values in (index.shift, index.scale))
        shuffled = torch.randperm(index.num_examples, generator=torch.Generator().manual_seed(SPLIT_SEED))
        self._splits: dict[Split, Tensor] = {
            "train": shuffled[: -config.held_out],
            "held_out": shuffled[-config.held_out :],
        }

    def indices(self, split: Split) -> Tensor:
        """See `Dataset.indices`."""
        return self._splits[split]

    def get(self, indices: Tensor) -> Batch:
        """See `Dataset.get`."""
        rows, labels, reasons = [], [], {}
        for number in indices.tolist():
            shard = int(np.searchsorted(self._ends, number, side="right"))
            row = number - int(self._ends[shard - 1] if shard else 0)
            path = self._folder / self._index.shards[shard].file
            try:
                values, label = self._row(path, row)
            except (OSError, ValueError) as error:
                reasons[number] = f"{path}:{row}: {error}"
            else:
                rows.append(values)
                labels.append(label)
        if reasons:
            raise BadExamples(reasons)
        x_1 = torch.from_numpy(np.stack(rows)).float()
        if self._index.dtype == "uint8":
            x_1 = x_1.div(127.5).sub(1)
        if self._shift is not None:
            x_1 = x_1 - self._shift
        if self._scale is not None:
            x_1 = x_1 / self._scale
        return Batch(x_1, torch.tensor(labels) if self.num_classes else None, indices)

    def _row(self, path: Path, row: int) -> tuple[NDArray[Any], int]:
        arrays = self._open(path)
        values = arrays["data"].row(row)
        if not np.isfinite(values).all():
            raise ValueError("data: holds values that are not finite")
        label = int(arrays["labels"].row(row)) if self.num_classes else 0
        if label not in range(max(1, self.num_classes)):
            raise ValueError(f"labels: {label} is none of the {self.num_classes} classes")
        return values, label


def _by_channel(values: tuple[float, ...] | None, index: ShardIndex) -> Tensor | None:
    return None if values is None else torch.tensor(values).reshape(-1, *[1] * (len(index.shape) - 1))
