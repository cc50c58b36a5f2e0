"""Collectives of DeepSpeed while every rank holds all parameters: ZeRO 0, 1 and 2.

DeepSpeed all-reduces gradients in every ZeRO stage up to 2, so the stages move the same bytes; they differ in the
pieces. Stages 1 and 2 fill buckets of limited size, cut their content at the borders of the ranks' partitions and
reduce what belongs to one process group together; stage 0 reduces each group as a whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from trainer.config.sections import in_order
from trainer.experiment.forecast.protocol import DTYPES, ELEMENT_BYTES, Collective, Phase, Place, all_gather, all_reduce

_STAGE_0_ELEMENTS = 500_000_000
_EXPERT_GROUP_ELEMENTS = 178_956_971
_ALIGNMENT = 2


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

    def padded_elements(self, num_ranks: int) -> int:
        """Elements of the flat buffer that `num_ranks` ranks share: a multiple of twice their number."""
        unit = _ALIGNMENT * num_ranks
        return -(-sum(self.sizes) // unit) * unit


def optimizer_groups(
    dense: Sequence[int],
    expert: Sequence[int],
    dense_rates: Sequence[float] | None = None,
    expert_rates: Sequence[float] | None = None,
) -> tuple[ParameterGroup, ...]:
    """The optimiser's parameter groups as DeepSpeed splits them: dense parameters, then experts in groups of limited
    size.

    Elements and factors of the learning rate (None: all 1) are in the order of the model, experts those of one rank.
    Each group has parameters of one rate.
    """
    dense_rates, expert_rates = dense_rates or [1.0] * len(dense), expert_rates or [1.0] * len(expert)
    found = [ParameterGroup("data", tuple(_of_rate(rate, dense, dense_rates)), rate) for rate in in_order(dense_rates)]
    for rate in in_order(expert_rates):
        groups: list[list[int]] = []
        for size in _of_rate(rate, expert, expert_rates):
            if not groups or sum(groups[-1]) + size > _EXPERT_GROUP_ELEMENTS:
                groups.append([])
            groups[-1].append(size)
        found += [ParameterGroup("expert_data", tuple(sizes), rate) for sizes in groups]
    return tuple(found)


def _of_rate(rate: float, sizes: Sequence[int], rates: Sequence[float]) -> list[int]:
    return [size for size, own in zip(sizes, rates, strict=True) if own == rate]


def gradient_reductions(
    parameters: Sequence[ParameterGroup],
    num_ranks: Mapping[str, int],
    *,
    zero_stage: int,
    bucket_elements: int,
    overlaps: bool = False,
) -> list[tuple[str, int]]:
    """Process group and elements of the all-reduces of one gradient reduction, in order.

    Exact while everything fits one bucket, and where reductions wait for the end of the backward pass. Otherwise
    buckets are filled as autograd delivers the gradients, dense and expert ones mixed; here each group comes in the
    reverse order of its parameters, so the pieces may differ while their sum does not. `overlaps`: gradients are
    reduced during the backward pass, which stage 2 always does.
    """
    if zero_stage == 0:
        return _whole_groups(parameters)
    gradients = []
    for owner in parameters:
        ranks = num_ranks[owner.group]
        partition = owner.padded_elements(ranks) // ranks
        stretches = zip(owner.sizes, accumulate(owner.sizes), strict=True)
        of_group = [_Gradient(owner.group, size, end - size, partition) for size, end in stretches]
        gradients += reversed(of_group) if overlaps or zero_stage == 2 else of_group
    pieces: list[tuple[str, int]] = []
    bucket: list[_Gradient] = []
    for gradient in gradients:
        if bucket and sum(item.size for item in bucket) + gradient.size > bucket_elements:
            pieces.extend(_bucket_reductions(bucket, bucket_elements))
            bucket = []
        bucket.append(gradient)
    pieces.extend(_bucket_reductions(bucket, bucket_elements))
    return pieces


@dataclass(frozen=True, slots=True)
class _Gradient:
    """A parameter's gradient: its process group, elements, offset in the flat buffer and a partition's elements."""

    group: str
    size: int
    offset: int
    partition: int

    def slices(self) -> Iterator[tuple[int, int]]:
        """Partition and elements of each stretch that one rank owns."""
        start, end = self.offset, self.offset + self.size
        while start < end:
            owner = start // self.partition
            border = min(end, (owner + 1) * self.partition)
            yield owner, border - start
            start = border


def _bucket_reductions(bucket: Sequence[_Gradient], bucket_elements: int) -> Iterator[tuple[str, int]]:
    """Adjacent slices of one owner are one; a group's slices go together until they exceed the bucket size."""
    slices: dict[str, list[int]] = {}
    previous = None
    for gradient in bucket:
        for owner, size in gradient.slices():
            sizes = slices.setdefault(gradient.group, [])
            if (gradient.group, owner) == previous:
                sizes[-1] += size
            else:
                sizes.append(size)
            previous = gradient.group, owner
    for group, sizes in slices.items():
        yield from ((group, elements) for elements in _until_exceeded(sizes, bucket_elements))


