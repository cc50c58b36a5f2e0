"""Dependencies between the nodes of one execution trace."""

from collections.abc import Sequence
from typing import NamedTuple

from netsim.foundation.refusal import Refusal
from netsim.workload.chakra.files import RankTrace

_REMEDY = "convert or record the trace again"


class Dependencies(NamedTuple):
    """Nodes that each node `needs`, by place in the file; `control`: all ctrl_deps on its nodes are among them."""

    needs: Sequence[Sequence[int]]
    control: bool


def dependencies(trace: RankTrace) -> Dependencies:
    """Data dependencies, and control dependencies where they do not contradict them.

    Traces from a profiler have the caller of a node in ctrl_deps, and sometimes a caller that waits for the node it
    called. If ctrl_deps and data_deps together form a circle in a file, only its data_deps are used.
    """
    places = {node.id: place for place, node in enumerate(trace.nodes)}
    data: list[list[int]] = []
    both: list[list[int]] = []
    for node in trace.nodes:
        for other in node.data:
            if other not in places:
                problem = f"needs node {other}, which does not exist"
                raise Refusal(trace.path, f"node {node.id}: data_deps", problem, _REMEDY)
        data.append([places[other] for other in dict.fromkeys(node.data)])
        both.append([places[other] for other in dict.fromkeys((*node.data, *node.control)) if other in places])
    if _in_circle(both) is None:
        return Dependencies(both, control=True)
    place = _in_circle(data)
    if place is not None:
        where = f"node {trace.nodes[place].id}: data_deps"
        raise Refusal(trace.path, where, "nodes depend on each other in a circle", _REMEDY)
    return Dependencies(data, control=False)


def reversed_needs(needs: Sequence[Sequence[int]]) -> list[list[int]]:
    """For each node those that wait for it."""
    needed_by: list[list[int]] = [[] for _ in needs]
    for place, needed in enumerate(needs):
        for earlier in needed:
            needed_by[earlier].append(place)
    return needed_by


def _in_circle(needs: Sequence[Sequence[int]]) -> int | None:
    """A node that waits for itself through others, or that waits for such a node."""
    missing = [len(needed) for needed in needs]
    needed_by = reversed_needs(needs)
    ready = [place for place, number in enumerate(missing) if not number]
    for place in ready:
        for later in needed_by[place]:
            missing[later] -= 1
            if not missing[later]:
                ready.append(later)
    return next((place for place, number in enumerate(missing) if number), None)
