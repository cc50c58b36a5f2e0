"""From the names in a scenario to the messages of a collective."""

from collections.abc import Sequence
from functools import cache, partial
from typing import Literal

from netsim.collective import (
    barrier,
    binary_tree,
    direct,
    halving_doubling,
    hierarchical,
    recursive_doubling,
    ring,
    tree,
    two_phase,
)
from netsim.collective.columns import IN_COLUMNS, MessageColumns, message_columns
from netsim.collective.protocol import CollectiveAlgorithm, Operation
from netsim.errors import InputError
from netsim.section import Section

ALGORITHMS: dict[str, dict[str, CollectiveAlgorithm]] = {
    "all_reduce": {
        "ring": ring.all_reduce,
        "tree": binary_tree.all_reduce,
        "double_tree": binary_tree.double_all_reduce,
        "recursive_doubling": recursive_doubling.all_reduce,
        "halving_doubling": halving_doubling.all_reduce,
        "direct": direct.all_reduce,
        "hierarchical": hierarchical.all_reduce,
    },
    "all_gather": {
        "ring": ring.all_gather,
        "direct": direct.all_gather,
        "halving_doubling": halving_doubling.all_gather,
        "hierarchical": hierarchical.all_gather,
    },
    "reduce_scatter": {
        "ring": ring.reduce_scatter,
        "direct": direct.reduce_scatter,
        "halving_doubling": halving_doubling.reduce_scatter,
        "hierarchical": hierarchical.reduce_scatter,
    },
    "all_to_all": {
        "direct": direct.all_to_all,
        "two_phase": two_phase.all_to_all,
        "hierarchical": hierarchical.all_to_all,
    },
    "broadcast": {"tree": tree.broadcast, "ring": ring.broadcast, "direct": direct.broadcast},
}


MOST_MESSAGES = 1 << 24
_QUADRATIC = ("ring", "direct")


class Algorithms(Section, frozen=True):
    """Section ``algorithms``: how each collective is carried out. send, recv and barrier have no choice.

    Args:
        all_reduce: Of sums that every rank gets.
        all_gather: Of parts that every rank gets.
        reduce_scatter: Of sums of which every rank gets a part.
        all_to_all: Of a part from each rank for each other.
        broadcast: Of what one rank has and all others get.
    """

    all_reduce: Literal[
        "ring", "tree", "double_tree", "recursive_doubling", "halving_doubling", "direct", "hierarchical"
    ] = "ring"
    all_gather: Literal["ring", "direct", "halving_doubling", "hierarchical"] = "ring"
    reduce_scatter: Literal["ring", "direct", "halving_doubling", "hierarchical"] = "ring"
    all_to_all: Literal["direct", "two_phase", "hierarchical"] = "direct"
    broadcast: Literal["tree", "ring", "direct"] = "tree"


class Schedules:
    """Messages of operations, computed once for equal operations.

    Args:
        algorithms: How each collective is carried out.
        hosts: Host of each rank.
        source: Name of the scenario in messages.
    """

    def __init__(self, algorithms: Algorithms, hosts: Sequence[int], source: str) -> None:
        self._algorithms, self._hosts, self._source = algorithms, hosts, source
        self._once = cache(partial(_schedule, algorithms))

    def __call__(self, operation: Operation, ranks: Sequence[int]) -> MessageColumns:
        """The messages of an operation.

        Args:
            operation: What must move.
            ranks: The scenario's rank of each participant.

        Raises:
            InputError: The algorithm cannot serve these ranks.
        """
        name = getattr(self._algorithms, operation.op, None)
        if name in _QUADRATIC and operation.op != "broadcast" and operation.size**2 > MOST_MESSAGES:
            problem = f"{name} among {operation.size:,} ranks takes more than {operation.size**2:,} messages"
            remedy = f"use fewer ranks or an algorithm with fewer; {MOST_MESSAGES:,} are possible"
            raise InputError(self._source, f"algorithms.{operation.op}", problem, remedy)
        if name == "hierarchical":
            numbers: dict[int, int] = {}
            shared = tuple(numbers.setdefault(self._hosts[rank], len(numbers)) for rank in ranks)
            operation = operation._replace(hosts=shared)
        try:
            return self._once(operation)
        except ValueError as error:
            problem, _, remedy = str(error).partition("; ")
            raise InputError(self._source, f"algorithms.{operation.op}", problem, remedy) from None


def _schedule(algorithms: Algorithms, operation: Operation) -> MessageColumns:
    match operation.op:
        case "send":
            return message_columns(direct.send(operation))
        case "barrier":
            return message_columns(barrier.barrier(operation))
        case op:
            name = getattr(algorithms, op)
            in_columns = IN_COLUMNS.get((op, name))
            return in_columns(operation) if in_columns else message_columns(ALGORITHMS[op][name](operation))
