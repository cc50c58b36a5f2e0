"""What DeepSpeed sends while every rank holds all parameters: ZeRO 0, 1 and 2."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from trainer.trace.formula.protocol import DTYPES, ELEMENT_BYTES, Collective, Phase, Place, all_gather, all_reduce
from trainer.trace.formula.reduction import ParameterGroup, gradient_reductions


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
        """See the protocol."""
        yield from ()

    def leaving(self, phase: Phase, place: Place, micro: int, /) -> Iterator[Collective]:
        """See the protocol: gradients are reduced at the end of the backward pass."""
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
        """See the protocol: all parameters are whole."""
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
