"""Schedules in GOAL, the Group Operation Assembly Language, as a workload: operations come after all they wait for."""

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from netsim.foundation.lines import MOST
from netsim.foundation.refusal import Refusal
from netsim.workload.goal_text import Goal, Operation, read_goal
from netsim.workload.program import Program, in_order
from netsim.workload.protocol import Schedules, WorkloadSection


class Layout:
    """The tasks of a schedule; `sends_end_at_start`: ``requires`` a send waits only for its start.

    Operation i of all ranks together has two moments: 2 i, when it may start, and 2 i + 1, when it ends; a send ends
    when its message has arrived.
    """

    def __init__(self, goal: Goal, sends_end_at_start: bool) -> None:
        self._goal = goal
        self._operations: list[Operation] = [operation for rank in goal.ranks for operation in rank.operations]
        self._rank_of: list[int] = []
        self._refuse_overflow()
        self._needs: list[list[int]] = [[] for _ in range(2 * len(self._operations))]
        for rank, schedule in enumerate(goal.ranks):
            first = len(self._rank_of)
            self._rank_of += [rank] * len(schedule.operations)
            for later, earlier, start in schedule.dependencies:
                started = start or (sends_end_at_start and schedule.operations[earlier].kind == "send")
                self._needs[2 * (first + later)].append(2 * (first + earlier) + (not started))
        self._match()

    def _refuse_overflow(self) -> None:
        for kinds, unit, what in ((("calc",), 1000, "calc"), (("send",), 1, "send")):
            total = sum(operation.amount for operation in self._operations if operation.kind in kinds)
            if total * unit >= MOST:
                raise Refusal(self._goal.path, "file", f"all {what} together are too large ({total})", "shorten it")

    def _match(self) -> None:
        """The k-th receive of a rank from another with a tag ends when the k-th such message has arrived."""
        sent: dict[tuple[int, int, int], deque[int]] = defaultdict(deque)
        for index, operation in enumerate(self._operations):
            if operation.kind == "send":
                sent[self._rank_of[index], operation.peer, operation.tag].append(index)
        for index, operation in enumerate(self._operations):
            if operation.kind != "recv":
                continue
            waiting = sent[operation.peer, self._rank_of[index], operation.tag]
            if not waiting:
                raise self._unmatched(index, "recv", "sends it no such message")
            message = waiting.popleft()
            size_bytes = self._operations[message].amount
            if size_bytes != operation.amount:
                problem = f"{operation.amount} received of {size_bytes} sent in line {self._operations[message].line}"
                raise Refusal(self._goal.path, f"line {operation.line}: recv bytes", problem, "make them equal")
            self._needs[2 * index + 1].append(2 * message + 1)
        for messages in sent.values():
            if messages:
                raise self._unmatched(messages[0], "send", "never receives it")

    def _unmatched(self, index: int, field: str, what: str) -> Refusal:
        line, _, size_bytes, peer, tag = self._operations[index]
        problem = f"{size_bytes} B with tag {tag} of rank {self._rank_of[index]}: rank {peer} {what}"
        remedy = "correct rank or tag, or complete the file if it is cut off"
        return Refusal(self._goal.path, f"line {line}: {field}", problem, remedy)

    def run(self, program: Program, ranks: Sequence[int], start_ps: int) -> None:
        """Adds all tasks to `program`; `ranks` has the scenario's rank of each rank of the schedule."""
        begin = program.wait(ranks[0], (), start_ps)
        needs = self._needs
        for index in range(len(self._operations)):
            needs[2 * index + 1].append(2 * index)
        tasks = [-1] * len(needs)
        order, stuck = in_order(needs)
        for moment in order:
            tasks[moment] = self._task(program, ranks, moment, [tasks[earlier] for earlier in needs[moment]] or [begin])
        if stuck is not None:
            line, kind, *_ = self._operations[stuck // 2]
            problem = f"rank {self._rank_of[stuck // 2]} never gets through: operations wait for each other in a circle"
            raise Refusal(self._goal.path, f"line {line}: {kind}", problem, "correct requires and irequires")

    def _task(self, program: Program, ranks: Sequence[int], moment: int, after: list[int]) -> int:
        """The task whose end is a moment; a moment that coincides with an earlier one shares its task."""
        index, at_end = divmod(moment, 2)
        operation, rank = self._operations[index], ranks[self._rank_of[index]]
        if at_end and operation.kind == "send":
            return program.move(rank, ranks[operation.peer], operation.amount, after)
        delay_ps = 1000 * operation.amount if at_end and operation.kind == "calc" else 0
        after = list(dict.fromkeys(after))
        return after[0] if len(after) == 1 and not delay_ps else program.wait(rank, after, delay_ps)


class GoalConfig(WorkloadSection):
    """Section ``workload`` of kind ``goal``.

    Args:
        path: A schedule in GOAL's text, relative to the working directory.
        send_ends: When a send counts as ended for the operations that require it. arrived: when its message has
            arrived; started: at once, as with small messages that the sender's host takes over.
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
