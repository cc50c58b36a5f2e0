"""How long a comparison still takes, from what its stages have taken so far."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from trainer.experiment.stage import Stage

LEAST_SHARE = 0.02
"""Of a stage that must be done before its own pace is believed: the first steps are slow."""


@dataclass(frozen=True)
class Piece:
    """One stage of one run."""

    method: str
    seed: int
    stage: Stage

    @property
    def amount(self) -> int:
        """Steps or pairs that it takes; 1 where it counts neither."""
        return self.stage.cost.steps or self.stage.cost.pairs or 1


@dataclass
class _Begun:
    """A piece that is worked on: since when, and the share that was done then and is now."""

    since: float
    share_then: float
    share: float


class TimeLeft:
    """Time left of pieces of work, several of which are done at a time; safe to call from several threads.

    A piece in progress keeps its pace. One that has not begun takes as long as the same stage of other seeds, or else,
    for each of its steps or pairs, as long as stages of its kind. Where neither is known, no time is given.
    """

    def __init__(self, pieces: Sequence[Piece], jobs: int, now: Callable[[], float] = time.monotonic) -> None:
        self._left = {(piece.method, piece.seed, piece.stage.name): piece for piece in pieces}
        self._begun: dict[tuple[str, int, str], _Begun] = {}
        self._taken: dict[tuple[str, str], list[float]] = {}
        self._paces: dict[str, list[float]] = {}
        self._jobs, self._now, self._lock = jobs, now, threading.Lock()

    def reached(self, piece: Piece) -> None:
        """Notes how much of a piece is done; the first call says that it begins."""
        share, key = piece.stage.share_done, (piece.method, piece.seed, piece.stage.name)
        with self._lock:
            self._begun.setdefault(key, _Begun(self._now(), share, share)).share = share

    def ended(self, piece: Piece) -> None:
        """Notes that a piece is done."""
        key = piece.method, piece.seed, piece.stage.name
        with self._lock:
            self._left.pop(key, None)
            begun = self._begun.pop(key, None)
            if begun is not None and begun.share_then < 1:
                whole = (self._now() - begun.since) / (1 - begun.share_then)
                self._taken.setdefault((piece.method, piece.stage.name), []).append(whole)
                self._paces.setdefault(piece.stage.verb, []).append(whole / piece.amount)

    def dropped(self, method: str, seed: int) -> None:
        """Notes that a run has failed, whose other stages are not begun."""
        with self._lock:
            for key in [key for key in self._left if key[:2] == (method, seed)]:
                del self._left[key]
                self._begun.pop(key, None)

    def seconds(self) -> float | None:
        """What is left, in s; None: nothing like one of the stages has been done yet."""
        with self._lock:
            times = [self._of(key, piece) for key, piece in self._left.items()]
        known = [one for one in times if one is not None]
        if len(known) < len(times):
            return None
        return max(sum(known) / self._jobs, *known, 0.0)

    def _of(self, key: tuple[str, int, str], piece: Piece) -> float | None:
        begun = self._begun.get(key)
        if begun is not None and begun.share - begun.share_then >= LEAST_SHARE:
            pace = (self._now() - begun.since) / (begun.share - begun.share_then)
            return pace * (1 - begun.share)
        alike = self._taken.get((piece.method, piece.stage.name))
        paces = self._paces.get(piece.stage.verb)
        if alike is None and paces is None:
            return None
        whole = fmean(alike) if alike is not None else fmean(paces or ()) * piece.amount
        if begun is None:
            return whole
        passed = self._now() - begun.since
        remaining = whole * (1 - begun.share_then) - passed
        return remaining if remaining > 0 else None
