"""The protocol of data sets, and the batch that a training step receives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from moe.host_copies import to_device
from netsim.foundation.refusal import Refusal
from trainer.data.files import DataFiles
from trainer.data.picture import AugmentConfig, augmented
from trainer.data.shard.index import Split

T = TypeVar("T")

SOURCE_BIT, SOURCE_BITS = 48, 14
"""Position and width in bits of the source's number in a mixture's id; ids within a source do not use these bits."""


@dataclass(frozen=True)
class Batch:
    """Examples of a data set, such as those of one micro batch.

    Attributes:
        x_1: data points: float32 [B, C, H, W] images or [B, D] vectors, or int64 [B, N + 1] tokens.
        labels: int64 [B] classes, or None for data without.
        ids: int64 [B] which examples of the data set these are.
        x_0: float32 as `x_1`, the source point that belongs to each data point; None for data that are no pairs.
        interval: float32 [B, 2] times at which each pair is at `x_0` and at `x_1`; None: 0 and 1.
        captions: float32 [B, W], the vector of each example's caption; None for data without.
        context: float32 [B, C', *rest] what belongs to each example and is not drawn, such as masks; None for data
            without.
        sources: int64 [B] numbers of the parts of a mixture that the examples are from; None for other data.
        replaced: place and fault of each example that could not be read and was replaced by another.
    """

    x_1: Tensor
    labels: Tensor | None
    ids: Tensor
    x_0: Tensor | None = None
    interval: Tensor | None = None
    captions: Tensor | None = None
    sources: Tensor | None = None
    context: Tensor | None = None
    replaced: tuple[str, ...] = ()

    def with_captions(self, captions: Tensor) -> Batch:
        """Returns the same examples with their captions, float32 [B, W]."""
        return replace(self, captions=captions)

    def to(self, device: torch.device) -> Batch:
        """Returns the same batch with a network's inputs on `device`; the host does not wait for the copies."""
        return self._with(lambda values: to_device(values, device))

    def pinned(self) -> Batch:
        """Returns the same batch in pinned memory, which a GPU reads by itself."""
        return self._with(torch.Tensor.pin_memory)

    def _with(self, copied: Callable[[Tensor], Tensor]) -> Batch:
        read = {"x_1": self.x_1, "labels": self.labels, "x_0": self.x_0, "interval": self.interval}
        read |= {"captions": self.captions, "sources": self.sources, "context": self.context}
        return replace(self, **{name: copied(values) for name, values in read.items() if values is not None})


class TooManyBadExamples(RuntimeError):  # noqa: N818  it is what was found
    """More examples cannot be read than a run allows; the message is the one line that a person needs."""


class BadExamples(ValueError):  # noqa: N818  it is what was found
    """Examples that cannot be read; `reasons` maps each id to its file (and row) and the fault."""

    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__("; ".join(reasons.values()))
        self.reasons = dict(reasons)


def read_each(indices: Tensor, read: Callable[[int], T], place: Callable[[int], object]) -> list[T]:
    """Returns `read` of each id, int64 [B]; raises BadExamples with the places of all ids at which it fails."""
    rows: list[T] = []
    reasons: dict[int, str] = {}
    for number in indices.tolist():
        try:
            rows.append(read(number))
        except (OSError, ValueError) as error:
            reasons[number] = f"{place(number)}: {error}"
    if reasons:
        raise BadExamples(reasons)
    return rows


@dataclass(frozen=True)
class Mix:
    """Sources of a mixture by name, in the order of their numbers; their shares of training positions sum to 1."""

    sources: Mapping[str, Dataset]
    shares: tuple[float, ...]


def id_of(source: int | Tensor, own: Tensor) -> Tensor:
    return own | (torch.as_tensor(source) << SOURCE_BIT)


def source_of(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Splits ids of a mixture into the number of the source and the id in that source, both int64 like `ids`."""
    source = (ids >> SOURCE_BIT) & (2**SOURCE_BITS - 1)
    return source, ids ^ (source << SOURCE_BIT)


class Dataset(Protocol):
    """Examples addressed by number, cut once and for all into a training and a held-out part.

    Attributes:
        num_classes: how many classes the labels name; 0 without labels.
        shape: of an example: (C, H, W) of an image, (D,) of a vector, (N + 1,) of a window of text. Where there are
            several, the largest.
        endless: every number from 0 on is a training example, so that none comes twice; `indices` then knows the
            held-out part alone.
        keyed_order: the training examples are those from 0 to `count("train")` - 1, too many to be listed; their
            shuffled epochs are computed place by place, and `indices` is never called for them.
        source: examples of the same shape, of which each training example gets one as its source point, anew each time;
            None: the examples are pairs already, or what they are learned from has no such points.
        augment: what is done to each training example, anew each time that it is dealt; None: nothing.
        mix: the sources of a mixture, each of which has its own epochs; None: these are examples of one set.
        files: the files that the examples are read from, whose content a run records; empty: nothing can change.
    """

    num_classes: int
    shape: tuple[int, ...]
    endless: bool = False
    keyed_order: bool = False
    source: Dataset | None = None
    augment: AugmentConfig | None = None
    mix: Mix | None = None
    files: tuple[DataFiles, ...] = ()

    def indices(self, split: Split) -> Tensor:
        """Returns the ids of a split, int64 [N], in a fixed order that no run setting changes."""
        ...

    def count(self, split: Split) -> int:
        """Returns how many ids a split has."""
        return len(self.indices(split))

    def data_points(self, split: Split) -> Tensor:
        """Returns the ids of a split whose `x_1` is a data point of `shape`, not an intermediate state of a path."""
        return self.indices(split)

    def groups(self, split: Split) -> tuple[Tensor, ...]:
        """Returns the ids of a split, one tensor for each shape, since no batch holds examples of two shapes."""
        return (self.indices(split),)

    def order(self, split: Split, *, seed: int, epoch: int, global_batch: int) -> Tensor:  # noqa: ARG002
        """Returns the ids of a split in the order of an epoch, from 0, int64 [N]; by default shuffled as a whole.

        Epochs follow each other without a gap: example k of one is number (epoch * N + k) % global_batch of its step.
        """
        ids = self.indices(split)
        return ids[torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(len(ids)))]

    def get(self, indices: Tensor) -> Batch:
        """Reads examples by ids, int64 [B], onto the CPU; a function of ids alone, safe to call from several threads.

        Raises:
            BadExamples: some of them cannot be read; names each.
        """
        ...

    def augmented(self, batch: Batch, positions: Tensor, *, seed: int) -> Batch:
        """Returns training examples changed as `augment` says; `positions` are theirs in the stream, int64 [B]."""
        if self.augment is None:
            return batch
        return replace(batch, x_1=augmented(self.augment, batch.x_1, batch.ids, positions, seed=seed))


class Listed(Dataset):
    """A data set that lists the ids of both splits, int64."""

    splits: Mapping[Split, Tensor]

    def indices(self, split: Split) -> Tensor:
        return self.splits[split]


class OfShapes(Listed):
    """Images of one or several shapes (C, H, W); `shape_of`, int64 [N], has the index of the shape for each id."""

    shapes: tuple[tuple[int, ...], ...]
    shape_of: Tensor

    def data_points(self, split: Split) -> Tensor:
        return self.groups(split)[self.shapes.index(self.shape)]

    def groups(self, split: Split) -> tuple[Tensor, ...]:
        ids = self.splits[split]
        return tuple(ids[self.shape_of[ids] == number] for number in range(len(self.shapes)))


SPLIT_SEED = 1797


def shuffled_splits(num: int, held_out: int) -> dict[Split, Tensor]:
    """Splits ids from 0: the last of a fixed shuffle are held out, so that a larger `held_out` contains a smaller."""
    shuffled = torch.randperm(num, generator=torch.Generator().manual_seed(SPLIT_SEED))
    return {"train": shuffled[:-held_out], "held_out": shuffled[-held_out:]}


def check_left(source: Path, num: int, held_out: int, noun: str = "examples") -> None:
    """Refuses data all of which are held out."""
    if held_out >= num:
        problem = f"leaves none of its {num} {noun} to train on ({held_out})"
        raise Refusal(source, "data.held_out", problem, "hold out fewer")


def data_points_up_to(num: int, dataset: Dataset, split: Split) -> Tensor:
    """Returns the ids of a split's data points, int64; of training examples too many to be listed, the first `num`."""
    if split == "train" and dataset.endless:
        return torch.arange(num)
    if split == "train" and dataset.keyed_order:
        return torch.arange(min(num, dataset.count(split)))
    return dataset.data_points(split)


def first_data_points(dataset: Dataset, split: Split, num: int) -> Tensor:
    """Returns the ids of the first data points of a split, at most `num`, int64; raises ValueError if it has none."""
    points = data_points_up_to(num, dataset, split)[:num]
    if len(points) == 0:
        raise ValueError(
            f"data: no {split} example is a data point, all are parts of paths that end before t = 1; draw more pairs, "
            "or evaluate with --data-from and the run of the teacher"
        )
    return points