def _whole_groups(parameters: Sequence[ParameterGroup]) -> list[tuple[str, int]]:
    sizes = {name: [size for owner in parameters if owner.group == name for size in owner.sizes] for name in _ORDER}
    return [(name, elements) for name in _ORDER for elements in _until_exceeded(sizes[name], _STAGE_0_ELEMENTS)]


_ORDER = ("data", "expert_data")


def _until_exceeded(sizes: Sequence[int], limit: int) -> Iterator[int]:
    """Sums of runs of sizes, each ended by the size that takes it above the limit."""
    total = 0
    for size in sizes:
        total += size
        if total > limit:
            yield total
            total = 0
    if total:
        yield total


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroTraffic:
    """All-reduces of gradients and the gathering of new parameters.

    Attributes:
        stage: 0, 1 or 2.
        parameters: the optimiser's parameter groups; expert parameters are those of one rank.
        num_ranks: ranks of the groups data and expert_data.
        precision: element type of parameters; gradients are reduced in float32, and bf16 adds an overflow check.
        bucket_elements: DeepSpeed's reduce_bucket_size.
        accumulation: micro steps of an optimiser step.
        tensor_parallel: ranks that share the dense parameters, whose parts of the norm are added up.
    """

    stage: Literal[0, 1, 2]
    parameters: tuple[ParameterGroup, ...]
    num_ranks: Mapping[str, int]
    precision: Literal["fp32", "bf16"]
    bucket_elements: int
    accumulation: int = 1
    tensor_parallel: int = 1

    def entering(self, _phase: Phase, _place: Place, _micro: int, /) -> Iterator[Collective]:
        yield from ()

    def leaving(self, phase: Phase, place: Place, micro: int, /) -> Iterator[Collective]:
        """Gradients are reduced at the end of the backward pass."""
        ends = phase == "backward" and place == "before"
        if not ends or (self.stage < 2 and micro < self.accumulation - 1):
            return
        for group, elements in gradient_reductions(
            self.parameters,
            self.num_ranks,
            zero_stage=self.stage,
            bucket_elements=self.bucket_elements,
            overlaps=self.precision == "bf16",
        ):
            yield all_reduce(group, "float32", elements * ELEMENT_BYTES["fp32"])

    def evaluating(self, calls: int, /) -> Iterator[Mapping[Place, Sequence[Collective]]]:
        """All parameters are whole."""
        yield from ({} for _ in range(calls))

    def update(self) -> Iterator[Collective]:
        """Overflow check, gradient norm and, where the optimiser is sharded, the new parameters.

        The norm is computed whether or not gradients are clipped: by DeepSpeed over each parameter group, or by the
        engine itself in stage 0, where the ranks that share the experts add up their parts.
        """
        experts = [owner for owner in self.parameters if owner.group == "expert_data"]
        if self.stage == 0:
            if experts:
                yield all_reduce("expert", "float32", 4)
            yield from self._over_parts("float32", 4)
            return
        if self.precision == "bf16":
            yield all_reduce("data", "uint8", 1)
            yield from self._over_parts("uint8", 1)
        for _ in self.parameters:
            yield all_reduce("data", "float32", 4)
            yield from self._over_parts("float32", 4)
        for _ in experts:
            yield all_reduce("expert_data", "float32", 4)
        for owner in self.parameters:
            num_ranks = self.num_ranks[owner.group]
            if num_ranks > 1:
                size = owner.padded_elements(num_ranks) * self._element_bytes // num_ranks
                yield all_gather(owner.group, self._dtype, size, num_ranks)

    def _over_parts(self, dtype: str, size: int) -> Iterator[Collective]:
        if self.tensor_parallel > 1:
            yield all_reduce("tensor", dtype, size)

    @property
    def _dtype(self) -> str:
        return DTYPES[self.precision]

    @property
    def _element_bytes(self) -> int:
        return ELEMENT_BYTES[self.precision]
