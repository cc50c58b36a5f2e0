"""Maps of SGLang and vLLM, read by a reader of the documented format and back by ours."""

import json
from pathlib import Path

import numpy as np
import pytest

from moe.interchange.documents import parse_layers
from moe.interchange.physical_map import read_map
from moe.placement.placement import Placement, SolverRecord
from tests.each import each
from tests.moe.interchange.commands import printed, refusal

GROUP = ("--nodes", 2, "--ranks-per-node", 2)


def with_replicas(num_layers: int, num_experts: int, ranks: int, slots: int, seed: int) -> Placement:
    """Every expert somewhere, the other slots filled at random, in an order that is no sorted one."""
    draw = np.random.default_rng(seed)
    layers = []
    for _ in range(num_layers):
        held = [list(part) for part in np.array_split(draw.permutation(num_experts), ranks)]
        for rank in held:
            others = [expert for expert in draw.permutation(num_experts) if expert not in rank]
            rank += others[: slots - len(rank)]
            draw.shuffle(rank)
        layers.append(tuple(tuple(map(int, rank)) for rank in held))
    return Placement(
        num_layers=num_layers,
        num_experts=num_experts,
        num_nodes=2,
        ranks_per_node=ranks // 2,
        dispatch="copies",
        rank_experts=tuple(layers),
        solver=SolverRecord(name="drawn", seed=seed),
        cost_matrix=tuple(map(tuple, np.zeros((ranks, ranks)).tolist())),
    )


