"""Orders of examples: streams of shuffled epochs, of shapes that take turns, of sources at their shares."""

import math
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache, partial
from itertools import accumulate, pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from moe.seeds import derive_seed, fold_in, uniform
from trainer.data.protocol import Dataset, Mix, Split, id_of, source_of

ROUNDS = 6
SORTED = 1024
"""Most numbers that are shuffled by sorting."""
RECENT = 2
"""Epochs whose orders are kept: a batch may span two."""


def keyed_order(positions: Tensor, length: int, *, key: int) -> Tensor:
    """The numbers at positions of a shuffle of `length` (1 to 2**62) numbers: int64 [B], computed place by place."""
    if length <= SORTED:
        return fold_in(torch.tensor(key), torch.arange(length)).argsort()[positions]
    half = ((length - 1).bit_length() + 1) // 2
    keys = fold_in(torch.tensor(key), torch.arange(ROUNDS))
    numbers = _permuted(positions, keys, half)
    while bool((outside := numbers >= length).any()):
        numbers[outside] = _permuted(numbers[outside], keys, half)
    return numbers


def _permuted(numbers: Tensor, keys: Tensor, half: int) -> Tensor:
    """A permutation of the numbers of 2 x `half` bits."""
    mask = (1 << half) - 1
    left, right = numbers >> half, numbers & mask
    for key in keys:
        left, right = right, left ^ (fold_in(key, right) & mask)
    return (left << half) | right


class Interleaved:
    """Groups take turns at random, each exactly as often as its size demands.

    A group of n examples takes n / B steps of an epoch; its j-th step falls within the j-th of as many equal parts.
    """

    def __init__(self, sizes: Sequence[int], batch: int, seed: int) -> None:
        self._sizes, self._batch = tuple(sizes), batch
        key = torch.tensor(derive_seed(seed, "groups"))
        self._keys = [fold_in(key, group) for group in range(len(sizes))]
        self._before, self._order = lru_cache(2 * RECENT)(self._all_before), lru_cache(RECENT)(self._ordered)

    def place(self, step: int) -> tuple[int, int]:
        """Returns the group of a step, and the number of earlier steps of the same group."""
        epoch = step * self._batch // sum(self._sizes)
        while self._before(epoch) > step:
            epoch -= 1
        while self._before(epoch + 1) <= step:
            epoch += 1
        return self._order(epoch)[step - self._before(epoch)]

    def _all_before(self, epoch: int) -> int:
        """Returns the number of steps of all groups before an epoch begins."""
        return sum(self._group_before(group, epoch) for group in range(len(self._sizes)))

    def _group_before(self, group: int, epoch: int) -> int:
        parts, rest = divmod(epoch * self._sizes[group], self._batch)
        return parts + (float(self._within(group, torch.tensor([parts]))) * self._batch < rest)

    def _within(self, group: int, numbers: Tensor) -> Tensor:
        """Random position, in [0, 1), of each step of a group within its part of the epoch."""
        return uniform(fold_in(self._keys[group], numbers))

    def _ordered(self, epoch: int) -> list[tuple[int, int]]:
        timed: list[tuple[float, int, int]] = []
        for group, size in enumerate(self._sizes):
            numbers = torch.arange(self._group_before(group, epoch), self._group_before(group, epoch + 1))
            times = (numbers + self._within(group, numbers)) * self._batch / size
            timed += [(time, group, number) for time, number in zip(times.tolist(), numbers.tolist(), strict=True)]
        return [(group, number) for _, group, number in sorted(timed)]


