import hashlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from moe.placement import Placement
from moe.placement.counts import RoutingStatistics
from moe.placement.solver.solve import solve
from moe.placement.topology import Topology
from moe.routing_trace import RoutingTrace
from tests.each import each
from tests.moe.traces import coherent_walk, markov_trace

GOLDEN = Path("tests/files/placement.json")
SCHEMA = json.loads(Path("configs/schemas/placement.schema.json").read_text())


@pytest.fixture
def placement() -> Placement:
    statistics = RoutingStatistics.collect(markov_trace(8, 3, 0.8, 200, seed=0), 4)
    return solve(statistics, Topology.hops(2, 2), objective="coherent", seed=5, trace_sha256="0" * 64)


def test_what_is_read_is_what_was_written_byte_for_byte(placement: Placement, tmp_path: Path) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    placement.write(first)
    again = Placement.read(first)
    again.write(second)
    assert again == placement
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["first.json", "second.json"]


def test_writer_and_golden_sample_satisfy_the_schema(placement: Placement, tmp_path: Path) -> None:
    placement.write(tmp_path / "placed.json")
    Placement.contiguous(2, 4, 1, 2).write(tmp_path / "contiguous.json")
    with_groups = placement.model_copy(update={"ep_ranks": ((0, 1, 2, 3), (4, 5, 6, 7))})
    with_groups.write(tmp_path / "groups.json")
    assert Placement.read(tmp_path / "groups.json") == with_groups
    for path in (*tmp_path.iterdir(), GOLDEN):
        jsonschema.validate(json.loads(path.read_text()), SCHEMA)


