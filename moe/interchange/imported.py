"""What the readers of other tools' files give back, and how a routing trace is put together for all of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from moe.placement.placement import Placement
from moe.routing_trace import DROPPED, RoutingHeader, RoutingTrace
from netsim.foundation.complaint import first_complaint
from netsim.foundation.refusal import Refusal

MOST_EXPERTS = 2**16
"""Of one layer, where a user does not say how many there are: a larger id is damage."""


class Imported(NamedTuple):
    """A file of another tool in this project's terms.

    Attributes:
        result: The trace or the placement.
        remarks: What the user must know of it, a few words each.
    """

    result: RoutingTrace | Placement
    remarks: tuple[str, ...] = ()

    def summary(self) -> str:
        """Its sizes and the remarks, in one line."""
        result = self.result
        if isinstance(result, Placement):
            sizes = f"{result.num_layers} layers, {result.slots_per_rank} experts a rank"
        else:
            header = result.header
            sizes = (
                f"{result.num_tokens} tokens, {header.num_layers} layers, {header.num_experts} experts, "
                f"{header.top_k} choices a token, {header.world_size} ranks"
            )
        return "; ".join((sizes, *self.remarks))


def import_trace(
    path: Path,
    expert_ids: NDArray[np.integer],
    source_rank: NDArray[np.integer],
    *,
    world_size: int,
    num_experts: int | None = None,
    moe_layers: Sequence[int] | None = None,
    remarks: Sequence[str] = (),
    remedy: str,
    **arrays: NDArray | None,
) -> Imported:
    """Make a routing trace of arrays that another tool's file holds.

    Args:
        path: The file, which errors name and the trace is called by.
        expert_ids: Logical expert ids, int [T, L, K]; -1 is a dropped choice.
        source_rank: Rank of each token, int [T].
        world_size: Ranks in all.
        num_experts: Experts per layer; None: as many as the largest id needs, which a remark says.
        moe_layers: Block index of each layer, or None.
        remarks: What the user must know besides.
        remedy: What the user can do about a malformed file.
        **arrays: Optional arrays of a routing trace by name.

    Returns:
        The trace, of which a remark says if its choices have no order of strength.

    Raises:
        Refusal: The arrays contradict themselves.
    """
    told = list(remarks)
    if num_experts is None:
        largest = int(expert_ids.max(initial=DROPPED))
        if not 0 <= largest < MOST_EXPERTS:
            raise Refusal(path, "expert ids", f"the largest is {largest}, which is not an expert of a layer", remedy)
        num_experts = largest + 1
        told.append(f"the number of experts is that of the largest id ({largest}), --num-experts sets another")
    if expert_ids.shape[2] > 1 and (np.diff(expert_ids, axis=2) >= 0).all():
        told.append(
            "choices are listed in the order of ids, so that the strongest is unknown: not usable for coherent dispatch"
        )
    try:
        header = RoutingHeader(
            num_experts=num_experts,
            num_layers=expert_ids.shape[1],
            top_k=expert_ids.shape[2],
            world_size=world_size,
            model=path.stem,
            moe_layers=None if moe_layers is None else tuple(moe_layers),
        )
        trace = RoutingTrace(expert_ids, source_rank, header, **arrays)  # pyright: ignore[reportArgumentType]
    except ValidationError as error:
        found = first_complaint(error)
        raise Refusal(path, found.field, found.problem, found.remedy or remedy) from error
    except ValueError as error:
        field, _, problem = str(error).partition(": ")
        raise Refusal(path, field, problem, remedy) from error
    return Imported(trace, tuple(told))


def deal(sequence: NDArray[np.integer], ranks: int) -> NDArray[np.int32]:
    """Source rank of each token where a file knows none: sequences go to the ranks in turn.

    Args:
        sequence: Sequence of each token, int [T].
        ranks: Ranks in all.

    Returns:
        Ranks, int32 [T].

    Raises:
        ValueError: There are fewer ranks than one.
    """
    if ranks < 1:
        raise ValueError(f"ranks: must be at least 1 ({ranks}); give the ranks that sequences are dealt to")
    return (sequence % ranks).astype(np.int32)
