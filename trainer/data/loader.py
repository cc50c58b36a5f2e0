"""The loader: which rank sees which examples, prefetching, and the list of examples that could not be read."""

import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch
import torch.distributed as dist
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from moe.seeds import derive_seed
from netsim.foundation.files import replacing
from netsim.foundation.settings import Section
from trainer.data.order import Interleaved, OneByOne, Stream, streams_of
from trainer.data.protocol import BadExamples, Batch, Dataset, Split, TooManyBadExamples


class DataLoadingConfig(Section):
    """Reading ahead, which never changes what a step sees, and what is done about examples that cannot be read."""

    prefetch: NonNegativeInt = 2
    """Micro batches that are read while the network is busy; 0: each is read when it is its turn."""
    workers: PositiveInt = 1
    """Threads that read micro batches ahead."""
    max_bad_share: float = Field(default=0.01, ge=0, lt=1)
    """Largest share of the training examples that may be unreadable. Each is replaced by the next readable one; above
    this share the run ends."""


def accumulation_steps(global_batch: int, micro_batch: int, world_size: int) -> int:
    """Micro batches of a rank in an optimiser step; ValueError names the nearest global batches that come out even."""
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

    Epochs follow each other in one sequence of positions, so that a batch may span two. Step s (from 0) takes positions
    s*G to (s+1)*G of a global batch of G, a multiple of micro batch x W, cut into micro batches; rank r of W takes the
    r-th run of them. Which examples form a step, and in what order, does not depend on W.

    Examples of several shapes are dealt shape by shape, each from a sequence of its own: all ranks see one shape at a
    step. :class:`trainer.data.order.Interleaved` shares the steps out; held-out examples come one shape after the
    other.

    An example that cannot be read is replaced by the next of its split and shape (in the order of `Dataset.groups`,
    then the first) that can, on every rank and in every epoch; `max_bad_share`, below 1, may be bad.
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
        self._dataset, self._rank, self._seed = dataset, rank, seed
        self._global_batch, self._micro_batch = global_batch, micro_batch
        self._max_bad_share = max_bad_share
        self._bad: dict[int, str] = {}
        self._augments = split == "train"
        self._streams = streams_of(dataset, split, seed=seed, global_batch=global_batch)
        lengths = [stream.length for stream in self._streams]
        self._pass = OneByOne(lengths, global_batch)
        takes_turns = split == "train" and len(lengths) > 1
        self._plan = Interleaved(lengths, global_batch, seed) if takes_turns else self._pass
        self._source: Loader | None = None
        if dataset.source is not None:
            batches = {"global_batch": global_batch, "micro_batch": micro_batch}
            ranks = {"rank": rank, "world_size": world_size, "seed": derive_seed(seed, "source")}
            self._source = Loader(dataset.source, **batches, **ranks, split=split, max_bad_share=max_bad_share)

    def global_micro(self, local: int) -> int:
        """Returns the number, within the global batch, of this rank's micro batch `local` (0 to accumulation - 1)."""
        return self._rank * self.accumulation + local

    def batch(self, step: int, local: int) -> Batch:
        """Reads micro batch `local`, from 0, of this rank in a step, from 0; raises TooManyBadExamples."""
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
        """Number of a micro batch in a held-out pass, and how many of its first examples are new in this pass."""
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
            problem = f"all {stream.length} examples of one shape cannot be read, the last one {bad[number]}"
            raise TooManyBadExamples(f"data_loading.max_bad_share: {problem}; mend or remove them")
        return good


class Prefetcher:
    """Hands out micro batches, read and completed ahead by threads; an error is raised when it is its batch's turn."""

    def __init__(
        self, loader: Loader, config: DataLoadingConfig, complete: Callable[[int, int, Batch], Batch] | None = None
    ) -> None:
        """`complete`, called with :meth:`batch`'s arguments and a batch, adds what these arguments alone decide."""
        self._loader, self._ahead, self._complete = loader, config.prefetch, complete
        self._threads = ThreadPoolExecutor(config.workers, thread_name_prefix="data") if config.prefetch else None
        self._coming: deque[tuple[int, Future[Batch]]] = deque()
        self._waits_s: list[float] = []

    def batch(self, step: int, local: int) -> Batch:
        """Returns the batch of `Loader.batch`, completed by `complete`."""
        begun = time.perf_counter()
        place = step * self._loader.accumulation + local
        batch = self._read(place) if self._threads is None else self._next(place, self._threads)
        self._waits_s.append(time.perf_counter() - begun)
        return batch

    def waited_s(self) -> float:
        """Mean seconds that a step has waited for its batches since the last call; 0 if none was read."""
        waits, self._waits_s = self._waits_s, []
        return self._loader.accumulation * fmean(waits) if waits else 0.0

    def _read(self, place: int) -> Batch:
        step, local = divmod(place, self._loader.accumulation)
        batch = self._loader.batch(step, local)
        return batch if self._complete is None else self._complete(step, local, batch)

    def _next(self, place: int, threads: ThreadPoolExecutor) -> Batch:
        while self._coming and self._coming[0][0] != place:
            self._coming.popleft()[1].cancel()
        following = self._coming[-1][0] + 1 if self._coming else place
        for coming in range(following, place + self._ahead + 1):
            self._coming.append((coming, threads.submit(self._read, coming)))
        return self._coming.popleft()[1].result()


class BadExampleList:
    """The bad examples that a run has met on all ranks: each is printed once, listed in a file and counted."""

    def __init__(self, path: Path, *, started: int, num_examples: int, max_bad_share: float) -> None:
        """Resumes the list of an earlier start; lines of optimiser steps after `started` are dropped."""
        self.num_examples, self._max_bad_share, self._path = num_examples, max_bad_share, path
        self._met: dict[str, int] = {}
        if path.exists():
            lines = (line.split("\t", 1) for line in path.read_text(encoding="utf-8").splitlines())
            self._met = {reason: int(step) for step, reason in lines if int(step) <= started}
        self._new: dict[str, int] = {}

    def take(self, step: int, batch: Batch) -> Batch:
        """Notes the replaced examples of a batch of this rank, prints each at first sight, and returns the batch."""
        for reason in batch.replaced:
            if reason not in self._met and reason not in self._new:
                self._new[reason] = step
                print(f"{reason}; the next example that can be read takes its place", file=sys.stderr, flush=True)
        return batch

    def count(self) -> int:
        """Counts the bad examples of all ranks; rank 0 writes the list; collective; TooManyBadExamples on all ranks."""
        everywhere: list[dict[str, int]] = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(everywhere, self._new)
        self._new = {}
        reasons = sorted((step, reason) for new in everywhere for reason, step in new.items())
        for step, reason in reasons:
            self._met.setdefault(reason, step)
        if reasons and dist.get_rank() == 0:
            with replacing(self._path) as temporary:
                lines = (f"{step}\t{reason}\n" for reason, step in self._met.items())
                temporary.write_text("".join(lines), encoding="utf-8")
        check_bad_share(list(self._met), self.num_examples, self._max_bad_share)
        return len(self._met)
