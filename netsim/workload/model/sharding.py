"""Exchange of weights and gradients between ranks that hold all of them (data parallel, ZeRO 1) or shards (FSDP)."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple, Protocol

from netsim.collective.protocol import Operation
from netsim.foundation.units import split_bytes
from netsim.workload.device import Work
from netsim.workload.model.config import ModelConfig
from netsim.workload.model.network import Computation, Weight

Place = int | Literal["before", "after"]
Phase = Literal["forward", "backward"]
Handle = tuple[object, ...]
_EXPERT_GROUP_ELEMENTS = 178_956_971
"""Most elements of experts that DeepSpeed's optimiser updates together."""


class Sent(NamedTuple):
    """A collective of a group by its meaning, or, of group pipeline, one side of a message to the stage `peer`.

    A rank waits for it at once; with a handle at the matching `Awaited`, or with `until_next` at its next collective.
    """

    group: str
    operation: Operation
    peer: int | None = None
    handle: Handle | None = None
    until_next: bool = False


class Awaited(NamedTuple):
    """A rank waits here for all collectives whose handles begin with `handle`."""

    handle: Handle = ()


Event = Sent | Awaited | Work
Weights = Mapping[Place, tuple[Weight, ...]]
"""The weights of a rank by the place of a pass that they belong to, in the order of the network, without experts."""


class Sends:
    """Makes collectives in groups of more than one rank; in smaller groups nothing is sent."""

    def __init__(self, config: ModelConfig) -> None:
        division = config.division
        self.ranks = {
            "data": division.data,
            "tensor": division.tensor,
            "expert": division.expert,
            "expert_data": division.data // division.expert,
        }

    def all_reduce(self, group: str, size_bytes: int, handle: Handle | None = None) -> Iterator[Sent]:
        """An all-reduce of `size_bytes` bytes."""
        ranks = self.ranks[group]
        if ranks > 1:
            yield Sent(group, Operation("all_reduce", ranks, tuple(split_bytes(size_bytes, ranks))), handle=handle)

    def parts(
        self, op: Literal["all_gather", "reduce_scatter"], group: str, size_bytes: int, handle: Handle | None = None
    ) -> Iterator[Sent]:
        """An all-gather to which each rank gives `size_bytes` bytes, or a reduce-scatter from which it gets as many."""
        ranks = self.ranks[group]
        if ranks > 1:
            yield Sent(group, Operation(op, ranks, (size_bytes,) * ranks), handle=handle)


class Sharding(Protocol):
    """Collectives around the places (blocks) of a pass, by the kind of sharding."""

    def entering(self, phase: Phase, place: Place, /) -> Iterable[Event]:
        """Collectives before a pass computes in a place."""
        ...

    def leaving(self, place: Place) -> Iterable[Event]:
        """Collectives after the last backward pass of a step in a place."""
        ...

    def update(self) -> Iterable[Event]:
        """Collectives and work of the optimiser, from its first collective on."""
        ...


