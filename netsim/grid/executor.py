"""What a sweep asks of those who carry out its jobs."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from netsim.grid.job import Failed, Files, Job


class Executor(Protocol):
    """Carries out jobs, several at once."""

    def idle(self) -> Sequence[str | None]:
        """An entry for each job that may be submitted now: the cell that would be quickest, by key, if one would."""
        ...

    def submit(self, job: Job) -> None:
        """Starts a job; `idle` must not be empty."""
        ...

    def finished(self) -> Iterator[tuple[Job, Files | Failed]]:
        """Waits until at least one job is over, and gives those that are."""
        ...

    def close(self) -> None:
        """Stops everything at once."""
        ...