def served(rows: list[list[int]], layer: int, ranks: int) -> list[set[int]]:
    """Experts of each rank, as both systems find them: physical expert p is on rank p // (P / ranks)."""
    per_rank = len(rows[layer]) // ranks
    on_rank: list[set[int]] = [set() for _ in range(ranks)]
    for physical, logical in enumerate(rows[layer]):
        on_rank[physical // per_rank].add(logical)
    return on_rank


@each("slots, replicas", [(2, 0), (3, 4)])
@each("system", ["sglang", "vllm"])
def test_a_map_serves_the_experts_of_the_placement_and_comes_back(
    system: str, slots: int, replicas: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    placement = with_replicas(3, 8, 4, slots, seed=slots)
    placement.write(tmp_path / "placement.json")
    out = tmp_path / "map.json"
    said = printed(capsys, "export", tmp_path / "placement.json", "--to", system, out)
    assert f"3 layers, 8 experts and {replicas} replicas" in said
    document = json.loads(out.read_text())
    if system == "sglang":
        assert list(document) == ["physical_to_logical_map"]
        document = document["physical_to_logical_map"]
    for layer in range(3):
        assert served(document, layer, 4) == [set(rank) for rank in placement.rank_experts[layer]]
    printed(capsys, "import", out, "--from", system, *GROUP, "--out", tmp_path / "back.json")
    assert Placement.read(tmp_path / "back.json").rank_experts == placement.rank_experts


def test_dense_layers_have_rows_in_sglang_that_come_and_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    placement = with_replicas(3, 8, 4, 3, seed=1)
    placement.write(tmp_path / "placement.json")
    out = tmp_path / "map.json"
    printed(capsys, "export", tmp_path / "placement.json", "--to", "sglang", out, "--dense-layers", "0,3")
    rows = json.loads(out.read_text())["physical_to_logical_map"]
    assert [len(row) for row in rows] == [12] * 5
    for dense in (0, 3):
        assert set(rows[dense]) == set(range(8))
    for layer, row in enumerate((1, 2, 4)):
        assert served(rows, row, 4) == [set(rank) for rank in placement.rank_experts[layer]]
    options = ("--from", "sglang", "--dense-layers", "0,3", *GROUP)
    printed(capsys, "import", out, *options, "--out", tmp_path / "back.json")
    assert Placement.read(tmp_path / "back.json").rank_experts == placement.rank_experts


def test_dense_layers_that_an_import_saw_are_rows_of_the_export(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = np.random.default_rng(0).integers(1, 50, (4, 8))
    counts[0] = counts[3] = 0
    (tmp_path / "counts.json").write_text(json.dumps({"logical_count": counts.tolist()}))
    placement, out = tmp_path / "placement.json", tmp_path / "map.json"
    printed(capsys, "import", tmp_path / "counts.json", "--from", "sglang-distribution", *GROUP, "--out", placement)
    assert Placement.read(placement).dense_layers == (0, 3)
    printed(capsys, "export", placement, "--to", "sglang", out)
    rows = json.loads(out.read_text())["physical_to_logical_map"]
    for layer, row in enumerate((1, 2)):
        assert served(rows, row, 4) == [set(rank) for rank in Placement.read(placement).rank_experts[layer]]
    assert len(rows) == 4
    printed(capsys, "export", placement, "--to", "vllm", out)
    assert len(json.loads(out.read_text())) == 2


def test_dense_layers_that_a_trace_names_are_rows_of_the_export(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    placement, out = tmp_path / "placement.json", tmp_path / "map.json"
    printed(capsys, "place", "tests/files/routing.npz", *GROUP, "--out", placement)
    printed(capsys, "export", placement, "--to", "sglang", out)
    rows = json.loads(out.read_text())["physical_to_logical_map"]
    assert len(rows) == 6, "experts are in blocks 1, 3 and 5"
    assert served(rows, 5, 4) == [set(rank) for rank in Placement.read(placement).rank_experts[2]]


def test_the_example_of_vllm_is_read_as_its_other_tables_say(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text("[[0, 1, 2, 3, 0, 1], [0, 2, 0, 1, 0, 3]]")
    logical_to_physical = [[[0, 4], [1, 5], [2], [3]], [[0, 2, 4], [3], [1], [5]]]
    holders = read_map(tmp_path / "map.json", 1, 3).holders()
    for layer, experts in enumerate(logical_to_physical):
        for expert, physical in enumerate(experts):
            assert set(np.flatnonzero(holders[layer, expert])) == {one // 2 for one in physical}


@each(
    "document, told",
    [
        ("[[0, 1", "document: is not JSON"),
        ("{}", "physical_to_logical_map: is missing"),
        ('{"logical_count": [[1, 2]]}', "physical_to_logical_map: is missing (logical_count)"),
        ("[]", "is not a rectangle of whole numbers [layers, physical experts]"),
        ("[[0, 1, 2, 3], [0, 1]]", "is not a rectangle"),
        ("[[0.5, 1, 2, 3]]", "is not a rectangle"),
        ("[[0, 1, 2]]", "3 physical experts do not divide among 4 ranks"),
        ("[[0, 1, 2, -3]]", "expert -3 is not one of the 3 experts"),
        ("[[0, 1, 2, 3], [0, 1, 2, 2]]", "physical_to_logical_map.1: expert 3 is in no slot"),
        ("[[0, 1, 2, 2, 1, 3, 0, 3]]", "physical_to_logical_map.0: expert 2 is twice on rank 1"),
        ("[[0, 1, 2, 9000000000000000000]]", "expert 3 is in no slot"),
    ],
)
def test_a_malformed_map_is_refused_in_one_line(
    document: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "map.json").write_text(document)
    out = tmp_path / "out.json"
    assert told in refusal(capsys, "import", tmp_path / "map.json", "--from", "sglang", *GROUP, "--out", out)
    assert not out.exists()


def test_what_a_system_cannot_express_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "placement.json"
    placement = with_replicas(2, 8, 4, 3, seed=0)
    placement.write(path)
    out = tmp_path / "out.json"
    assert "MoE layers alone" in refusal(capsys, "export", path, "--to", "vllm", out, "--dense-layers", "0")
    assert "--to: unknown format (tensorrt)" in refusal(capsys, "export", path, "--to", "tensorrt", out)
    assert "--dense-layers: 7 is not one of the 3" in refusal(
        capsys, "export", path, "--to", "sglang", out, "--dense-layers", "7"
    )
    document = json.loads(path.read_text())
    document["rank_experts"][1][0].append(next(one for one in range(8) if one not in document["rank_experts"][1][0]))
    path.write_text(json.dumps(document))
    assert "ranks have different numbers of slots" in refusal(capsys, "export", path, "--to", "sglang", out)
    assert not out.exists()


def test_layers_are_written_as_numbers_and_ranges() -> None:
    assert parse_layers("0-2, 5") == (0, 1, 2, 5)
    for wrong in ("", "a", "-1", "3-1", "1,,2"):
        with pytest.raises(ValueError, match="dense_layers"):
            parse_layers(wrong)
