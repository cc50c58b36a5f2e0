"""How far a rank has come in its process groups, and for which ranks it therefore waits."""

import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

from trainer.distributed.process.flights import flights, group_names, ranks_of


class Reached(NamedTuple):
    """Collectives of a process group that a rank has issued and that have ended; `ranks` is empty if all have."""

    issued: int
    ended: int
    ranks: tuple[int, ...] = ()


Progress = Mapping[str, Reached]
"""By torch's name of the group, which is the same on all of its ranks."""


class OwnProgress:
    """Reads the progress of this process from torch's flight recorder; any thread may."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._nameless: set[tuple[str, int]] = set()

    def read(self) -> Progress:
        """How far this process has come; empty where torch has no recorder."""
        told = json.loads(flights(collectives=False) or b"{}").get("pg_status") or {}
        counts = {
            number: (int(status["last_enqueued_collective"]), int(status["last_completed_collective"]))
            for number, status in told.items()
        }
        nameless = {(number, issued) for number, (issued, _) in counts.items() if number not in self._names}
        if nameless - self._nameless:  # the whole record is read only when it may tell a further name
            self._names |= group_names()
            self._nameless = {(number, issued) for number, issued in nameless if number not in self._names}
        return {
            self._names[number]: Reached(issued, ended, tuple(ranks_of(self._names[number])) if issued > ended else ())
            for number, (issued, ended) in counts.items()
            if number in self._names
        }


def to_json(progress: Progress) -> str:
    """What other ranks are told."""
    return json.dumps(progress, separators=(",", ":"))


def from_json(text: str | bytes) -> Progress:
    """What another rank told."""
    return {group: Reached(issued, ended, tuple(ranks)) for group, (issued, ended, ranks) in json.loads(text).items()}


def awaited(rank: int, told: Callable[[int], Progress]) -> set[int]:
    """The ranks that keep a rank waiting and wait for no other themselves; `told` gives progress, empty if unknown.

    A rank waits for those that have not issued the first of its collectives that has not ended. Those may wait in turn,
    in the same group or in others.
    """
    causes: set[int] = set()
    seen, coming = {rank}, [rank]
    while coming:
        one = coming.pop()
        behind = {
            other
            for group, own in told(one).items()
            if own.issued > own.ended
            for other in own.ranks
            if told(other).get(group, Reached(0, 0)).issued <= own.ended
        }
        if not behind and one != rank:
            causes.add(one)
        coming += behind - seen
        seen |= behind
    return causes
