"""The map of SGLang and vLLM from physical experts to logical ones; physical expert p is on rank p // (P / ranks).

SGLang reads `{"physical_to_logical_map": [layers][P]}`, with a row for every hidden layer of the model, dense ones too.
vLLM's balancer keeps the bare table [MoE layers][P].

Shape legend: L rows of the map, E logical experts, P physical experts of a layer.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moe.interchange.documents import read_document, whole_numbers
from moe.placement.placement import Placement, SolverRecord
from moe.placement.topology import Topology
from netsim.foundation.files import replacing
from netsim.foundation.refusal import Refusal

FIELD = "physical_to_logical_map"
_REMEDY = "give the map as [layers][physical experts]"


def read_map(
    path: Path | str,
    num_nodes: int,
    ranks_per_node: int,
    *,
    num_experts: int | None = None,
    dense_layers: Sequence[int] = (),
) -> Placement:
    """Read a placement of SGLang or vLLM, replicas included: JSON or `.pt`, the table alone or under its name.

    It is for dispatch by copies, with hops as its cost matrix and nothing measured. Rows of dense layers are left out.
    Without `num_experts` there are as many as the largest id needs. Refused are maps that lack an expert, or hold it
    twice on a rank.
    """
    path = Path(path)
    topology = Topology.hops(num_nodes, ranks_per_node)
    document = read_document(path, _REMEDY)
    if isinstance(document, Mapping):
        if FIELD not in document:
            raise Refusal(path, FIELD, f"is missing ({', '.join(map(str, document))[:60]})", _REMEDY)
        document = document[FIELD]
    rows_LP = whole_numbers(path, FIELD, document, ("layers", "physical experts"), _REMEDY)
    rows_LP = rows_LP[mixture_rows(len(rows_LP), dense_layers)]
    if num_experts is None:
        num_experts = int(rows_LP.max()) + 1
    slots, rest = divmod(rows_LP.shape[1], topology.num_ranks)
    if rest:
        raise Refusal(
            path,
            FIELD,
            f"{rows_LP.shape[1]} physical experts do not divide among {topology.num_ranks} ranks",
            "give the nodes and ranks of the group that the map was made for",
        )
    _check_rows(path, rows_LP, num_experts, slots)
    return Placement(
        num_layers=len(rows_LP),
        num_experts=num_experts,
        num_nodes=num_nodes,
        ranks_per_node=ranks_per_node,
        dispatch="copies",
        rank_experts=tuple(
            tuple(map(tuple, row)) for row in rows_LP.reshape(len(rows_LP), topology.num_ranks, slots).tolist()
        ),
        solver=SolverRecord(name="imported", seed=0),
        cost_matrix=tuple(map(tuple, topology.cost.tolist())),
        dense_layers=tuple(sorted(set(dense_layers))) or None,
    )


def write_map(
    placement: Placement, path: Path | str, *, bare: bool, dense_layers: Sequence[int] | None = None
) -> NDArray[np.int64]:
    """Write a placement as a map from physical experts to logical ones, int64 [L, P], and return it.

    Rows of dense layers hold experts in order of their ids, and no reader uses them. By default the dense layers are
    those that the placement names. The bare table, as vLLM keeps it, has none.
    """
    if dense_layers is None:
        dense_layers = () if bare else placement.dense_layers or ()
    total = placement.num_layers + len(set(dense_layers))
    physical = placement.num_ranks * placement.slots_per_rank
    rows_LP = np.tile(np.arange(physical) % placement.num_experts, (total, 1))
    layers = mixture_rows(total, dense_layers)
    rows_LP[layers] = [placement.slot_to_expert(layer) for layer in range(placement.num_layers)]
    rows = ",\n".join(json.dumps(row) for row in rows_LP.tolist())
    with replacing(path) as temporary:
        text = f"[\n{rows}\n]\n" if bare else f'{{"{FIELD}": [\n{rows}\n]}}\n'
        temporary.write_text(text, encoding="ascii")
    return rows_LP


def mixture_rows(total: int, dense_layers: Sequence[int]) -> NDArray[np.int64]:
    """Rows of a table of all hidden layers that belong to layers with experts, ascending; ValueError if none."""
    outside = next((layer for layer in dense_layers if not 0 <= layer < total), None)
    if outside is not None:
        raise ValueError(f"dense_layers: {outside} is not one of the {total} layers; count them from 0")
    kept = np.setdiff1d(np.arange(total), np.array(dense_layers, dtype=np.int64))
    if not len(kept):
        raise ValueError(f"dense_layers: leaves none of the {total} layers; name those without experts only")
    return kept


def _check_rows(path: Path, rows_LP: NDArray[np.int64], num_experts: int, slots: int) -> None:
    for layer, row in enumerate(rows_LP):
        outside = row[(row < 0) | (row >= num_experts)]
        if len(outside):
            problem = f"expert {outside[0]} is not one of the {num_experts} experts"
            raise Refusal(path, f"{FIELD}.{layer}", problem, "correct the map or --num-experts")
        if len(row) < num_experts or len(np.unique(row)) < num_experts:
            missing = np.setdiff1d(np.arange(len(row) + 1), row)[0]
            raise Refusal(path, f"{FIELD}.{layer}", f"expert {missing} is in no slot", "correct the map")
        by_rank = np.sort(row.reshape(-1, slots), axis=1)
        twice = np.argwhere(by_rank[:, 1:] == by_rank[:, :-1])
        if len(twice):
            rank, slot = twice[0]
            raise Refusal(
                path,
                f"{FIELD}.{layer}",
                f"expert {by_rank[rank, slot]} is twice on rank {rank}, where its replica saves no load",
                "put the replica on another rank",
            )
