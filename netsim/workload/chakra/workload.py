"""Execution traces as a workload: nodes become tasks, the communication of all ranks is matched.

A rank proceeds until it needs an operation that another has not reached.
"""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from heapq import heappop, heappush
from pathlib import Path
from typing import Literal

from netsim.collective.columns import message_columns
from netsim.foundation.refusal import Refusal
from netsim.workload.chakra.files import (
    Dependencies,
    RankTrace,
    dependencies,
    find_traces,
    read_groups,
    read_rank,
)
from netsim.workload.chakra.nodes import Attribute, Node, NodeType
from netsim.workload.chakra.operations import Member, OperationKey, combine, duration_ps, operation_key
from netsim.workload.program import Program, Span, reversed_needs
from netsim.workload.protocol import Schedules, WorkloadSection


class ChakraConfig(WorkloadSection):
    """Section ``workload`` of kind ``chakra``.

    Args:
        path: A folder with one file NAME.RANK.et (or NAME.RANK.json) for each rank, or a path with NAME, relative to
            the working directory.
        groups: A JSON file of process groups by their pg_name, where the traces do not define them.
    """

    kind: Literal["chakra"]
    path: str
    groups: str | None = None


class ChakraWorkload:
    """The workload of a `ChakraConfig`.

    A node starts when all nodes that it depends on have ended; nothing else orders the nodes of a rank. Computation
    takes its duration, communication takes its simulated time. The k-th collective of a process group in the file of
    one rank and the k-th in that of another are the same; sends and receives are matched in the order of the files for
    each group, sender, receiver and tag. A rank does not wait for other ranks to arrive at an operation, except in a
    barrier: a message leaves when its sender sends it, and waits for its receiver where it arrives. A send and its
    receive end when all bytes have arrived. comm_size is the rank's input buffer.
    """

    def __init__(self, config: ChakraConfig) -> None:
        self._path = Path(config.path)
        self._groups = Path(config.groups) if config.groups else None
        self.notices: list[str] = []

    @cached_property
    def traces(self) -> list[RankTrace]:
        """Execution trace of each rank."""
        return [read_rank(path) for path in find_traces(self._path)]

    @cached_property
    def dependencies(self) -> list[Dependencies]:
        """Dependencies of the nodes of each rank."""
        return [dependencies(trace) for trace in self.traces]

    @cached_property
    def groups(self) -> Mapping[str, Sequence[int]]:
        """Members of each process group, in its order; "" is all ranks."""
        world = range(len(self.traces))
        groups: dict[str, Sequence[int]] = {"": world}
        sources = [(trace.path, trace.groups) for trace in self.traces]
        if self._groups:
            sources.append((self._groups, read_groups(self._groups)))
        for path, defined in sources:
            for name, ranks in defined.items():
                if not ranks or len(set(ranks)) < len(ranks) or not all(rank in world for rank in ranks):
                    problem = f"does not list distinct ranks below {len(world)} ({list(ranks)!r:.60})"
                    raise Refusal(path, f"group {name:.40}", problem, "correct it, or add the files of all ranks")
                if list(groups.setdefault(name, ranks)) != list(ranks):
                    problem = f"has other ranks ({list(ranks)!r:.60}) than in another file"
                    raise Refusal(path, f"group {name:.40}", problem, "give the groups of one and the same run")
        return groups

    def size(self, available: int) -> int:  # noqa: ARG002
        """Number of ranks, whatever is available."""
        self.notices = [f"{self._path}: {text}" for text in self._deviations()]
        return len(self.traces)

    def extend(self, program: Program, ranks: Sequence[int], start_ps: int, schedules: Schedules) -> None:
        needs = [trace_dependencies.needs for trace_dependencies in self.dependencies]
        Layout(self.traces, needs, self.groups, program, ranks, schedules).run(start_ps)

    def _deviations(self) -> Iterator[str]:
        unknown = Counter(node.type for trace in self.traces for node in trace.nodes if _lacks_duration(node))
        for kind in (NodeType.COMP_NODE, NodeType.MEM_LOAD_NODE, NodeType.MEM_STORE_NODE):
            if unknown[kind]:
                yield f"{unknown[kind]} nodes {kind.name} state their work but no duration, and take no time"
        callers = sum(not trace_dependencies.control for trace_dependencies in self.dependencies)
        if callers:
            yield f"ctrl_deps of {callers} ranks contradict data_deps, which alone are followed there"


def _lacks_duration(node: Node) -> bool:
    work = ("num_ops", "tensor_size")
    return node.collective is None and not node.duration_us and any(node.attributes.get(name) for name in work)


