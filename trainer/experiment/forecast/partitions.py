"""Parameter groups of DeepSpeed's optimiser, and the parts of each that ranks own."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Literal

from trainer.config.sections import in_order

_EXPERT_GROUP_ELEMENTS = 178_956_971
_ALIGNMENT = 2
Rated = tuple[int, float]
"""Elements of a parameter, and the factor of its learning rate."""


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """One parameter group of the optimiser.

    Attributes:
        group: process group over which its gradients are reduced and its optimiser state is sharded.
        sizes: elements of each parameter on one rank, in the optimiser's order.
        rate: factor of their learning rate.
    """

    group: Literal["data", "expert_data"]
    sizes: tuple[int, ...]
    rate: float = 1.0


def optimizer_groups(dense: Sequence[Rated], experts: Sequence[Rated]) -> tuple[ParameterGroup, ...]:
    """The optimiser's parameter groups as DeepSpeed splits them: dense parameters, then experts in groups of limited
    size.

    Parameters are in the order of the model, experts those of one rank. Each group has parameters of one rate.
    """
    parameter_groups = [ParameterGroup("data", tuple(sizes), rate) for rate, sizes in _by_rate(dense)]
    for rate, sizes in _by_rate(experts):
        groups: list[list[int]] = []
        for size in sizes:
            if not groups or sum(groups[-1]) + size > _EXPERT_GROUP_ELEMENTS:
                groups.append([])
            groups[-1].append(size)
        parameter_groups += [ParameterGroup("expert_data", tuple(of_group), rate) for of_group in groups]
    return tuple(parameter_groups)


def _by_rate(parameters: Sequence[Rated]) -> list[tuple[float, list[int]]]:
    rates = in_order(rate for _, rate in parameters)
    return [(rate, [size for size, own in parameters if own == rate]) for rate in rates]


@dataclass(frozen=True)
class Partition:
    """The parameters of an optimiser group in a flat buffer, of which each rank owns an equal part."""

    group: ParameterGroup
    num_ranks: int

    @cached_property
    def ends(self) -> list[int]:
        """End position of each parameter in the buffer."""
        return list(accumulate(self.group.sizes))

    @cached_property
    def whole(self) -> int:
        """Elements of the buffer: a multiple of twice the number of ranks."""
        unit = _ALIGNMENT * self.num_ranks
        return -(-sum(self.group.sizes) // unit) * unit

    @property
    def own(self) -> int:
        """Elements of a rank's part."""
        return self.whole // self.num_ranks

    def touched(self, rank: int) -> range:
        """Numbers of the parameters that are wholly or partly in a rank's part."""
        first = bisect_right(self.ends, rank * self.own)
        starts_before = bisect_left(self.ends, (rank + 1) * self.own) + 1
        return range(first, min(starts_before, len(self.ends)))

    def owners(self, index: int) -> range:
        """The ranks whose parts hold all or some of a parameter."""
        end = self.ends[index]
        return range((end - self.group.sizes[index]) // self.own, -(-end // self.own))

    def overlap(self, index: int, rank: int) -> int:
        """Elements of a parameter in the part of a rank."""
        end = self.ends[index]
        return min(end, (rank + 1) * self.own) - max(end - self.group.sizes[index], rank * self.own)
