"""The protocol of an executor, which carries out the jobs of a sweep."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from netsim.grid.job import Failed, Files, Job


class Executor(Protocol):
    """Carries out jobs, several at once."""

    def idle(self) -> Sequence[str | None]:
        """An entry for each job that may be submitted now: the key of the cell that is prepared there, or None."""
        ...

    def submit(self, job: Job) -> None:
        """Starts a job; `idle` must not be empty."""
        ...

    def finished(self) -> Iterator[tuple[Job, Files | Failed]]:
        """Waits until at least one job is finished, and yields the finished ones."""
        ...

    def close(self) -> None:
        """Stops everything at once."""
        ...
