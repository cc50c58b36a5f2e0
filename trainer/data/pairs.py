"""Pairs of source and data points in a folder of safetensors files, read row by row."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.data.protocol import Batch, Split
from trainer.data.shard.file import Array, arrays_of
from trainer.data.shard.index import ClassNames, PairIndex, check_class_names, check_held_out
from trainer.data.shards import RowsOfShards, check_same

REMEDY = "draw them again (python -m trainer pairs)"
SAID = ("digest", "shape", "num_classes", "segments", "nodes", "data_scale", "latents", "source")
"""Fields of the index that a configuration repeats."""


class PairsConfig(Section):
    """A folder that the pairs verb wrote; only headers are read at start."""

    kind: Literal["pairs"]
    path: Path
    """The folder, with its index.json."""
    held_out: PositiveInt
    """Pairs that are kept out of training."""
    shape: tuple[PositiveInt, ...]
    """Shape of a point; left out: what the index says."""
    num_classes: NonNegativeInt
    """Number of classes; left out: what the index says."""
    class_names: ClassNames = ()
    """Names of the classes 0, 1, ...; left out: what the index says."""
    segments: PositiveInt | None
    """Number of equal parts into which paths were cut; left out: what the index says."""
    nodes: tuple[float, ...] | None = None
    """The times at which paths were cut; left out: what the index says."""
    data_scale: PositiveFloat = 1.0
    """Factor by which a run has to multiply its data if paths were cut; left out: what the index says."""
    latents: str | None = None
    """Digest of the folder of latents that a run has to name, where the points are latents; left out: what the index
    says."""
    source: dict[str, JsonValue] | None = None
    """The data set at which the paths of the pairs begin, and so do the paths of samples; left out: what the index
    says."""
    digest: str
    """Digest of the index, so that a run resumes with the pairs it began with; left out: taken from it."""

    @property
    def parts(self) -> str | None:
        """In words, how paths were cut into parts, whose ends are the pairs; None: pairs are ends of whole paths."""
        if self.nodes is not None:
            return f"between {len(self.nodes)} nodes"
        return None if self.segments is None else f"{self.segments} segments"

    @property
    def edges(self) -> tuple[float, ...]:
        """Times from 0 to 1 at which paths were cut; only 0 and 1 where the pairs are ends of whole paths."""
        segments = self.segments or 1
        return self.nodes or tuple(number / segments for number in range(segments + 1))

    @classmethod
    def resolved(cls, document: dict[str, Any]) -> dict[str, Any]:
        complete = {"shape", "num_classes", "segments", "digest"} <= document.keys()
        index = None if complete else PairIndex.at_path(document)
        if index is None:
            return document
        check_held_out(document, index.num_examples, "pairs")
        return {**{name: getattr(index, name) for name in (*SAID, "class_names")}, **document}

    @model_validator(mode="after")
    def _names_fit_the_classes(self) -> Self:
        check_class_names(self.class_names, self.num_classes)
        return self

    def open(self) -> "PairsOfPoints":
        return PairsOfPoints(self)


class PairsOfPoints(RowsOfShards):
    """A data set of pairs of source and data points, which are rows of shards."""

    def __init__(self, config: PairsConfig) -> None:
        index = PairIndex.read(config.path)
        check_same(config.path, index, config, SAID)
        super().__init__(config.path, index, config.held_out, lambda: _check_shards(config.path, index))
        self._arrays = index.arrays

    def data_points(self, split: Split) -> Tensor:
        """Returns the ids of the pairs that end at a data point: of parts of paths, those that end at time 1."""
        ids = self.indices(split)
        if "interval" not in self._arrays:
            return ids
        intervals = self.rows(ids, lambda arrays, number: arrays["interval"].row(number))
        return ids[torch.from_numpy(np.stack(intervals))[:, 1] == 1]

    def get(self, indices: Tensor) -> Batch:
        rows = self.rows(indices, self._row)
        read = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in self._arrays}
        return Batch(
            read["x_1"].float(), read.get("labels"), indices, x_0=read["x_0"].float(), interval=read.get("interval")
        )

    def _row(self, arrays: Mapping[str, Array], number: int) -> dict[str, NDArray[Any]]:
        row = {name: np.asarray(arrays[name].row(number)) for name in self._arrays}
        for name, values in row.items():
            if not np.isfinite(values).all():
                raise ValueError(f"{name}: contains values that are not finite")
        if self.num_classes and int(row["labels"]) not in range(self.num_classes):
            raise ValueError(f"labels: {row['labels']} is not one of the {self.num_classes} classes")
        if "interval" in row and not 0 <= row["interval"][0] < row["interval"][1] <= 1:
            raise ValueError(f"interval: {row['interval'].tolist()} is not a part of [0, 1]")
        return row


def _check_shards(folder: Path, index: PairIndex) -> None:
    """Refuses shards that are not what the index says, without reading their rows."""
    for entry in index.shards:
        path = folder / entry.file
        arrays = arrays_of(path, index.arrays, REMEDY)
        for name, (shape, dtype) in index.arrays.items():
            present, wanted = (arrays[name].shape, arrays[name].dtype), ((entry.num_examples, *shape), dtype)
            if present != wanted:
                problem = f"is {present[1]} {list(present[0])} but the index says {wanted[1]} {list(wanted[0])}"
                raise Refusal(path, name, problem, REMEDY)
