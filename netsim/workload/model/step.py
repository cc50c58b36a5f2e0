"""A training step of a pipeline stage: what its ranks send, in order, and what they compute before it."""

from collections.abc import Iterator
from typing import NamedTuple

from netsim.collective.protocol import Operation
from netsim.workload.device import Work
from netsim.workload.model.config import ModelConfig
from netsim.workload.model.network import Computation, Network
from netsim.workload.model.sharding import (
    Awaited,
    Event,
    Full,
    Handle,
    Phase,
    Place,
    Sends,
    Sent,
    Sharding,
    Weights,
    Whole,
)

_BACKWARD = 2
"""Products of a backward pass to one forward: the gradient of each factor."""
_GATE_BYTES, _COUNT_BYTES = 4, 8
"""Of a token's weight for an expert, and of a number of tokens."""


class Issued(NamedTuple):
    """A collective at its place in the program of every rank of a stage.

    `beside` is computed since the last one and before the ranks wait for earlier ones, `work` behind that. `awaited` is
    the number of the collective, or the end of the step, before which the ranks wait for it, None: they wait at once.
    """

    micro: int
    phase: str
    layer: int | None
    group: str
    operation: Operation
    peer: int | None
    beside: Work
    work: Work
    awaited: int | None


Where = tuple[int, str, int | None]


def issued(config: ModelConfig, stage: int) -> tuple[list[Issued], Work]:
    """The collectives of a stage in order, and the work of its ranks after the last collective."""
    found: list[Issued] = []
    under_way: dict[Handle, int] = {}
    beside = since = Work()
    for where, event in _Stage(config, stage).events():
        match event:
            case Work():
                since += event
            case Awaited(start):
                for handle in [one for one in under_way if one[: len(start)] == start]:
                    number = under_way.pop(handle)
                    found[number] = found[number]._replace(awaited=len(found))
                    beside, since = beside + since, Work()
            case Sent():
                if found and found[-1].awaited == len(found):
                    beside, since = beside + since, Work()
                if event.handle is not None:
                    under_way[event.handle] = len(found)
                awaited = len(found) + 1 if event.until_next else None
                found.append(Issued(*where, event.group, event.operation, event.peer, beside, since, awaited))
                beside = since = Work()
    for number in under_way.values():
        found[number] = found[number]._replace(awaited=len(found))
    return found, beside + since


class _Stage:
    """The passes of a stage through its places, microbatch after microbatch."""

    def __init__(self, config: ModelConfig, stage: int) -> None:
        self._config, self._stage, self._last = config, stage, config.division.pipeline - 1
        network = Network.of(config, config.division.tensor)
        count = config.layers // config.division.pipeline
        self._weights: Weights = {
            "before": network.before if stage == 0 else (),
            **dict.fromkeys(range(stage * count, (stage + 1) * count), network.block),
            "after": network.after if stage == self._last else (),
        }
        self._sends, computation = Sends(config), Computation(config)
        self._block, self._experts = computation.block, computation.experts
        self._around = computation.around((*self._weights["before"], *self._weights["after"]))
        sharding = Full if config.sharded == "full" else Whole
        self._sharding: Sharding = sharding(config, self._weights, network.experts)

    def events(self) -> Iterator[tuple[Where, Event]]:
        micros = self._config.microbatches
        ahead = min(self._last - self._stage, micros)
        for turn in range(micros + ahead):
            if turn < micros:
                yield from self._pass("forward", turn)
            if turn >= ahead:
                yield from self._pass("backward", turn - ahead)
        yield from (((micros - 1, "optimizer", None), event) for event in self._sharding.update())

    def _pass(self, phase: Phase, micro: int) -> Iterator[tuple[Where, Event]]:
        """Events of a pass: receives from the stage before, computes, sends on; a backward pass in reverse order."""
        places, ahead = list(self._weights), 1 if phase == "forward" else -1
        yield from (((micro, phase, None), event) for event in self._message("recv", phase, self._stage - ahead, micro))
        for place in places[::ahead]:
            where = micro, phase, place if isinstance(place, int) else None
            yield from ((where, event) for event in self._sharding.entering(phase, place))
            yield from ((where, event) for event in self._inside(phase, place))
            if phase == "backward" and micro == self._config.microbatches - 1:
                yield from ((where, event) for event in self._sharding.leaving(place))
        yield from (((micro, phase, None), event) for event in self._message("send", phase, self._stage + ahead, micro))

    def _message(self, op: str, phase: Phase, peer: int, micro: int) -> Iterator[Event]:
        if 0 <= peer <= self._last:
            size_bytes = self._config.tokens * self._config.hidden * self._config.activation_bytes
            handle = ("send", phase, micro) if op == "send" else None
            yield Sent("pipeline", Operation(op, 2, (size_bytes,)), peer, handle)

    def _inside(self, phase: Phase, place: Place) -> Iterator[Event]:
        if place == "after":
            yield self._around if phase == "forward" else self._around.times(_BACKWARD)
        elif place != "before":
            if phase == "backward" and self._config.recompute:
                yield from self._of_block("forward")
            yield from self._of_block(phase)

    def _of_block(self, phase: Phase) -> Iterator[Event]:
        """Work and collectives of a block: experts compute between dispatch and combine of the tokens."""
        times = 1 if phase == "forward" else _BACKWARD
        dense, experts, config = self._block.times(times), self._experts.times(times), self._config
        if config.division.tensor > 1:
            size_bytes = config.tokens * config.hidden * config.activation_bytes
            for _ in ("attention", "feed-forward"):
                yield dense.part(2)
                for one in self._sends.all_reduce("tensor", size_bytes):
                    yield one._replace(until_next=phase == "backward")
            return
        row = config.hidden * config.activation_bytes
        if phase == "forward":
            yield dense
            yield from self._sends.parts("all_gather", "expert", (config.experts or 0) * _COUNT_BYTES)
        yield from self._exchange(row + (_GATE_BYTES if phase == "forward" else 0), home=False)
        yield experts
        yield from self._exchange(row + (_GATE_BYTES if phase == "backward" else 0), home=True)
        if phase == "backward":
            yield dense

    def _exchange(self, row_bytes: int, *, home: bool) -> Iterator[Event]:
        """All-to-all of tokens to experts or `home`, even over the ranks; the rest goes to the next ranks in order."""
        ranks = self._sends.ranks["expert"]
        if ranks > 1:
            each, left = divmod(self._config.tokens * self._config.top_k, ranks)
            sent = [row_bytes * (each + (ahead < left)) for ahead in range(ranks)]
            way = -1 if home else 1
            rows = range(ranks)
            matrix = tuple(tuple(sent[way * (to - at) % ranks] for to in rows) for at in rows)
            yield Sent("expert", Operation("all_to_all", ranks, matrix=matrix))