class OneByOne:
    """All of the first group, then all of the second, and so on, again and again. A single group may be endless."""

    def __init__(self, sizes: Sequence[int], batch: int) -> None:
        self._steps = [-(-size // batch) for size in sizes]
        self._ends = list(accumulate(self._steps))

    @property
    def steps(self) -> int:
        return self._ends[-1]

    def place(self, step: int) -> tuple[int, int]:
        """Returns the group of a step, and the number of earlier steps of the same group."""
        if len(self._steps) == 1:
            return 0, step
        passes, within = divmod(step, self.steps)
        group = next(number for number, end in enumerate(self._ends) if within < end)
        before = self._ends[group - 1] if group else 0
        return group, passes * self._steps[group] + within - before


BLOCK = 100
"""Positions of a block, so that shares in whole percents are exact in each; rarer sources have longer blocks."""
RAREST = 1e-4
"""Smallest share that is dealt."""
UNIT = 10**12
"""Denominator of the integer shares, which keep rounding errors from adding up."""


class Dealing:
    """Assigns the positions of a stream to sources by `shares`, which sum to 1; each is 0 or at least `RAREST`."""

    def __init__(self, shares: Sequence[float], seed: int) -> None:
        self._bounds = [round(UNIT * bound) for bound in accumulate(shares, initial=0.0)]
        self._bounds[-1] = UNIT
        rarest = min(share for share in shares if share > 0)
        self.block = BLOCK * math.ceil(1 / rarest / BLOCK)  # one position at least, so that no count is negative
        self._key = torch.tensor(derive_seed(seed, "sources"))

    def before(self, block: int) -> list[int]:
        """How many positions each source has had before a block, numbered from 0, begins."""
        ends = [(2 * block * self.block * bound + UNIT) // (2 * UNIT) for bound in self._bounds]
        return [end - begin for begin, end in pairwise(ends)]

    def places(self, first: int, end: int) -> tuple[Tensor, Tensor]:
        """Returns each position's source, and number of earlier positions of that source: int64 [end - first] both."""
        blocks = range(first // self.block, (end - 1) // self.block + 1)
        sources, places = (torch.cat(parts) for parts in zip(*map(self._dealt, blocks), strict=True))
        offset = blocks.start * self.block
        return sources[first - offset : end - offset], places[first - offset : end - offset]

    def _dealt(self, block: int) -> tuple[Tensor, Tensor]:
        """Returns the source of every position of a block, and how many earlier positions have it."""
        before = torch.tensor(self.before(block))
        counts = torch.tensor(self.before(block + 1)) - before
        in_turn = torch.arange(len(counts)).repeat_interleave(counts)
        sources = in_turn[fold_in(fold_in(self._key, block), torch.arange(self.block)).argsort()]
        places = torch.empty_like(sources)
        firsts = counts.cumsum(0) - counts
        places[sources.argsort(stable=True)] = torch.arange(self.block) + (before - firsts)[in_turn]
        return sources, places


class Stream(Protocol):
    """One sequence of examples; `length` is that of an epoch, 0 if there are no epochs."""

    length: int

    def ids(self, first: int, end: int) -> Tensor:
        """Returns the ids at positions first to end, int64 [end - first]."""
        ...

    def stand_in(self, number: int, bad: Collection[int]) -> int | None:
        """Returns the next example of the stream after `number` that is not bad; None if all are bad."""
        ...


class Endless(Stream):
    """The ids 0, 1, 2, ..., each once; a bad example has no replacement."""

    length = 0

    def ids(self, first: int, end: int) -> Tensor:
        return torch.arange(first, end)

    def stand_in(self, number: int, bad: Collection[int]) -> int | None:
        del number, bad
        return None


class Epochs(Stream):
    """Epochs whose orders are listed; a bad example is replaced by the next good one of `members`."""

    def __init__(self, members: Tensor, order: Callable[[int], Tensor]) -> None:
        self.length, self._members = len(members), members
        self._order = lru_cache(RECENT)(order)

    def ids(self, first: int, end: int) -> Tensor:
        return _pieces(first, end, self.length, lambda epoch, begin, last: self._order(epoch)[begin:last])

    def stand_in(self, number: int, bad: Collection[int]) -> int | None:
        place = int((self._members == number).nonzero())
        return next((other for other in self._members.roll(-place - 1).tolist() if other not in bad), None)


class KeyedEpochs(Stream):
    """Epochs of the numbers from 0 on, too many to be listed: each place of an order is computed by itself."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self._seed = length, seed

    def ids(self, first: int, end: int) -> Tensor:
        def piece(epoch: int, begin: int, last: int) -> Tensor:
            return keyed_order(torch.arange(begin, last), self.length, key=derive_seed(self._seed, "epoch", epoch))

        return _pieces(first, end, self.length, piece)

    def stand_in(self, number: int, bad: Collection[int]) -> int | None:
        following = (other % self.length for other in range(number + 1, number + self.length))
        return next((other for other in following if other not in bad), None)


class Mixed(Stream):
    """The streams of several sources, each at its share of the positions and in an order of its own."""

    def __init__(self, mix: Mix, streams: Sequence[Stream], seed: int) -> None:
        self.length = sum(stream.length for stream in streams)
        self._streams, self._dealing = streams, Dealing(mix.shares, seed)

    def ids(self, first: int, end: int) -> Tensor:
        sources, places = self._dealing.places(first, end)
        ids = torch.empty_like(places)
        for number, stream in enumerate(self._streams):
            own = sources == number
            taken = places[own]  # one after the other
            if len(taken):
                ids[own] = id_of(number, stream.ids(int(taken[0]), int(taken[-1]) + 1))
        return ids

    def stand_in(self, number: int, bad: Collection[int]) -> int | None:
        """Returns the next example of the same source that is not bad."""
        source, own = (int(one) for one in source_of(torch.tensor(number)))
        owners, theirs = source_of(torch.tensor(list(bad), dtype=torch.int64))
        position = self._streams[source].stand_in(own, set(theirs[owners == source].tolist()))
        return None if position is None else int(id_of(source, torch.tensor(position)))


def streams_of(dataset: Dataset, split: Split, *, seed: int, global_batch: int) -> list[Stream]:
    """The streams of a split: one for each shape of its examples."""
    if split == "train" and dataset.mix is not None:
        sources = [
            streams_of(source, split, seed=derive_seed(seed, "source", name), global_batch=global_batch)[0]
            for name, source in dataset.mix.sources.items()
        ]
        return [Mixed(dataset.mix, sources, seed)]
    if split == "train" and dataset.endless:
        return [Endless()]
    if split == "train" and dataset.keyed_order:
        return [KeyedEpochs(dataset.count(split), seed)]
    groups = [group for group in dataset.groups(split) if len(group)]
    if len(groups) < 2:
        order = partial(dataset.order, split, seed=seed, global_batch=global_batch)
        return [Epochs(dataset.indices(split), lambda epoch: order(epoch=epoch))]

    def shuffled(number: int, group: Tensor, epoch: int) -> Tensor:
        return group[torch.from_numpy(np.random.default_rng([seed, epoch, number]).permutation(len(group)))]

    return [Epochs(group, partial(shuffled, number, group)) for number, group in enumerate(groups)]


def _pieces(first: int, end: int, length: int, piece: Callable[[int, int, int], Tensor]) -> Tensor:
    """Joins ``piece(epoch, begin, end)`` over all epochs of `length` that the positions from `first` to `end` touch."""
    pieces = []
    while first < end:
        epoch, offset = divmod(first, length)
        pieces.append(piece(epoch, offset, min(offset + end - first, length)))
        first += len(pieces[-1])
    return torch.cat(pieces)