class _Gathering:
    """An operation under way: nodes and tasks of the ranks that have arrived, and ranks that wait for its end.

    `moved` is the task of a sent message, which leaves whether or not its receiver has come.
    """

    def __init__(self, about: OperationKey) -> None:
        self.about = about
        self.come: dict[int, tuple[int, int]] = {}
        self.waiting: list[int] = []
        self.moved: int | None = None


class _Rank:
    """Progress of a rank in the layout; nodes are numbered by their place in the file."""

    def __init__(
        self, trace: RankTrace, needs: Sequence[Sequence[int]], rank: int, groups: Mapping[str, Sequence[int]]
    ) -> None:
        self.members = [Member(trace, node) for node in trace.nodes]
        self.keys = [operation_key(member, rank, groups) for member in self.members]
        self.turns = list(_turns(self.keys))
        self.needs, self.needed_by = needs, reversed_needs(needs)
        self.over: list[int | None] = [None] * len(needs)
        self.missing = [len(needed) for needed in needs]
        self.claimed: set[int] = set()
        self.next = 0
        self.gathering: dict[int, _Gathering] = {}
        self.ready = [place for place, missing in enumerate(self.missing) if not missing]

    def finish(self, place: int, task: int) -> None:
        """Sets the task at whose end a node ends, which may make other nodes ready."""
        self.over[place] = task
        for later in self.needed_by[place]:
            self.missing[later] -= 1
            if not self.missing[later]:
                heappush(self.ready, later)

    def claim(self, place: int) -> int | None:
        """The task of a computation that is a communication's only dependency, if not claimed before; else None."""
        needed = self.needs[place]
        if self.keys[place] is None or len(needed) != 1 or needed[0] in self.claimed:
            return None
        if self.keys[needed[0]] is not None:
            return None
        self.claimed.add(needed[0])
        return self.over[needed[0]]

    def blocking(self) -> _Gathering | None:
        """The operation that the first node not yet laid out waits for."""
        while self.next < len(self.needs) and (self.over[self.next] is not None or self.next in self.gathering):
            self.next += 1
        if self.next == len(self.needs):
            return None
        unfinished = (self.gathering.get(earlier) for earlier in self.needs[self.next] if self.over[earlier] is None)
        return next((gathering for gathering in unfinished if gathering), None)


def _turns(keys: Sequence[OperationKey | None]) -> Iterator[int]:
    """For each node, the number of earlier nodes in the file with the same key."""
    counts: dict[tuple[str | int, ...], int] = {}
    for about in keys:
        key = about.key if about else ()
        counts[key] = counts.get(key, -1) + 1
        yield counts[key]


