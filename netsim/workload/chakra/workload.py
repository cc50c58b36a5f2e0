"""Execution traces as a workload: nodes become tasks, the communication of all ranks is matched."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from netsim.foundation.refusal import Refusal
from netsim.workload.chakra.files import Dependencies, RankTrace, dependencies, find_traces, read_groups, read_rank
from netsim.workload.chakra.layout import Layout
from netsim.workload.chakra.nodes import Node, NodeType
from netsim.workload.program import Program
from netsim.workload.protocol import Schedules, WorkloadSection


class ChakraConfig(WorkloadSection, frozen=True):
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
