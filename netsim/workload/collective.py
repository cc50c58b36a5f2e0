"""One collective, every rank ready at the same moment."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from netsim.collective.protocol import Operation
from netsim.section import Section
from netsim.units import Size, split_bytes
from netsim.workload.protocol import Program, Schedules, Span

Collective = Literal["all_to_all", "all_reduce", "all_gather", "reduce_scatter", "broadcast"]


class CollectiveConfig(Section, frozen=True):
    """Section ``workload`` of kind ``collective``.

    Args:
        op: Which collective.
        bytes_per_rank: A rank's input buffer, its own block included: 4.096MB for an all_to_all of 64 ranks is 64 kB to
            each. broadcast: the root's buffer; the root is the first rank.
    """

    kind: Literal["collective"]
    op: Collective
    bytes_per_rank: Annotated[Size, Field(gt=0)]


def operation(op: Collective, size: int, bytes_per_rank: int) -> Operation:
    """The operation of `size` participants whose input buffers hold `bytes_per_rank` each."""
    cut = tuple(split_bytes(bytes_per_rank, size))
    match op:
        case "all_to_all":
            return Operation(op, size, matrix=(cut,) * size)
        case "all_reduce" | "reduce_scatter":
            return Operation(op, size, blocks=cut)
        case "all_gather":
            return Operation(op, size, blocks=(bytes_per_rank,) * size)
        case "broadcast":
            return Operation(op, size, blocks=(bytes_per_rank,))


class CollectiveWorkload:
    """The workload of a `CollectiveConfig`."""

    def __init__(self, config: CollectiveConfig) -> None:
        self._config = config

    def size(self, available: int) -> int:
        """All ranks."""
        return available

    def extend(self, program: Program, ranks: Sequence[int], start_ps: int, schedules: Schedules) -> None:
        """See `netsim.workload.protocol.Workload`."""
        begin = (program.wait(ranks[0], (), start_ps),) if start_ps else ()
        first = len(program.tasks)
        messages = schedules(operation(self._config.op, len(ranks), self._config.bytes_per_rank))
        awaited = [list(begin) for _ in ranks]
        for message in messages:
            after = [first + earlier for earlier in message.after] or begin
            moved = program.move(ranks[message.src], ranks[message.dst], message.bytes, after)
            awaited[message.src].append(moved)
            awaited[message.dst].append(moved)
        over = [program.wait(rank, tasks) for rank, tasks in zip(ranks, awaited, strict=True)]
        payload, come = sum(message.bytes for message in messages), begin * len(ranks)
        program.spans.append(Span(self._config.op, None, len(ranks), None, None, None, payload, come, over))
