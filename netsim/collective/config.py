"""Section ``algorithms`` of a scenario, and the names of all algorithms, of which the first is the default."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from netsim.foundation.settings import Section
from netsim.foundation.units import Duration

Choice = Literal["auto", "nccl", "table"]
"""auto: the least estimate on this fabric; nccl: NCCL's choice; table: that of a file."""

AllReduce = Literal["ring", "tree", "double_tree", "recursive_doubling", "halving_doubling", "direct", "hierarchical"]
AllGather = Literal["ring", "direct", "halving_doubling", "hierarchical"]
ReduceScatter = Literal["ring", "direct", "halving_doubling", "hierarchical"]
AllToAll = Literal["direct", "two_phase", "hierarchical", "pxn"]
Broadcast = Literal["tree", "ring", "direct"]
OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")


class Algorithms(Section):
    """Section ``algorithms``: how each collective is carried out. send, recv and barrier have no choice.

    Besides the algorithms by name, auto takes the algorithm that should be fastest on this fabric, by estimates from
    its rates and delays (`netsim.collective.fastest`); nccl takes the algorithm that NCCL would take, by its model of
    latencies and bandwidths (`netsim.collective.nccl`); table takes the algorithm that a file gives
    (`netsim.collective.table`). In place of the section, auto or nccl alone applies to all collectives.

    Args:
        all_reduce: Algorithm of all_reduce: every rank gets the sums.
        all_gather: Algorithm of all_gather: every rank gets the parts of all ranks.
        reduce_scatter: Algorithm of reduce_scatter: every rank gets a part of the sums.
        all_to_all: Algorithm of all_to_all: every rank sends a part to every other rank.
        broadcast: Algorithm of broadcast: all ranks get the data of one rank.
        table: File of a table of algorithms, for the collectives that say table. Collectives that are left out of the
            section use it too.
        launch: Time from the start of a collective to its first messages, such as for the launch of a kernel.
        step: Time from the arrival of the data that a message to another host needs to the start of that message, such
            as for summing up and posting it.
        inside_step: Time from the arrival of the data for a message inside a host to its start.
    """

    all_reduce: AllReduce | Choice = "ring"
    all_gather: AllGather | Choice = "ring"
    reduce_scatter: ReduceScatter | Choice = "ring"
    all_to_all: AllToAll | Choice = "direct"
    broadcast: Broadcast | Choice = "tree"
    table: str | None = None
    launch: Duration = 0
    step: Duration = 0
    inside_step: Duration = 0

    @model_validator(mode="before")
    @classmethod
    def _table_for_the_rest(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("table"), str):
            return dict.fromkeys(OPERATIONS, "table") | values
        return values

    @model_validator(mode="after")
    def _table_is_there(self) -> "Algorithms":
        asks = [op for op in OPERATIONS if getattr(self, op) == "table"]
        if asks and self.table is None:
            raise ValueError(f"{asks[0]} asks a table and there is none; add table: FILE, or write auto or nccl")
        if self.table is not None and not asks:
            raise ValueError(f"no collective asks the table {self.table}; write table for one, or remove it")
        return self


def _in_one_word(value: object) -> object:
    """Replaces the word auto or nccl by a section with that word for every collective."""
    if value is None or isinstance(value, (Mapping, Algorithms)):
        return value
    if value not in ("auto", "nccl"):
        raise ValueError("it names no choice of algorithms; write auto, nccl, or a section such as {table: FILE}")
    return dict.fromkeys(OPERATIONS, value)


AnyAlgorithms = Annotated[
    Algorithms, BeforeValidator(_in_one_word, json_schema_input_type=Literal["auto", "nccl"] | Algorithms)
]
"""The section, or one word in its place."""