class Whole:
    """Every rank has all weights; gradients are summed up in buckets, which no gradient but a larger one exceeds.

    With overlap gradients fill them in the order in which blocks end, else group after group behind all blocks. The
    optimiser's groups and the sums of their norms are DeepSpeed's (runtime/zero/stage_1_and_2.py, runtime/engine.py).
    """

    def __init__(self, config: ModelConfig, weights: Weights, experts: Iterable[Weight]) -> None:
        self._config, self._sends, self._weights = config, Sends(config), weights
        self._stacks = [(place, one.size) for place in weights if isinstance(place, int) for one in experts]
        self._sums = self._buckets()

    def entering(self, _phase: Phase, _place: Place) -> Iterator[Event]:
        yield from ()

    def leaving(self, place: Place) -> Iterator[Event]:
        yield from self._sums.get(place, ())

    def update(self) -> Iterator[Event]:
        config, experts = self._config, self._groups()
        dense = sum(one.size for weights in self._weights.values() for one in weights)
        yield Awaited()
        if config.sharded == "none":
            if experts:
                yield from self._sends.all_reduce("expert", 4)
            yield from self._sends.all_reduce("tensor", 4)
            yield Computation(config).update(dense + sum(map(sum, experts)))
            return
        for size_bytes in (*[1] * (config.weight_bytes < 4), *[4] * (1 + len(experts))):  # overflow, then norms
            yield from self._sends.all_reduce("data", size_bytes)
            yield from self._sends.all_reduce("tensor", size_bytes)
        for _ in experts:
            yield from self._sends.all_reduce("expert_data", 4)
        owners = self._sends.ranks
        of_experts = sum(map(sum, experts)) // owners["expert_data"]
        yield Computation(config).update(dense // owners["data"] + of_experts)
        for group, elements in (("data", dense), *(("expert_data", sum(sizes)) for sizes in experts)):
            own = 2 * -(-elements // (2 * owners[group]))
            yield from self._sends.parts("all_gather", group, own * config.weight_bytes)

    def _groups(self) -> list[list[int]]:
        """Sizes of the experts' matrices in each group of the optimiser."""
        groups: list[list[int]] = []
        for _, size in self._stacks:
            if not groups or sum(groups[-1]) + size > _EXPERT_GROUP_ELEMENTS:
                groups.append([])
            groups[-1].append(size)
        return groups

    def _gradients(self) -> Iterator[tuple[Place, str, int]]:
        """For each gradient the place at which it goes into a bucket, its group and its number of elements."""
        overlap = self._config.overlap
        for place in reversed(list(self._weights)):
            for block, size in reversed(self._stacks):
                if overlap and block == place:
                    yield place, "expert_data", size
            for one in reversed(self._weights[place]):
                yield place if overlap else "before", "data", one.size
        for sizes in () if overlap else self._groups():
            for size in reversed(sizes):
                yield "before", "expert_data", size

    def _buckets(self) -> dict[Place, list[Sent]]:
        """Collectives that sum up all buckets, by the place after which they are sent."""
        sums: dict[Place, list[Sent]] = defaultdict(list)
        bucket: Counter[str] = Counter()
        for place, group, size in self._gradients():
            if bucket and bucket.total() + size > self._config.bucket_elements:
                sums[place] += self._emptied(bucket, (place, len(sums[place])))
            bucket[group] += size
        sums["before"] += self._emptied(bucket, ())
        return sums

    def _emptied(self, bucket: Counter[str], name: Handle) -> Iterator[Sent]:
        for group, elements in bucket.items():
            handle = ("sum", *name, group) if self._config.overlap else None
            yield from self._sends.all_reduce(group, elements * self._config.gradient_bytes, handle)
        bucket.clear()


class Full:
    """A rank has rows of every weight. A block's are gathered before it computes, and given up behind it (FSDP2).

    With overlap a block is gathered while the one before it computes, in the backward pass in any case.
    """

    def __init__(self, config: ModelConfig, weights: Weights, experts: Iterable[Weight]) -> None:
        self._config, self._sends = config, Sends(config)
        self._blocks = [place for place in weights if isinstance(place, int)]
        ranks = self._sends.ranks
        stacks = _rows(experts, ranks["expert_data"])
        block = {"data": _rows(weights[self._blocks[0]], ranks["data"]), "expert_data": stacks}
        outer = {"data": _rows((*weights["before"], *weights["after"]), ranks["data"])}
        self._rows: dict[Place, dict[str, int]] = {"before": outer, **dict.fromkeys(self._blocks, block)}

    def entering(self, phase: Phase, place: Place) -> Iterator[Event]:
        overlap, ahead = self._config.overlap, 1 if phase == "forward" else -1
        if phase == "forward" and (place == "before" or not overlap):
            yield from self._gather(place)
        yield Awaited(("gather", place))
        if isinstance(place, int):
            following = place + ahead
        else:
            following = self._blocks[0 if ahead > 0 else -1] if (place == "before") == (ahead > 0) else None
        if following in self._blocks and (overlap or phase == "backward"):
            yield from self._gather(following)

    def leaving(self, place: Place) -> Iterator[Event]:
        yield from self._parts("reduce_scatter", place, self._config.gradient_bytes, "sum")

    def update(self) -> Iterator[Event]:
        yield Awaited()
        yield from self._sends.all_reduce("tensor", 4)
        yield from self._sends.all_reduce("data", 4)
        yield Computation(self._config).update(sum(sum(rows.values()) for rows in self._rows.values()))

    def _gather(self, place: Place) -> Iterator[Sent]:
        return self._parts("all_gather", place, self._config.weight_bytes, "gather")

    def _parts(
        self, op: Literal["all_gather", "reduce_scatter"], place: Place, element_bytes: int, name: str
    ) -> Iterator[Sent]:
        for group, rows in self._rows.get(place, {}).items():
            handle = (name, place, group) if self._config.overlap else None
            if rows:
                yield from self._sends.parts(op, group, rows * element_bytes, handle)


def _rows(weights: Iterable[Weight], ranks: int) -> int:
    """Elements of a rank's rows of some weights, as many on every rank."""
    return sum(-(-one.shape[0] // ranks) * (one.size // one.shape[0]) for one in weights)