class Layout:
    """The tasks of all ranks.

    `needs` has for each rank and node the nodes that it waits for, by their place in the file; group "" is all ranks.
    """

    def __init__(
        self,
        traces: Sequence[RankTrace],
        needs: Sequence[Sequence[Sequence[int]]],
        groups: Mapping[str, Sequence[int]],
        program: Program,
        ranks: Sequence[int],
        schedules: Schedules,
    ) -> None:
        self._program, self._ranks, self._schedules = program, ranks, schedules
        both = zip(traces, needs, strict=True)
        self._states = [_Rank(trace, needed, rank, groups) for rank, (trace, needed) in enumerate(both)]
        self._gatherings: dict[tuple[str | int, ...], _Gathering] = {}
        self._unreceived: list[_Gathering] = []

    def run(self, start_ps: int) -> None:
        """Adds all tasks."""
        self._start = self._program.wait(self._ranks[0], (), start_ps)
        runnable = deque(range(len(self._states)))
        while runnable:
            queued = set(runnable)
            while runnable:
                rank = runnable.popleft()
                queued.remove(rank)
                freed = [other for other in dict.fromkeys(self._advance(rank)) if other not in queued]
                runnable += freed
                queued.update(freed)
            runnable += dict.fromkeys(self._send())
        for gathering in self._gatherings.values():
            for rank in gathering.about.members:
                if rank not in gathering.come:
                    self._refuse(gathering, rank)

    def _advance(self, rank: int) -> list[int]:
        """Lays out all ready nodes of a rank; returns the ranks that this unblocks."""
        state, freed = self._states[rank], []
        while state.ready:
            freed += self._come(rank, heappop(state.ready))
        blocking = state.blocking()
        if blocking:
            blocking.waiting.append(rank)
        return freed

    def _come(self, rank: int, place: int) -> list[int]:
        """Processes the arrival of a rank at a node; the last arrival at an operation adds its messages."""
        state = self._states[rank]
        member, about = state.members[place], state.keys[place]
        delay_ps = 0 if about else duration_ps(member)
        if not (about or delay_ps or state.needed_by[place]):
            state.finish(place, self._start)
            return []
        come = state.claim(place)
        if come is None:
            after = [task for task in (state.over[earlier] for earlier in state.needs[place]) if task is not None]
            come = self._program.wait(self._ranks[rank], after or (self._start,), delay_ps)
        if about is None or len(about.members) == 1:
            state.finish(place, come)
            return []
        gathering = self._gatherings.setdefault((*about.key, state.turns[place]), _Gathering(about))
        gathering.come[rank] = place, come
        state.gathering[place] = gathering
        if gathering.moved is not None:
            self._receive(gathering, gathering.moved)
        elif len(gathering.come) == len(about.members):
            self._carry_out(gathering)
        else:
            if about.is_pair and rank == about.members[0]:
                self._unreceived.append(gathering)
            return []
        woken = [other for other in about.members if other != rank and self._states[other].ready]
        return gathering.waiting + woken

    def _send(self) -> Iterator[int]:
        """Adds the messages whose receivers have not arrived; returns the ranks that this unblocks: their senders.

        Called when no rank can proceed otherwise, so that task numbers stay where both sides come by themselves.
        """
        sent, self._unreceived = self._unreceived, []
        for gathering in sent:
            src, dst = gathering.about.members
            if dst not in gathering.come:
                place, come = gathering.come[src]
                size_bytes = self._states[src].members[place].size()
                gathering.moved = self._program.move(self._ranks[src], self._ranks[dst], size_bytes, (come,))
                self._finish(gathering, src, gathering.moved)
                yield src

    def _receive(self, gathering: _Gathering, moved: int) -> None:
        """Adds the end of the receive of a message that has left without its receiver."""
        src, dst = gathering.about.members
        places = [gathering.come[rank][0] for rank in (src, dst)]
        nodes = [self._states[rank].members[place] for rank, place in zip((src, dst), places, strict=True)]
        operation = combine(nodes, (src, dst))
        self._finish(gathering, dst, moved)
        over = [self._states[rank].over[place] for rank, place in zip((src, dst), places, strict=True)]
        self._note(gathering, operation.op, sum(operation.blocks), over)

    def _finish(self, gathering: _Gathering, rank: int, moved: int) -> None:
        """Ends a send or receive of a rank when both the rank and the message have arrived."""
        place, come = gathering.come[rank]
        self._states[rank].finish(place, self._program.wait(self._ranks[rank], (come, moved)))

    def _carry_out(self, gathering: _Gathering) -> None:
        """Adds the messages of an operation at which all ranks have arrived."""
        members = gathering.about.members
        nodes = [self._states[rank].members[gathering.come[rank][0]] for rank in members]
        operation = combine(nodes, members)
        come = [gathering.come[rank][1] for rank in members]
        ranks = [self._ranks[member] for member in members]
        messages = message_columns(self._schedules(operation, ranks))
        over = self._program.carry_out(messages, ranks, come)
        for rank, task in zip(members, over, strict=True):
            self._states[rank].finish(gathering.come[rank][0], task)
        self._note(gathering, operation.op, messages.payload, over)

    def _note(self, gathering: _Gathering, op: str, payload: int, over: Sequence[int | None]) -> None:
        """Notes an operation at which all ranks have arrived, for the results."""
        members = gathering.about.members
        attributes = self._states[members[0]].members[gathering.come[members[0]][0]].node.attributes
        name = _text(attributes.get("pg_desc")) or gathering.about.group or None
        step, layer = _number(attributes.get("step")), _number(attributes.get("layer"))
        about = (op, name, len(members), step, _text(attributes.get("phase")), layer)
        come = [gathering.come[rank][1] for rank in members]
        ends = [task for task in over if task is not None]
        self._program.spans.append(Span(*about, payload, come, ends))

    def _refuse(self, gathering: _Gathering, absent: int) -> None:
        rank, (place, _) = next(iter(gathering.come.items()))
        member = self._states[rank].members[place]
        problem = f"rank {rank} waits in {member.node.collective} for rank {absent}, which never comes"
        if gathering.about.is_pair:
            sends = rank == gathering.about.members[0]
            what = f"sends to rank {absent}, which never receives" if sends else f"waits for rank {absent} to send"
            problem = f"rank {rank} {what}"
        raise member.refuse("peers", problem, "the traces are cut off or inconsistent: record them again")


def _number(value: Attribute | None) -> int | None:
    return value if isinstance(value, int) else None


def _text(value: Attribute | None) -> str | None:
    return value if isinstance(value, str) and value else None
