"""Which of several groups of examples a step takes, where no step may mix them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from moe.seeds import derive_seed, fold_in, uniform


class Plan(Protocol):
    """The group of each step."""

    def place(self, step: int) -> tuple[int, int]:
        """Returns the group that a step takes, and how many steps before it have taken the same."""
        ...


class Alone(Plan):
    """There is one group."""

    def place(self, step: int) -> tuple[int, int]:
        return 0, step


class Interleaved(Plan):
    """Groups take turns at random, each exactly as often as its size demands.

    A group of n examples is used up n / B times an epoch of all groups by steps of B examples. Its j-th step falls
    somewhere within the j-th of these equal parts of time, and the steps of all groups follow each other in the order
    of their times. So every example of every group is seen equally often, to within a step.
    """

    def __init__(self, sizes: Sequence[int], batch: int, seed: int) -> None:
        self._sizes, self._batch = tuple(sizes), batch
        key = torch.tensor(derive_seed(seed, "groups"))
        self._keys = [fold_in(key, group) for group in range(len(sizes))]
        self._epochs: dict[int, tuple[int, list[tuple[int, int]]]] = {}

    def place(self, step: int) -> tuple[int, int]:
        for first, order in self._epochs.values():
            if first <= step < first + len(order):
                return order[step - first]
        epoch = step * self._batch // sum(self._sizes)
        while self._before(epoch) > step:
            epoch -= 1
        while self._before(epoch + 1) <= step:
            epoch += 1
        first, order = self._before(epoch), self._order(epoch)
        recent = {e: known for e, known in self._epochs.items() if e == epoch - 1}
        self._epochs = {**recent, epoch: (first, order)}
        return order[step - first]

    def _before(self, epoch: int) -> int:
        """Steps of all groups before an epoch begins."""
        return sum(self._own_before(group, epoch) for group in range(len(self._sizes)))

    def _own_before(self, group: int, epoch: int) -> int:
        parts, rest = divmod(epoch * self._sizes[group], self._batch)
        return parts + (float(self._within(group, torch.tensor([parts]))) * self._batch < rest)

    def _within(self, group: int, numbers: Tensor) -> Tensor:
        """Where within its part of time each step of a group falls, in [0, 1)."""
        return uniform(fold_in(self._keys[group], numbers))

    def _order(self, epoch: int) -> list[tuple[int, int]]:
        timed: list[tuple[float, int, int]] = []
        for group, size in enumerate(self._sizes):
            numbers = torch.arange(self._own_before(group, epoch), self._own_before(group, epoch + 1))
            times = (numbers + self._within(group, numbers)) * self._batch / size
            timed += [(time, group, number) for time, number in zip(times.tolist(), numbers.tolist(), strict=True)]
        return [(group, number) for _, group, number in sorted(timed)]


class OneByOne(Plan):
    """All of the first group, then all of the second, and so on; then again."""

    def __init__(self, sizes: Sequence[int], batch: int) -> None:
        self._steps = [-(-size // batch) for size in sizes]
        self._ends = list(itertools.accumulate(self._steps))

    @property
    def steps(self) -> int:
        """Of a pass through all groups."""
        return self._ends[-1]

    def place(self, step: int) -> tuple[int, int]:
        passes, within = divmod(step, self.steps)
        group = next(number for number, end in enumerate(self._ends) if within < end)
        before = self._ends[group - 1] if group else 0
        return group, passes * self._steps[group] + within - before
