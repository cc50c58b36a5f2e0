"""Which examples a rank sees at a step: a pure function, so that resuming needs nothing but the step."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from moe.random.seed import derive_seed
from trainer.data.augmentation import augmented
from trainer.data.keyed_order import keyed_order
from trainer.data.protocol import BadExamples, Batch, Dataset, Split, TooManyBadExamples


def accumulation_steps(global_batch: int, micro_batch: int, world_size: int) -> int:
    """Returns how many micro batches a rank works through in one optimiser step.

    Args:
        global_batch: examples of an optimiser step over all ranks.
        micro_batch: examples of one forward pass on one rank.
        world_size: ranks that share the data.

    Raises:
        ValueError: if the global batch does not come out even; names the nearest ones that do.
    """
    unit = micro_batch * world_size
    if global_batch > 0 and global_batch % unit == 0:
        return global_batch // unit
    below = max(global_batch, 0) // unit * unit
    remedy = " or ".join(str(value) for value in (below, below + unit) if value > 0)
    raise ValueError(
        f"optim.global_batch: {global_batch} is not a multiple of micro batch {micro_batch} x {world_size} ranks"
        f" = {unit}; use {remedy}"
    )


def check_bad_share(bad: Collection[str], num_examples: int, max_bad_share: float) -> None:
    """Ends a run whose data are worse than it allows.

    Args:
        bad: what is wrong with each example that cannot be read.
        num_examples: of the split.
        max_bad_share: the share of them that may be bad.

    Raises:
        TooManyBadExamples: more than that are.
    """
    if len(bad) > max_bad_share * num_examples:
        raise TooManyBadExamples(
            f"data_loading.max_bad_share: {len(bad)} of {num_examples} examples cannot be read, more than "
            f"{max_bad_share:g} of them, the last one {list(bad)[-1]}; correct or remove them, or allow more"
        )


class Loader:
    """Deals an endless stream of shuffled epochs out to the ranks.

    The epochs follow each other in one sequence of positions, so a batch may span two of them. Step s (from 0) takes
    positions s*G to (s+1)*G of a global batch of G, cut into micro batches numbered from 0; rank r of W takes the
    r-th run of consecutive ones. Which examples form a step, and in what order, therefore does not depend on W.
    The order of an epoch is that of `Dataset.order`. An endless data set is dealt in the order of its numbers.

    In the place of an example that cannot be read stands the next one of its split (in the order of
    `Dataset.indices`, after the last the first) that can: the same on every rank and in every epoch.

    Source points of another data set come from a stream of their own, position by position. Training examples are
    augmented by their positions.

    Args:
        dataset: where the examples are, and its source points.
        global_batch: examples of an optimiser step over all ranks.
        micro_batch: examples of one micro batch on one rank.
        rank: this process among those that share the data, 0 to world_size - 1.
        world_size: how many processes share the data.
        seed: of the shuffles, 0 or more.
        split: which part of the data set is dealt.
        max_bad_share: share of the split that may be bad, at least 0 and below 1.

    Raises:
        ValueError: if the global batch is not a multiple of micro_batch * world_size.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        global_batch: int,
        micro_batch: int,
        rank: int,
        world_size: int,
        seed: int,
        split: Split = "train",
        max_bad_share: float = 0.0,
    ) -> None:
        self.accumulation = accumulation_steps(global_batch, micro_batch, world_size)
        self._dataset = dataset
        self._keyed_order = dataset.keyed_order and split == "train"
        self._split: Split = split
        self._indices = torch.empty(0, dtype=torch.int64) if self._keyed_order else dataset.indices(split)
        self._length = dataset.count(split) if self._keyed_order else len(self._indices)
        self._global_batch = global_batch
        self._micro_batch = micro_batch
        self._rank = rank
        self._seed = seed
        self._endless = dataset.endless and split == "train"
        self._max_bad_share = max_bad_share
        self._bad: dict[int, str] = {}
        self._orders: dict[int, Tensor] = {}
        self._augment = dataset.augment if split == "train" else None
        self._source: Loader | None = None
        if dataset.source is not None:
            self._source = Loader(
                dataset.source,
                global_batch=global_batch,
                micro_batch=micro_batch,
                rank=rank,
                world_size=world_size,
                seed=derive_seed(seed, "source"),
                split=split,
                max_bad_share=max_bad_share,
            )

    def global_micro(self, local: int) -> int:
        """Returns the number, within the global batch, of this rank's micro batch `local` (0 to accumulation - 1)."""
        return self._rank * self.accumulation + local

    def batch(self, step: int, local: int) -> Batch:
        """Returns one micro batch of this rank.

        Args:
            step: optimiser step, from 0.
            local: which of this rank's micro batches, 0 to accumulation - 1.

        Returns:
            The examples, on the CPU.

        Raises:
            TooManyBadExamples: more examples are bad than may be.
        """
        first = step * self._global_batch + self.global_micro(local) * self._micro_batch
        batch = self._read(torch.cat(self._ids(first, first + self._micro_batch)))
        if self._augment is not None:
            positions = torch.arange(first, first + self._micro_batch)
            images = augmented(self._augment, batch.x_1, batch.ids, positions, seed=self._seed)
            batch = replace(batch, x_1=images)
        if self._source is None:
            return batch
        source = self._source.batch(step, local)
        return replace(batch, x_0=source.x_1, replaced=batch.replaced + source.replaced)

    def _read(self, due: Tensor) -> Batch:
        while True:
            bad = dict(self._bad)
            ids = torch.tensor([self._stand_in(number, bad) for number in due.tolist()]) if bad else due
            try:
                batch = self._dataset.get(ids)
            except BadExamples as error:
                self._bad.update(error.reasons)
                check_bad_share(self._bad.values(), self._length, self._max_bad_share)
            else:
                return replace(batch, replaced=tuple(bad[number] for number in due.tolist() if number in bad))

    def _stand_in(self, number: int, bad: Mapping[int, str]) -> int:
        if number not in bad:
            return number
        if self._keyed_order:
            return next(other % self._length for other in itertools.count(number) if other % self._length not in bad)
        place = int((self._indices == number).nonzero())
        following = self._indices.roll(-place - 1).tolist()
        return next(other for other in following if other not in bad)

    def _ids(self, first: int, end: int) -> list[Tensor]:
        """Returns the ids at positions first to end of the stream, one piece for each epoch that they touch."""
        if self._endless:
            return [torch.arange(first, end)]
        pieces = []
        while first < end:
            epoch, offset = divmod(first, self._length)
            if self._keyed_order:
                places = torch.arange(offset, min(offset + end - first, self._length))
                piece = keyed_order(places, self._length, key=derive_seed(self._seed, "epoch", epoch))
            else:
                piece = self._order(epoch)[offset : offset + end - first]
            pieces.append(piece)
            first += len(piece)
        return pieces

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            order = self._dataset.order(self._split, seed=self._seed, epoch=epoch, global_batch=self._global_batch)
            recent = {e: dealt for e, dealt in self._orders.items() if e == epoch - 1}
            self._orders = {**recent, epoch: order}
        return self._orders[epoch]
