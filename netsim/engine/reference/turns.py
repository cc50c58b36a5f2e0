"""Deficit round robin among classes of traffic (Shreedhar and Varghese, 1996)."""

from collections.abc import Sequence


class Turns:
    """Whose turn it is at one link. Classes without a quantum go first, in their order; the others take turns.

    A class that gets its turn may send its quantum (bytes) and what it has left from its last turn. It goes on while
    that covers its next packet, and keeps the rest. With nothing to send, or paused, it loses the rest.
    """

    def __init__(self, quanta: Sequence[int]) -> None:
        self._quanta = quanta
        self._left = [0] * len(quanta)
        self._turn = next((number for number, quantum in enumerate(quanta) if quantum), 0)
        self._given = False

    def next(self, needs: Sequence[int | None]) -> int | None:
        """The class that sends next, if any; `needs` are bytes of each next packet, None without one, or if paused."""
        ready = [number for number, need in enumerate(needs) if need is not None]
        if not ready or not self._quanta[ready[0]]:
            return ready[0] if ready else None
        while True:
            turn = self._turn
            need = needs[turn]
            if need is None:
                self._left[turn] = 0
            else:
                if self._left[turn] < need and not self._given:
                    self._left[turn] += self._quanta[turn]
                    self._given = True
                if self._left[turn] >= need:
                    return turn
            self._pass_on()

    def sent(self, number: int, size_bytes: int, more: bool) -> None:
        """Counts a packet that a class has sent; `more`: it has another."""
        if not self._quanta[number]:
            return
        self._left[number] -= size_bytes
        if not more:
            self._left[number] = 0
            self._pass_on()

    def _pass_on(self) -> None:
        """The turn passes to the next class that has one."""
        self._given = False
        while True:
            self._turn = (self._turn + 1) % len(self._quanta)
            if self._quanta[self._turn]:
                return
