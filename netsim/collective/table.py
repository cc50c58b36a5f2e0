"""A table of which algorithm each collective takes, by its size, its ranks and its hosts."""

from pathlib import Path
from typing import Literal

from pydantic import PositiveInt, model_validator

from netsim.collective.config import AllGather, AllReduce, AllToAll, Broadcast, ReduceScatter
from netsim.collective.group import Group
from netsim.foundation.documents import read_section
from netsim.foundation.settings import Section
from netsim.foundation.units import Size


class Row(Section):
    """Conditions of a row, all of which must hold.

    Args:
        from_bytes: Least size: for all_reduce of the vector, for all_gather of the whole result, for reduce_scatter of
            a rank's whole input, for broadcast of the buffer, for all_to_all of the largest input of a rank.
        from_ranks: Least number of ranks.
        from_hosts: Least number of hosts on which the ranks sit.
        from_ranks_per_host: Least number of ranks on the host that has the most ranks.
    """

    from_bytes: Size = 0
    from_ranks: PositiveInt = 1
    from_hosts: PositiveInt = 1
    from_ranks_per_host: PositiveInt = 1

    def holds(self, group: Group, size_bytes: int) -> bool:
        """Whether a collective of some ranks and size meets all conditions."""
        return (
            size_bytes >= self.from_bytes
            and group.ranks >= self.from_ranks
            and len(group.by_host) >= self.from_hosts
            and max(group.by_host.values()) >= self.from_ranks_per_host
        )


class AllReduceRow(Row):
    """A row of ``all_reduce``."""

    algorithm: AllReduce
    """Algorithm if all conditions of the row hold."""


class AllGatherRow(Row):
    """A row of ``all_gather``."""

    algorithm: AllGather
    """Algorithm if all conditions of the row hold."""


class ReduceScatterRow(Row):
    """A row of ``reduce_scatter``."""

    algorithm: ReduceScatter
    """Algorithm if all conditions of the row hold."""


class AllToAllRow(Row):
    """A row of ``all_to_all``."""

    algorithm: AllToAll
    """Algorithm if all conditions of the row hold."""


class BroadcastRow(Row):
    """A row of ``broadcast``."""

    algorithm: Broadcast
    """Algorithm if all conditions of the row hold."""


class Table(Section):
    """A whole table of algorithms. For each collective the last row whose conditions hold decides.

    Args:
        format: Name and version of the format.
        source: Where the table comes from.
        all_reduce: Rows of all_reduce: every rank gets the sums.
        all_gather: Rows of all_gather: every rank gets the parts of all ranks.
        reduce_scatter: Rows of reduce_scatter: every rank gets a part of the sums.
        all_to_all: Rows of all_to_all: every rank sends a part to every other rank.
        broadcast: Rows of broadcast: all ranks get the data of one rank.
    """

    format: Literal["flowfabric.algorithms/1"]
    source: str = ""
    all_reduce: tuple[AllReduceRow, ...] = ()
    all_gather: tuple[AllGatherRow, ...] = ()
    reduce_scatter: tuple[ReduceScatterRow, ...] = ()
    all_to_all: tuple[AllToAllRow, ...] = ()
    broadcast: tuple[BroadcastRow, ...] = ()

    @model_validator(mode="after")
    def _says_something(self) -> "Table":
        if not any((self.all_reduce, self.all_gather, self.reduce_scatter, self.all_to_all, self.broadcast)):
            raise ValueError("the table has no rows; add some, such as all_reduce: [{algorithm: ring}]")
        return self

    def algorithm(self, op: str, group: Group, size_bytes: int) -> str | None:
        """The algorithm of the last row that holds; None if none does."""
        rows = [row for row in getattr(self, op) if row.holds(group, size_bytes)]
        return rows[-1].algorithm if rows else None


def read_table(path: Path) -> Table:
    """Reads a table, YAML or JSON."""
    remedy = "write keys and values, format: flowfabric.algorithms/1 first"
    return read_section(path, "an algorithm table", "tables", Table, remedy)
