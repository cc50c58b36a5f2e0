"""Transports whose switches choose the next link of each packet, by the queues of their own links only."""

from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from netsim.draws import Draws, Purpose, stream
from netsim.foundation.units import Duration
from netsim.transport.protocol import Flow, Transport, TransportSettings

Backlog = Callable[[int], int]
Ties = Literal["turn", "drawn"]


class JoinShortestQueue(Transport):
    """Each packet takes the link with the least unfinished work.

    Among equals it takes the next after the switch's last choice, or draws. After the last of a switch's links, by
    their numbers, comes its first.
    """

    at_switch = True

    def __init__(self, seed: int, most_paths: int, step: int = 0, ties: Ties = "turn") -> None:
        super().__init__(seed, most_paths)
        self.step_ps = max(1, step)
        self.draws_ties = ties == "drawn"
        self._draws = Draws(seed, Purpose.JSQ_TIE)
        self._last: dict[int, int] = {}

    def constants(self) -> dict[str, int | float | str]:
        return {
            "choice": "AT_SWITCH",
            "at_switch": "SHORTEST_DRAWN" if self.draws_ties else "SHORTEST",
            "path_draws": stream(self.seed, Purpose.JSQ_TIE),
            "step_ps": self.step_ps,
        }

    def choose_link(
        self,
        flow: Flow,
        serial: int,
        switch: int,
        links: Sequence[int],
        backlog_ps: Backlog,
        now_ps: int,  # noqa: ARG002
    ) -> int:
        """The shortest of the switch's queues to these links."""
        if self.draws_ties:
            work = [backlog_ps(link) // self.step_ps for link in links]
            equal = [link for link, much in zip(links, work, strict=True) if much == min(work)]
            return equal[self._draws(self.key_of(flow), serial << 20 | links[0]) % len(equal)]
        last = self._last.get(switch, -1)
        best = min(links, key=lambda link: (backlog_ps(link) // self.step_ps, link <= last, link))
        self._last[switch] = best
        return best


class JsqConfig(TransportSettings):
    """Each packet takes the shortest queue of its switch.

    Args:
        step: Steps in which the unfinished work of queues is compared: queues in the same step count as equal; 0: exact
            comparison.
        ties: Choice among queues that are equally short. turn: the next after the switch's last choice, so that
            switches which see the same queues may choose alike; drawn: any of them.
    """

    transport: ClassVar[type[Transport]] = JoinShortestQueue

    kind: Literal["jsq"]
    step: Duration = 0
    ties: Ties = "turn"


class Drill(Transport):
    """Each packet takes the shortest of `d` queues drawn at random and the `m` that were shortest before.

    Ghorbani et al.: DRILL: Micro Load Balancing for Low-latency Data Center Networks, SIGCOMM 2017.
    """

    at_switch = True

    def __init__(self, seed: int, most_paths: int, d: int = 2, m: int = 1) -> None:
        super().__init__(seed, most_paths)
        self.samples, self.memory = d, m
        self._draws = Draws(seed, Purpose.DRILL_SAMPLE)
        self._remembered: dict[int, list[int]] = {}

    def constants(self) -> dict[str, int | float | str]:
        return {
            "choice": "AT_SWITCH",
            "at_switch": "SAMPLED",
            "path_draws": stream(self.seed, Purpose.DRILL_SAMPLE),
            "samples": self.samples,
            "memory": self.memory,
        }

    def choose_link(
        self,
        flow: Flow,
        serial: int,
        switch: int,
        links: Sequence[int],
        backlog_ps: Backlog,
        now_ps: int,  # noqa: ARG002
    ) -> int:
        """The shortest candidate, among equals the first one drawn; the m shortest are remembered in this order."""
        candidates: list[int] = []
        for sample in range(self.samples):
            draw = self._draws(self.key_of(flow), (serial << 8 | sample) << 20 | links[0])
            candidates.append(links[draw % len(links)])
        candidates += [link for link in self._remembered.get(switch, []) if link in links]
        distinct = sorted(dict.fromkeys(candidates), key=backlog_ps)
        self._remembered[switch] = distinct[: self.memory]
        return distinct[0]


class DrillConfig(TransportSettings):
    """Each packet takes the shortest of some drawn and some remembered queues.

    Args:
        d: Number of queues drawn for each packet, with repetition.
        m: Number of shortest queues that each switch remembers.
    """

    transport: ClassVar[type[Transport]] = Drill

    kind: Literal["drill"]
    d: Annotated[int, Field(ge=1, le=64)] = 2
    m: Annotated[int, Field(ge=0, le=64)] = 1


class AdaptiveFlow(Transport):
    """The first packet of a flow takes the link with the least unfinished work, all others follow it."""

    at_switch = needs_packets = True

    def __init__(self, seed: int, most_paths: int) -> None:
        super().__init__(seed, most_paths)
        self._shortest = JoinShortestQueue(seed, most_paths)
        self._chosen: dict[tuple[int, int], int] = {}

    def constants(self) -> dict[str, int | float | str]:
        return {"choice": "AT_SWITCH", "at_switch": "FLOW_SHORTEST"}

    def choose_link(
        self, flow: Flow, serial: int, switch: int, links: Sequence[int], backlog_ps: Backlog, now_ps: int
    ) -> int:
        """The flow's link at this switch, chosen anew if it is no longer among `links`."""
        key = flow.id, switch
        if self._chosen.get(key) not in links:
            self._chosen[key] = self._shortest.choose_link(flow, serial, switch, links, backlog_ps, now_ps)
        return self._chosen[key]
