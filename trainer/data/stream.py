"""Examples by their positions in the sequence of all epochs: none comes a second time before all have come once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from moe.seeds import derive_seed
from trainer.data.dealing import Dealing
from trainer.data.keyed_order import keyed_order
from trainer.data.protocol import Dataset, Mix, Split


class Stream(Protocol):
    """One sequence of examples; `length` is that of an epoch, 0 if there are no epochs."""

    length: int

    def ids(self, first: int, end: int) -> Tensor:
        """Returns the ids at positions first to end, int64 [end - first]."""
        ...

    def stand_in(self, number: int, bad: Collection[int]) -> int | None:
        """Returns the next example after one of the stream that is not bad; None: all are."""
        ...


class Endless(Stream):
    """Every number from 0 on, once; none may be bad."""

    length = 0

    def ids(self, first: int, end: int) -> Tensor:
        return torch.arange(first, end)

    def stand_in(self, number: int, bad: Collection[int]) -> int | None:
        del number, bad
        return None


class Epochs(Stream):
    """Epochs whose orders are listed; `members` are in the order in which they stand in for each other."""

    def __init__(self, members: Tensor, order: Callable[[int], Tensor]) -> None:
        self.length = len(members)
        self._members, self._order = members, order
        self._orders: dict[int, Tensor] = {}

    def ids(self, first: int, end: int) -> Tensor:
        return _pieces(first, end, self.length, lambda epoch, begin, last: self._kept(epoch)[begin:last])

    def stand_in(self, number: int, bad: Collection[int]) -> int | None:
        place = int((self._members == number).nonzero())
        return next((other for other in self._members.roll(-place - 1).tolist() if other not in bad), None)

    def _kept(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            recent = {e: order for e, order in self._orders.items() if e == epoch - 1}
            self._orders = {**recent, epoch: self._order(epoch)}
        return self._orders[epoch]


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
        self._mix, self._streams, self._dealing = mix, streams, Dealing(mix.shares, seed)

    def ids(self, first: int, end: int) -> Tensor:
        sources, places = self._dealing.places(first, end)
        ids = torch.empty_like(places)
        for number, stream in enumerate(self._streams):
            own = sources == number
            taken = places[own]  # one after the other
            if len(taken):
                ids[own] = self._mix.id_of(number, stream.ids(int(taken[0]), int(taken[-1]) + 1))
        return ids

    def stand_in(self, number: int, bad: Collection[int]) -> int | None:
        """The next example of the same source."""
        source, own = (int(one) for one in self._mix.source_of(torch.tensor(number)))
        owners, theirs = self._mix.source_of(torch.tensor(list(bad), dtype=torch.int64))
        found = self._streams[source].stand_in(own, set(theirs[owners == source].tolist()))
        return None if found is None else int(self._mix.id_of(source, torch.tensor(found)))


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
        return [
            Epochs(
                dataset.indices(split),
                lambda epoch: dataset.order(split, seed=seed, epoch=epoch, global_batch=global_batch),
            )
        ]

    def shuffled(number: int, group: Tensor) -> Stream:
        def order(epoch: int) -> Tensor:
            return group[torch.from_numpy(np.random.default_rng([seed, epoch, number]).permutation(len(group)))]

        return Epochs(group, order)

    return [shuffled(number, group) for number, group in enumerate(groups)]


def _pieces(first: int, end: int, length: int, piece: Callable[[int, int, int], Tensor]) -> Tensor:
    """Joins what an epoch, its number and two places in it give, over all epochs that positions touch."""
    found = []
    while first < end:
        epoch, offset = divmod(first, length)
        found.append(piece(epoch, offset, min(offset + end - first, length)))
        first += len(found[-1])
    return torch.cat(found)
