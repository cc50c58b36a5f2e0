"""What DeepSpeed sends while every rank holds a part of each parameter: ZeRO 3."""

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from trainer.experiment.forecast.protocol import (
    DTYPES,
    ELEMENT_BYTES,
    Collective,
    Phase,
    Place,
    all_gather,
    all_reduce,
    reduce_scatter,
)
from trainer.experiment.forecast.walk import Use, Walk


@dataclass(frozen=True, kw_only=True)
class Zero3Traffic:
    """Gathers before modules compute and reductions of gradients in buckets.

    What a module needs is gathered together when it starts, followed by what the next modules need until that fills a
    bucket. A module's parameters are given up when it ends, unless one of the next modules within a bucket's size, or
    what was fetched ahead, uses them again. Holds from the third step after a start, when DeepSpeed knows the order.

    Gradients fill a bucket in the order in which autograd delivers them, whatever module they belong to. One that would
    take the bucket above its size has what is in it reduced first; a gradient larger than a bucket fills one alone.

    Attributes:
        sizes: elements of each parameter in the order of the network.
        walk: order in which a pass uses them.
        num_ranks: ranks of the group data.
        precision: element type of parameters, fp32 or bf16; gradients are reduced in float32.
        bucket_elements: elements of one gradient reduction and of one gathering ahead.
        summed: what ranks send that add up their parts of a divided layer's result; None: no layer is divided. Sums are
            in the midst of a block, between the gathers of its layers.
        groups: of parameters in the optimiser, whose norms are added up one by one.
    """

    sizes: tuple[int, ...]
    walk: Walk
    num_ranks: int
    precision: str
    bucket_elements: int
    summed: Collective | None = None
    groups: int = 1

    def entering(self, _phase: Phase, _place: Place, _micro: int, /) -> Iterator[Collective]:
        yield from ()

    def leaving(self, phase: Phase, place: Place, _micro: int, /) -> Iterator[Collective]:
        yield from self._collectives[phase, place]

    def evaluating(self, calls: int, /) -> Iterator[Mapping[Place, Sequence[Collective]]]:
        """Parameters that a pass leaves whole are not gathered again by the next one."""
        parameters = GatheredParameters(self.sizes, self.bucket_elements, [*self.walk.forward, *self.walk.backward])
        for _ in range(calls):
            parameters.begin()
            sent: dict[Place, list[Collective]] = defaultdict(list)
            for use in self.walk.forward:
                if use.kind == "enter" and self.num_ranks > 1:
                    sent[use.place].extend(self._gathered(numbers) for numbers in parameters.fetch(use.parameters))
                elif use.kind == "leave" and self.num_ranks > 1:
                    parameters.release(use.parameters)
                elif use.kind == "sum":
                    assert self.summed is not None
                    sent[use.place].append(self.summed)
            yield sent

    def update(self) -> Iterator[Collective]:
        """The norm of the gradient; parameters are gathered when they are used."""
        for _ in range(self.groups):
            yield all_reduce("data", "float64", 8)
            if self.summed is not None:
                yield all_reduce(self.summed.group, "float64", 8)

    @cached_property
    def _collectives(self) -> dict[tuple[Phase, Place], list[Collective]]:
        """The collectives of a micro step where a pass issues them."""
        sent: dict[tuple[Phase, Place], list[Collective]] = defaultdict(list)
        parameters = GatheredParameters(self.sizes, self.bucket_elements, [*self.walk.forward, *self.walk.backward])
        bucket: list[int] = []
        phases: tuple[tuple[Phase, tuple[Use, ...]], ...] = (
            ("forward", self.walk.forward),
            ("backward", self.walk.backward),
        )
        for phase, uses in phases:
            for use in uses:
                here = sent[phase, use.place]
                if use.kind == "enter" and self.num_ranks > 1:
                    here.extend(self._gathered(numbers) for numbers in parameters.fetch(use.parameters))
                elif use.kind == "leave" and self.num_ranks > 1:
                    parameters.release(use.parameters)
                elif use.kind == "sum":
                    assert self.summed is not None
                    here.append(self.summed)
                for number in use.parameters if use.kind == "gradient" else ():
                    if bucket and sum(self.sizes[n] for n in bucket) + self.sizes[number] > self.bucket_elements:
                        here.append(self._reduced(bucket))
                        bucket.clear()
                    bucket.append(number)
        sent["backward", "before"].append(self._reduced(bucket))
        return sent

    def _gathered(self, numbers: list[int]) -> Collective:
        part_bytes = self._part_elements(numbers) * ELEMENT_BYTES[self.precision]
        return all_gather("data", DTYPES[self.precision], part_bytes, self.num_ranks)

    def _reduced(self, numbers: list[int]) -> Collective:
        return reduce_scatter("data", "float32", self._part_elements(numbers) * ELEMENT_BYTES["fp32"], self.num_ranks)

    def _part_elements(self, numbers: list[int]) -> int:
        """Elements of a rank's parts of some parameters, each cut evenly and the last part filled up."""
        return sum(-(-self.sizes[number] // self.num_ranks) for number in numbers)


class GatheredParameters:
    """Numbers of the parameters that are whole at a moment of a pass."""

    def __init__(self, sizes: tuple[int, ...], ahead_elements: int, uses: list[Use]) -> None:
        """Begins where none is whole; `ahead_elements` is the size of one gathering ahead."""
        self._sizes, self._ahead_elements = sizes, ahead_elements
        self._visits = [tuple(sorted(use.parameters)) for use in uses if use.kind == "enter"]
        self.whole: set[int] = set()
        self._not_used: set[int] = set()
        self._given_up: dict[tuple[int, tuple[int, ...]], set[int]] = {}
        self.begin()

    def begin(self) -> None:
        """Begins a pass; what was fetched ahead and never used is given up, what else is whole remains so."""
        self.whole -= self._not_used
        self._not_used.clear()
        self._queue = deque((number, visit) for visit, numbers in enumerate(self._visits) for number in numbers)
        self._last_visit: dict[int, int] = defaultdict(lambda: -1)
        self._visit = 0

    def fetch(self, needed: tuple[int, ...]) -> Iterator[list[int]]:
        """What is gathered together when a module starts: its own parameters, then those of the next ones."""
        missing = [number for number in needed if number not in self.whole]
        self._not_used.difference_update(needed)
        if missing:
            self.whole.update(missing)
            yield missing
        not_fetched_ahead = sum(self._last_visit[number] < self._visit for number in needed)
        for _ in range(not_fetched_ahead):
            number, visit = self._queue.popleft()
            self._last_visit[number] = visit
        ahead: list[int] = []
        while self._queue and sum(self._sizes[number] for number in ahead) < self._ahead_elements:
            number, visit = self._queue.popleft()
            self._last_visit[number] = max(self._last_visit[number], visit)
            if number not in self.whole:
                self.whole.add(number)
                self._not_used.add(number)
                ahead.append(number)
        if ahead:
            yield ahead
        self._visit += 1

    def release(self, used: tuple[int, ...]) -> None:
        """Gives parameters up that no near module uses again; what the first pass gives up, all others do."""
        if (self._visit, used) not in self._given_up:
            self._given_up[self._visit, used] = set(used) - self._kept(used)
        self.whole -= self._given_up[self._visit, used]

    def _kept(self, used: tuple[int, ...]) -> set[int]:
        """Parameters that one of the next modules uses, or that were to be fetched again."""
        kept = {number for number in used if self._last_visit[number] > self._visit}
        passed = 0
        for numbers in self._visits[self._visit :]:
            if passed >= self._ahead_elements:
                break
            kept.update(numbers)
            passed += sum(self._sizes[number] for number in numbers)
        return kept
