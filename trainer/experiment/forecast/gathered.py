"""Parameters that ZeRO 3 has whole at a moment of a pass, and those that it gathers and gives up next."""

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence

from trainer.experiment.forecast.protocol import Moment


class GatheredParameters:
    """Numbers of the parameters that are whole at a moment of a pass."""

    def __init__(self, sizes: tuple[int, ...], ahead_elements: int, moments: Sequence[Moment]) -> None:
        """Starts with no whole parameter; `ahead_elements` is the size of one prefetch."""
        self._sizes, self._ahead_elements = sizes, ahead_elements
        self._visits = [tuple(sorted(one.parameters)) for one in moments if one.kind == "enter"]
        self.whole: set[int] = set()
        self._not_used: set[int] = set()
        self._given_up: dict[tuple[int, tuple[int, ...]], set[int]] = {}
        self.begin()

    def begin(self) -> None:
        """Begins a pass; gives up prefetched parameters that were never used, and keeps the other whole ones."""
        self.whole -= self._not_used
        self._not_used.clear()
        self._queue = deque((number, visit) for visit, numbers in enumerate(self._visits) for number in numbers)
        self._last_visit: dict[int, int] = defaultdict(lambda: -1)
        self._visit = 0

    def fetch(self, needed: tuple[int, ...]) -> Iterator[list[int]]:
        """Yields parameters gathered together when a module starts: its missing ones, then those of the next."""
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

    def release(self, used: tuple[int, ...]) -> list[int]:
        """Gives up and returns parameters that no near module uses again; later passes give up the same ones."""
        if (self._visit, used) not in self._given_up:
            self._given_up[self._visit, used] = set(used) - self._kept(used)
        freed = self.whole & self._given_up[self._visit, used]
        self.whole -= freed
        return sorted(freed)

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
