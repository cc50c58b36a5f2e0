"""A GOAL schedule as a workload."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from netsim.foundation.refusal import Refusal
from netsim.workload.goal.layout import Layout
from netsim.workload.goal.text import Goal, read_goal
from netsim.workload.program import Program
from netsim.workload.protocol import Schedules
from netsim.workload.section import WorkloadSection


class GoalConfig(WorkloadSection, frozen=True):
    """Section ``workload`` of kind ``goal``.

    Args:
        path: A schedule in GOAL's text, relative to the working directory.
        send_ends: When a send ends for the operations that require it. arrived: when its message has arrived; started:
            at once, as small messages do that the sender's host takes over.
    """

    kind: Literal["goal"]
    path: str
    send_ends: Literal["arrived", "started"] = "arrived"


class GoalWorkload:
    """The workload of a `GoalConfig`; its rank i is the job's rank i.

    An operation starts when all that it ``requires`` have ended and all that it ``irequires`` have started; nothing
    else orders the operations of a rank, not even that they share a cpu. A calc takes its number of nanoseconds. A
    message leaves when its send starts and waits for its receive where it arrives; the k-th send to a rank with a tag
    meets the k-th receive there. A receive ends when it has started and its message has arrived.
    """

    def __init__(self, config: GoalConfig) -> None:
        self._path = Path(config.path)
        self._sends_end_at_start = config.send_ends == "started"
        self.notices: list[str] = []

    @cached_property
    def goal(self) -> Goal:
        """The schedule of the file."""
        return read_goal(self._path)

    def size(self, available: int) -> int:
        """Number of ranks, which may be smaller than the fabric."""
        needed = len(self.goal.ranks)
        if needed > available:
            problem = f"there are {needed}, the job has {available} ranks"
            raise Refusal(self._path, "num_ranks", problem, "enlarge the topology or the job's ranks")
        self.notices = [f"{self._path}: {text}" for text in self._deviations(available)]
        return needed

    def extend(self, program: Program, ranks: Sequence[int], start_ps: int, schedules: Schedules) -> None:  # noqa: ARG002
        Layout(self.goal, self._sends_end_at_start).run(program, ranks, start_ps)

    def _deviations(self, available: int) -> Iterator[str]:
        needed = len(self.goal.ranks)
        if needed < available:
            yield f"{needed} ranks on a fabric of {available}: the first {needed} are used"
        operations = [operation for rank in self.goal.ranks for operation in rank.operations]
        empty = sum(operation.kind == "send" and not operation.amount for operation in operations)
        if empty:
            yield f"{empty} messages without bytes take no time"