def test_golden_sample_costs_what_its_trace_says() -> None:
    golden, trace_path = Placement.read(GOLDEN), Path("tests/files/routing.npz")
    assert golden.trace_sha256 == hashlib.sha256(trace_path.read_bytes()).hexdigest()
    routing = RoutingTrace.read(trace_path)
    cost, contiguous = (
        coherent_walk(routing, ranks, np.array(golden.cost_matrix))[0] / routing.num_tokens
        for ranks in (golden.expert_ranks(), np.tile(np.arange(8) // 2, (3, 1)))
    )
    assert golden.objective is not None
    assert golden.objective.cost == pytest.approx(cost)
    assert golden.objective.contiguous_cost == pytest.approx(contiguous)


def test_slots_follow_the_ranks(placement: Placement) -> None:
    for layer in range(3):
        slots = placement.slot_to_expert(layer)
        assert slots.dtype == np.int64
        assert slots.tolist() == [expert for rank in placement.rank_experts[layer] for expert in rank]
        ranks = placement.expert_ranks()[layer]
        assert [ranks[expert] for expert in slots] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_contiguous_is_the_identity() -> None:
    contiguous = Placement.contiguous(2, 8, 2, 2)
    assert contiguous.slot_to_expert(1).tolist() == list(range(8))
    assert contiguous.slots_per_rank == 2
    assert contiguous.objective is None
    np.testing.assert_array_equal(contiguous.cost_matrix, Topology.hops(2, 2).cost)
    with pytest.raises(ValueError, match="num_experts: 8 experts do not divide among 3 ranks"):
        Placement.contiguous(2, 8, 1, 3)


def test_replicas_are_written_read_and_told_from_a_plain_placement(tmp_path: Path) -> None:
    plain = Placement.contiguous(1, 4, 1, 2)
    replicated = plain.model_copy(update={"rank_experts": (((0, 1, 2), (2, 3, 0)),)})
    replicated.write(tmp_path / "replicas.json")
    again = Placement.read(tmp_path / "replicas.json")
    jsonschema.validate(json.loads((tmp_path / "replicas.json").read_text()), SCHEMA)
    assert again == replicated
    assert (again.has_replicas, plain.has_replicas, again.slots_per_rank) == (True, False, 3)
    assert again.slot_to_expert(0).tolist() == [0, 1, 2, 2, 3, 0]
    assert [np.flatnonzero(ranks).tolist() for ranks in again.holders()[0]] == [[0, 1], [0], [0, 1], [1]]
    np.testing.assert_array_equal(plain.holders().argmax(axis=2), plain.expert_ranks())
    with pytest.raises(ValueError, match=r"rank_experts: 2 x 3 slots hold replicas of 4 experts"):
        again.expert_ranks()


def spoiled(**changes: Any) -> str:
    return json.dumps(json.loads(GOLDEN.read_text()) | changes)


def without(field: str) -> str:
    return json.dumps({key: value for key, value in json.loads(GOLDEN.read_text()).items() if key != field})


def layers(first: list[list[int]]) -> list[list[list[int]]]:
    return [first, *json.loads(GOLDEN.read_text())["rank_experts"][1:]]


@each(
    "text, field, problem",
    [
        ("", "document", "is not JSON"),
        (GOLDEN.read_text()[:300], "document", "is not JSON"),
        ("[1, 2]", "document", "must be a dictionary"),
        (spoiled(format="flowfabric.placement/2"), "format", "flowfabric.placement/2"),
        (without("format"), "format", "is missing"),
        (without("rank_experts"), "rank_experts", "is missing"),
        (spoiled(colour="red"), "colour", "not a known key"),
        (spoiled(num_layers=4), "rank_experts", "3 layers where num_layers is 4"),
        (spoiled(num_layers="3"), "num_layers", "'3'"),
        (spoiled(num_nodes=0), "num_nodes", "greater than 0 (0)"),
        (spoiled(ranks_per_node=4), "rank_experts.0", "4 ranks where num_nodes * ranks_per_node is 8"),
        (spoiled(rank_experts=layers([[0, 1], [2, 3], [4, 5], [6, 6]])), "rank_experts.0", "6 is twice on rank 3"),
        (spoiled(rank_experts=layers([[0, 1], [2, 3], [4, 5], [6, 8]])), "rank_experts.0", "expert 8 is outside"),
        (spoiled(rank_experts=layers([[0, 1], [2, 3], [4, 5], [6, -7]])), "rank_experts.0.3.1", "(-7)"),
        (
            spoiled(rank_experts=layers([[0, 1, 2], [3], [4, 5], [6, 7]])),
            "rank_experts.0",
            "numbers of slots ([1, 2, 3])",
        ),
        (spoiled(rank_experts=layers([[0], [1], [2], [3]])), "rank_experts.0", "expert 4 is in no slot"),
        (
            spoiled(rank_experts=layers([[0, 1, 2], [2, 3, 4], [4, 5, 6], [6, 7, 0]])),
            "rank_experts.1",
            "2 slots a rank where layer 0 has 3",
        ),
        (
            spoiled(rank_experts=layers([[0, 1, 1], [2, 3, 4], [4, 5, 6], [6, 7, 0]])),
            "rank_experts.0",
            "expert 1 is twice on rank 0",
        ),
        (spoiled(cost_matrix=[[0.0]]), "cost_matrix", "is not 4 x 4"),
        (spoiled(cost_matrix=[[float("nan")] * 4] * 4), "document", "NaN"),
        (spoiled(ep_ranks=[[0, 1, 2, 3], [3, 4, 5, 6]]), "ep_ranks", "no rank is in two places"),
        (spoiled(dispatch="broadcast"), "dispatch", "broadcast"),
        (spoiled(trace_sha256="abc"), "trace_sha256", "abc"),
        (spoiled(solver={"name": "sweep"}), "solver.seed", "is missing"),
    ],
)
def test_malformed_files_are_refused_by_name(text: str, field: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.json") as caught:
        Placement.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: {field}: ")
    assert problem in message
    assert message.endswith("; make the file with `python -m moe place`") or message.endswith("placement/1")
    assert "\n" not in message


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none.json: file: cannot be read \(No such file or directory\); check"):
        Placement.read(tmp_path / "none.json")


def test_further_errors_are_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(spoiled(num_nodes=0, num_experts=0))
    with pytest.raises(ValueError, match=r"num_experts: .* \(also wrong: num_nodes\)"):
        Placement.read(path)
