"""Which examples a rank sees at a step: a pure function, so that resuming needs nothing but the step."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from moe.seeds import derive_seed
from trainer.data.interleaving import Alone, Interleaved, OneByOne, Plan
from trainer.data.protocol import BadExamples, Batch, Dataset, Split, TooManyBadExamples
from trainer.data.stream import Stream, streams_of


def accumulation_steps(global_batch: int, micro_batch: int, world_size: int) -> int:
    """Micro batches of a rank in an optimiser step of `global_batch` examples over all ranks.

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
    """Raises TooManyBadExamples if more than `max_bad_share` of the examples of a split are bad."""
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
    The order of an epoch is that of `Dataset.order`. An endless data set is dealt in the order of its numbers. The
    sources of a mixture share the positions out among them, and each has epochs of its own.

    Examples of several shapes are dealt shape by shape: all ranks see one shape at a step, in all micro batches, so
    that a step weighs its examples as any other does. Each shape then has a sequence of positions of its own, and the
    steps are shared out among the shapes as :class:`trainer.data.interleaving.Interleaved` says, or, of held-out
    examples, one shape after the other.

    In the place of an example that cannot be read stands the next one of its split and shape (in the order of
    `Dataset.groups`, after the last the first) that can: the same on every rank and in every epoch.

    Source points of another data set come from a stream of their own, position by position. Training examples are
    augmented by their positions.

    Args:
        global_batch: examples of an optimiser step over all ranks, a multiple of micro_batch * world_size.
        micro_batch: examples of one micro batch on one rank.
        rank: this process among the `world_size` that share the data.
        seed: of the shuffles, 0 or more.
        max_bad_share: share of the split that may be bad, at least 0 and below 1.
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
        self._global_batch = global_batch
        self._micro_batch = micro_batch
        self._rank = rank
        self._seed = seed
        self._max_bad_share = max_bad_share
        self._bad: dict[int, str] = {}
        self._augments = split == "train"
        self._streams = streams_of(dataset, split, seed=seed, global_batch=global_batch)
        lengths = [stream.length for stream in self._streams]
        self._pass = OneByOne(lengths, global_batch)
        self._plan: Plan = Alone()
        if len(lengths) > 1:
            self._plan = Interleaved(lengths, global_batch, seed) if split == "train" else self._pass
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
        """Reads micro batch `local`, 0 to accumulation - 1, of this rank in an optimiser step, from 0; on the CPU.

        Raises:
            TooManyBadExamples: more examples are bad than may be.
        """
        group, number = self._plan.place(step)
        first = number * self._global_batch + self.global_micro(local) * self._micro_batch
        end = first + self._micro_batch
        batch = self._read(self._streams[group].ids(first, end), self._streams[group])
        if self._augments:
            batch = self._dataset.augmented(batch, torch.arange(first, end), seed=self._seed)
        if self._source is None:
            return batch
        source = self._source.batch(step, local)
        return replace(batch, x_0=source.x_1, replaced=batch.replaced + source.replaced)

    @property
    def steps_of_pass(self) -> int:
        """Steps after which every example of the split has been dealt."""
        return self._pass.steps

    def counted(self, step: int, local: int) -> tuple[int, int]:
        """Number of a micro batch in a pass through a held-out split, whatever the number of ranks, and how many of its
        examples, which stand first, have not been dealt in the pass before.
        """
        group, number = self._pass.place(step)
        first = number * self._global_batch + self.global_micro(local) * self._micro_batch
        lengths = [stream.length for stream in self._streams]
        before = sum(-(-length // self._micro_batch) for length in lengths[:group])
        return before + first // self._micro_batch, min(self._micro_batch, max(0, lengths[group] - first))

    def _read(self, due: Tensor, stream: Stream) -> Batch:
        while True:
            bad = dict(self._bad)
            ids = torch.tensor([self._stand_in(number, bad, stream) for number in due.tolist()]) if bad else due
            try:
                batch = self._dataset.get(ids)
            except BadExamples as error:
                self._bad.update(error.reasons)
                check_bad_share(self._bad.values(), sum(one.length for one in self._streams), self._max_bad_share)
            else:
                return replace(batch, replaced=tuple(bad[number] for number in due.tolist() if number in bad))

    def _stand_in(self, number: int, bad: Mapping[int, str], stream: Stream) -> int:
        if number not in bad:
            return number
        good = stream.stand_in(number, bad)
        if good is None:
            raise TooManyBadExamples(
                f"data_loading.max_bad_share: all {stream.length} examples of one shape cannot be read, the last one "
                f"{bad[number]}; mend or remove them"
            )
        return good
