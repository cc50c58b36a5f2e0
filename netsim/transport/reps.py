"""REPS: paths whose packets came through without a mark are used again.

Bonato et al.: REPS: Recycled Entropy Packet Spraying for Adaptive Load Balancing and Failure Mitigation, arXiv
2407.21625: a ring of eight entries a connection; here an entropy is a path.
"""

from collections import Counter, deque
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from netsim.draws import Draws, Purpose, stream
from netsim.foundation.units import Duration, Size
from netsim.transport.protocol import Entropies, Flow, Transport, TransportSettings


class Reps(Transport):
    """An acknowledgement without a mark adds its packet's path to the flow's cache; a packet takes the oldest entry.

    With an empty cache a packet explores: its path is drawn. After a timeout the flow freezes for a while: it uses the
    entries of its ring again, oldest first, and explores only if none of them is usable.
    """

    needs_acknowledgements = True

    def __init__(
        self,
        seed: int,
        most_paths: int,
        cache: int,
        freeze: int,
        mark_above: int,
        every: int = 1,
        explore: int = 0,
        entropies: int | None = None,
        forgive_last_link: bool = False,
    ) -> None:
        super().__init__(seed, most_paths)
        self.mark_above = mark_above
        self.entries, self.freeze_ps = cache, freeze
        self.every = every
        self.explore, self.entropies, self.forgives_last_link = explore, entropies, forgive_last_link
        self._draws = Draws(seed, Purpose.REPS_PATH)
        self._paths = Draws(seed, Purpose.ENTROPY_PATH)
        self._unmarked: Counter[int] = Counter()
        self._exploring: dict[int, int] = {}
        self._valid: dict[int, deque[int]] = {}
        self._ring: dict[int, deque[int]] = {}
        self._frozen_until: dict[int, int] = {}

    def constants(self) -> dict[str, int | float | str]:
        return {
            "choice": "REPS",
            "path_draws": stream(self.seed, Purpose.REPS_PATH),
            "entries": self.entries,
            "freeze_ps": self.freeze_ps,
            "explore": self.explore,
            "entropies": self.entropies or 0,
            "every": self.every,
        }

    def choose_path(self, flow: Flow, serial: int, usable: tuple[int, ...], now_ps: int) -> int:
        """The oldest valid entry; else, frozen, the ring in turn; else a draw."""
        if self._explores(flow, now_ps):
            return self._drawn(flow, serial, usable)
        valid = self._valid.get(flow.id)
        while valid:
            path = valid.popleft()
            if path in usable:
                return path
        if now_ps < self._frozen_until.get(flow.id, 0):
            ring = self._ring.get(flow.id, deque())
            for path in tuple(ring):
                ring.rotate(-1)
                if path in usable:
                    return path
        return self._drawn(flow, serial, usable)

    def _drawn(self, flow: Flow, serial: int, usable: tuple[int, ...]) -> int:
        drawn = self._draws(self.key_of(flow), serial)
        if self.entropies:
            drawn = self._paths(self.key_of(flow), drawn % self.entropies)
        return usable[drawn % len(usable)]

    def _explores(self, flow: Flow, now_ps: int) -> bool:
        """Whether a packet explores although the ring may have entries: after a freeze, whose end empties the ring."""
        if not self.explore:
            return False
        until = self._frozen_until.get(flow.id, 0)
        if until and now_ps >= until:
            self._frozen_until[flow.id] = 0
            self._exploring[flow.id] = self.explore
            for entries in (self._valid, self._ring):
                entries.pop(flow.id, None)
        left = self._exploring.get(flow.id, 0)
        self._exploring[flow.id] = max(0, left - 1)
        return left > 0

    def on_ack(self, flow: Flow, path: int, marked: bool) -> None:
        """A path without a mark becomes the newest entry; the oldest one goes if there is no room."""
        if marked:
            return
        self._unmarked[flow.id] += 1
        if self._unmarked[flow.id] % self.every:
            return
        for entries in (self._valid, self._ring):
            kept = entries.setdefault(flow.id, deque(maxlen=self.entries))
            kept.append(path)

    def on_timeout(self, flow: Flow, path: int | None, usable: tuple[int, ...], now_ps: int) -> int | None:  # noqa: ARG002
        """Freezes the flow: it does not explore for a while."""
        if self.explore and (self._frozen_until.get(flow.id, 0) or self._exploring.get(flow.id, 0)):
            return path
        self._frozen_until[flow.id] = now_ps + self.freeze_ps
        return path


class RepsConfig(TransportSettings):
    """Paths whose packets came through unmarked are used again.

    Args:
        cache: Number of entries in a flow's cache of paths.
        freeze: Time after a timeout for which a flow explores no new paths.
        every: Number of unmarked acknowledgements of which the last adds its path to the cache, as where receivers
            acknowledge several packets at once.
        explore: Number of packets that explore after a freeze, whose end empties the cache. Timeouts do not freeze the
            flow again before that is over. 0: the cache stays as it is.
        entropies: Number of values of the header field from which a flow draws. Switches' hashes lead each value to a
            path, so that some paths have many values and others none. null: one value for each path.
        forgive_last_link: Whether a packet that is trimmed in front of its receiver's own link does not count against
            its path.
        mark_above: Queue length above which packets are marked (ECN), unless the congestion control sets a threshold.
    """

    transport: ClassVar[type[Transport]] = Reps

    kind: Literal["reps"]
    cache: Annotated[int, Field(ge=1, le=64)] = 8
    freeze: Duration = 10**9
    every: Annotated[int, Field(ge=1, le=2**20)] = 1
    explore: Annotated[int, Field(ge=0, le=2**20)] = 0
    entropies: Entropies = None
    forgive_last_link: bool = False
    mark_above: Annotated[Size, Field(gt=0)] = 100_000
