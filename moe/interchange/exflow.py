"""ExFlow's own files: its placements as CSV, its routing traces as .npy.

The CSV has the header `Expert,Node`; an expert's global id is layer * E + expert, and `Node` is the rank that holds it.
Neither E nor the nodes of the ranks are in the file. ExFlow's files end their lines with CR LF, in ascending order.
"""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moe.placement.placement import Placement, SolverRecord, slots_per_rank
from moe.placement.topology import Topology
from moe.routing_trace import RoutingTrace
from netsim.foundation.files import replacing
from netsim.foundation.refusal import Refusal

_HEADER = ["Expert", "Node"]
_REMEDY = "export the placement again"


def read_csv(path: Path | str, num_experts: int, num_nodes: int, ranks_per_node: int) -> Placement:
    """Read a placement of ExFlow, whatever its line ends and the order of its rows.

    It is for context-coherent dispatch, with hops as its cost matrix and nothing measured. Refused are files that name
    an expert twice or not at all, or load a rank with more experts of a layer than others.
    """
    path = Path(path)
    topology = Topology.hops(num_nodes, ranks_per_node)
    if num_experts < 1:
        raise ValueError(f"num_experts: must be at least 1 ({num_experts}); give a positive number")
    slots = slots_per_rank(num_experts, topology.num_ranks)
    rank_of = _read_rows(path, topology.num_ranks)
    ids = np.array(sorted(rank_of))
    if len(ids) % num_experts or ids[-1] != len(ids) - 1:
        gap = next((number for number, identity in enumerate(ids) if number != identity), len(ids))
        layer, expert = divmod(gap, num_experts)
        raise Refusal(path, f"layer {layer}", f"expert {expert} (id {gap}) is missing", _REMEDY)
    expert_ranks = np.array([rank_of[number] for number in range(len(ids))]).reshape(-1, num_experts)
    for layer, ranks in enumerate(expert_ranks):
        counts = np.bincount(ranks, minlength=topology.num_ranks)
        for rank in np.flatnonzero(counts != slots):
            raise Refusal(
                path,
                f"layer {layer}",
                f"GPU {rank} holds {counts[rank]} experts where each holds {slots}",
                "give the numbers of experts, nodes and ranks that the placement was made for",
            )
    order = np.argsort(expert_ranks, axis=1, kind="stable").reshape(len(expert_ranks), topology.num_ranks, slots)
    return Placement(
        num_layers=len(expert_ranks),
        num_experts=num_experts,
        num_nodes=num_nodes,
        ranks_per_node=ranks_per_node,
        dispatch="coherent",
        rank_experts=tuple(tuple(map(tuple, layer)) for layer in order.tolist()),
        solver=SolverRecord(name="imported", seed=0),
        cost_matrix=tuple(map(tuple, topology.cost.tolist())),
    )


def write_csv(placement: Placement, path: Path | str) -> None:
    """Write a placement without replicas as ExFlow does; only the rank of each expert is kept."""
    ranks = placement.expert_ranks().reshape(-1)
    with replacing(path) as temporary, temporary.open("w", encoding="ascii", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(_HEADER)
        writer.writerows(enumerate(ranks.tolist()))


def write_npy(trace: RoutingTrace, path: Path | str) -> None:
    """Write the routing of a trace as ExFlow reads it, without weights, ranks and steps.

    It is int32 [tokens, layers], or [tokens, layers, k] for several choices.
    """
    ids: NDArray[np.int32] = trace.expert_ids.astype(np.int32)
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, ids[:, :, 0] if ids.shape[2] == 1 else ids)


def _read_rows(path: Path, num_ranks: int) -> dict[int, int]:
    try:
        rows = [row for row in csv.reader(path.read_text(encoding="utf-8-sig").splitlines()) if row]
    except OSError as error:
        raise Refusal(path, "file", f"cannot be read ({error.strerror})", "check the path") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise Refusal(path, "file", f"is not CSV text ({error})", _REMEDY) from error
    if not rows or rows[0] != _HEADER:
        header = ",".join(rows[0]) if rows else ""
        raise Refusal(path, "line 1", f"is not Expert,Node ({header[:40]})", _REMEDY)
    if len(rows) == 1:
        raise Refusal(path, "file", "lists no experts", _REMEDY)
    rank_of: dict[int, int] = {}
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != 2 or not all(cell.strip().isascii() and cell.strip().isdigit() for cell in row):
            raise Refusal(path, f"line {number}", f"is not two whole numbers ({','.join(row)[:40]})", _REMEDY)
        expert, rank = map(int, row)
        if expert in rank_of:
            raise Refusal(path, f"line {number}", f"expert id {expert} is listed twice", _REMEDY)
        if rank >= num_ranks:
            raise Refusal(
                path, f"line {number}", f"GPU {rank} is outside the {num_ranks} ranks", "give more nodes or ranks"
            )
        rank_of[expert] = rank
    return rank_of
