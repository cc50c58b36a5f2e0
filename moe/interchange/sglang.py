"""What SGLang's recorder of the expert distribution dumps (`--expert-distribution-recorder-mode`).

Modes `stat` and `stat_approx` dump `logical_count` [..., layers, experts]. Mode `per_token` dumps records, one a
forward pass: `rank`, `forward_pass_id`, `positions` and `topk_ids_of_layer` [layers, tokens, 8], of physical experts,
-1 where there is none, and `last_physical_to_logical_map` beside them. All have a row for every hidden layer, dense
ones too.

Shape legend: T tokens, L layers, K choices per token and layer, E logical experts, P physical ones.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe.interchange.documents import MOST_EXPERTS, Imported, deal, import_trace, read_document, section, whole_numbers
from moe.placement.placement import Placement, SolverRecord, slots_per_rank
from moe.placement.solver.packing import busiest, pack_layer
from moe.placement.topology import Topology
from moe.routing_trace import DROPPED
from netsim.foundation.refusal import Refusal

_COUNT, _MAP, _IDS = "logical_count", "last_physical_to_logical_map", "topk_ids_of_layer"
_REMEDY = "dump the distribution again"
_MOST = 2**53
"""Most choices of an expert; larger numbers lose digits in 64-bit floats."""


def read_distribution(
    paths: Sequence[Path],
    *,
    num_experts: int | None = None,
    ranks: int | None = None,
    group: tuple[int, int] | None = None,
    slots: int | None = None,
) -> Imported:
    """Read a dump, in one or several files: a routing trace if it has tokens, else a placement that packs its counts.

    Args:
        paths: JSON or `.pt`; several of one recording, such as one a rank.
        num_experts: Logical experts per layer, for records without a map; None: as many as the largest id needs.
        ranks: Ranks that requests are dealt to in turn; None: each token stays on the rank that recorded it.
        group: Nodes of the expert-parallel group and its ranks on each; needed for counts.
        slots: Slots of a rank and layer, for counts; None: one for each expert.
    """
    documents = [section(path, "document", read_document(path, _REMEDY), _REMEDY) for path in paths]
    if any(_COUNT in document for document in documents):
        counts_LE = _sum_counts(paths, documents)
        if group is None:
            raise Refusal(
                paths[0],
                _COUNT,
                f"has counts {list(counts_LE.shape)}, from which no routing trace can be made",
                "give --nodes and --ranks-per-node to get the placement that packs them, or record per token",
            )
        return _pack(paths[0], counts_LE, group, slots)
    unused = [name for name, value in (("nodes", group), ("slots_per_rank", slots)) if value is not None]
    if unused:
        raise ValueError(f"{unused[0]}: is for counts, and the file has tokens; leave it out")
    return _trace(paths, documents, num_experts, ranks)


def _sum_counts(paths: Sequence[Path], documents: Sequence[Mapping[str, Any]]) -> NDArray[np.int64]:
    total: NDArray[np.int64] | None = None
    for path, document in zip(paths, documents, strict=True):
        if _COUNT not in document:
            raise Refusal(path, _COUNT, f"is missing where {paths[0]} has it", "give files of one kind")
        counts = whole_numbers(path, _COUNT, document[_COUNT], ("...", "layers", "experts"), _REMEDY)
        if counts.min() < 0 or counts.max() > _MOST:
            raise Refusal(path, _COUNT, f"holds {counts.min()} to {counts.max()}, which cannot be counts", _REMEDY)
        counts = counts.reshape(-1, *counts.shape[-2:]).sum(axis=0)
        if total is not None and total.shape != counts.shape:
            problem = f"is {list(counts.shape)} where {paths[0]} has {list(total.shape)}"
            raise Refusal(path, _COUNT, problem, "give files of one model")
        total = counts if total is None else total + counts
    assert total is not None
    return total


def _pack(path: Path, counts_LE: NDArray[np.int64], group: tuple[int, int], slots: int | None) -> Imported:
    """Returns a placement that balances the counted loads of each layer; layers without counts are taken as dense."""
    topology = Topology.hops(*group)
    used = counts_LE.sum(axis=1) > 0
    if not used.any():
        raise Refusal(path, _COUNT, "counts no choice at all", "record some requests")
    num_experts = counts_LE.shape[1]
    least = slots_per_rank(num_experts, topology.num_ranks)
    slots = least if slots is None else slots
    if not least <= slots <= num_experts:
        raise ValueError(f"slots_per_rank: {slots} are not between {least} and {num_experts}; choose from these")
    holders = [pack_layer(loads, topology.num_ranks, slots) for loads in counts_LE[used]]
    loads = zip(counts_LE[used], holders, strict=True)
    peak = np.mean([busiest(load, placed) * topology.num_ranks / load.sum() for load, placed in loads])
    remarks = [f"packed by counts alone, which say nothing of traffic: busiest rank {peak:.2f} x mean over layers"]
    remarks += _named_dense(used)
    placement = Placement(
        num_layers=len(holders),
        num_experts=num_experts,
        num_nodes=topology.num_nodes,
        ranks_per_node=topology.ranks_per_node,
        dispatch="copies",
        rank_experts=tuple(tuple(tuple(np.flatnonzero(rank).tolist()) for rank in layer.T) for layer in holders),
        solver=SolverRecord(name="packing", seed=0),
        cost_matrix=tuple(map(tuple, topology.cost.tolist())),
        dense_layers=tuple(np.flatnonzero(~used).tolist()),
    )
    return Imported(placement, tuple(remarks))


def _trace(
    paths: Sequence[Path], documents: Sequence[Mapping[str, Any]], num_experts: int | None, ranks: int | None
) -> Imported:
    ids, source, steps, positions, requests = [], [], [], [], []
    for path, document in zip(paths, documents, strict=True):
        logical_LP = None
        if document.get(_MAP) is not None:
            logical_LP = whole_numbers(path, _MAP, document[_MAP], ("layers", "physical experts"), _REMEDY)
            if logical_LP.min() < 0 or logical_LP.max() >= MOST_EXPERTS:
                raise Refusal(path, _MAP, f"holds {logical_LP.min()} to {logical_LP.max()}, no experts", _REMEDY)
            num_experts = max(num_experts or 0, int(logical_LP.max()) + 1)
        records = document.get("records")
        if not isinstance(records, list) or not records:
            problem = f"holds neither {_COUNT} nor records ({', '.join(map(str, document))[:60]})"
            raise Refusal(path, "records", problem, "dump it in mode stat or per_token")
        for number, record in enumerate(records):
            field = f"records.{number}"
            record = section(path, field, record, _REMEDY)
            chosen_TLK = _choices(path, field, record, logical_LP)
            tokens = len(chosen_TLK)
            if ids and ids[0].shape[1] != chosen_TLK.shape[1]:
                problem = f"has {chosen_TLK.shape[1]} layers but the first has {ids[0].shape[1]}"
                raise Refusal(path, field, problem, "give files of one model")
            ids.append(chosen_TLK)
            rank, step = (_whole(path, field, record, name) for name in ("rank", "forward_pass_id"))
            source.append(np.full(tokens, rank, np.int32))
            steps.append(np.full(tokens, step, np.int64))
            positions.append(_column(path, f"{field}.positions", record.get("positions"), tokens))
            requests.append(_requests(record, tokens))
    most = max(one.shape[2] for one in ids)
    expert_ids_TLK = np.concatenate([_widened(one, most) for one in ids])
    used_L = (expert_ids_TLK != DROPPED).any(axis=(0, 2))
    if not used_L.any():
        raise Refusal(paths[0], _IDS, "contains no choice of an expert", "record some requests")
    used_K = (expert_ids_TLK != DROPPED).any(axis=(0, 1))
    source_rank = np.concatenate(source)
    return import_trace(
        paths[0],
        expert_ids_TLK[:, used_L][:, :, used_K],
        source_rank if ranks is None else deal(np.concatenate(requests), ranks),
        world_size=int(source_rank.max()) + 1 if ranks is None else ranks,
        num_experts=num_experts,
        moe_layers=np.flatnonzero(used_L).tolist(),
        remarks=_named_dense(used_L),
        remedy=_REMEDY,
        step=np.concatenate(steps),
        position=np.concatenate(positions),
    )


def _choices(
    path: Path, field: str, record: Mapping[str, Any], logical_LP: NDArray[np.int64] | None
) -> NDArray[np.int32]:
    """Logical experts of the tokens of a pass, [T, L, K]."""
    if _IDS not in record:
        raise Refusal(path, field, f"has no {_IDS}", "dump it in mode per_token; per_pass has no tokens")
    field = f"{field}.{_IDS}"
    ids_LTK = whole_numbers(path, field, record[_IDS], ("layers", "tokens", "choices"), _REMEDY)
    limit = 2**31 if logical_LP is None else logical_LP.shape[1]
    if logical_LP is not None and len(logical_LP) != len(ids_LTK):
        raise Refusal(path, field, f"has {len(ids_LTK)} layers where {_MAP} has {len(logical_LP)}", _REMEDY)
    outside = ids_LTK[(ids_LTK < DROPPED) | (ids_LTK >= limit)]
    if len(outside):
        problem = f"{outside[0]} is not one of the {limit} physical experts"
        raise Refusal(path, field, problem, "record with --disable-shared-experts-fusion")
    if logical_LP is not None:
        layer = np.arange(len(ids_LTK))[:, None, None]
        ids_LTK = np.where(ids_LTK == DROPPED, DROPPED, logical_LP[layer, ids_LTK])
    if ids_LTK.max() >= 2**31:
        raise Refusal(path, field, f"{ids_LTK.max()} is not an expert", _REMEDY)
    return ids_LTK.transpose(1, 0, 2).astype(np.int32)


def _requests(record: Mapping[str, Any], tokens: int) -> NDArray[np.int64]:
    """Number of each token's request in its pass: by the lengths of a prefill, else one token a request."""
    lengths = record.get("extend_seq_lens")
    known = isinstance(lengths, list) and all(type(one) is int and 0 <= one <= tokens for one in lengths)
    if not isinstance(lengths, list) or not known or sum(lengths) != tokens:
        return np.arange(tokens)
    return np.repeat(np.arange(len(lengths)), lengths)


def _whole(path: Path, field: str, record: Mapping[str, Any], name: str) -> int:
    value = record.get(name)
    if type(value) is not int or not 0 <= value < 2**31:
        raise Refusal(path, f"{field}.{name}", f"is not a whole number of 0 or more ({str(value)[:40]})", _REMEDY)
    return value


def _column(path: Path, field: str, value: Any, tokens: int) -> NDArray[np.int64]:
    column = whole_numbers(path, field, value, ("tokens",), _REMEDY)
    if len(column) != tokens:
        raise Refusal(path, field, f"has {len(column)} entries for {tokens} tokens", _REMEDY)
    return column


def _widened(ids_TLK: NDArray[np.int32], choices: int) -> NDArray[np.int32]:
    return np.pad(ids_TLK, ((0, 0), (0, 0), (0, choices - ids_TLK.shape[2])), constant_values=DROPPED)


def _named_dense(used_L: NDArray[np.bool_]) -> list[str]:
    dense = np.flatnonzero(~used_L).tolist()
    return [f"left out layers without choices: {', '.join(map(str, dense))}"] if dense else []
