"""ExFlow's CSV and .npy files, ours against its own two placements of Mixtral 8x7B where they are at hand."""

import re
from pathlib import Path

import numpy as np
import pytest

from moe.interchange.exflow import read_csv, write_csv, write_npy
from moe.placement import Placement
from moe.placement.cost.evaluation import evaluate
from moe.placement.counts import RoutingStatistics
from moe.placement.topology import Topology
from moe.routing_trace import RoutingTrace
from tests.each import each
from tests.moe.traces import dropping_trace, markov_trace

PUBLISHED = Path("../shared/data/exflow")


def csv_text(expert_ranks: np.ndarray, *, ending: str = "\r\n") -> str:
    """Written without the code under test, as ExFlow's own files are."""
    rows = [f"{number},{rank}" for number, rank in enumerate(expert_ranks.ravel().tolist())]
    return ending.join(["Expert,Node", *rows, ""])


def mixtral_like(num_ranks: int) -> np.ndarray:
    draw = np.random.default_rng(num_ranks)
    return np.stack([draw.permutation(np.arange(8) % num_ranks) for _ in range(32)])


@each("num_ranks", [4, 8])
def test_a_placement_of_the_published_shape_survives_byte_for_byte(num_ranks: int, tmp_path: Path) -> None:
    ranks = mixtral_like(num_ranks)
    (tmp_path / "in.csv").write_bytes(csv_text(ranks).encode())
    placement = read_csv(tmp_path / "in.csv", 8, 1, num_ranks)
    np.testing.assert_array_equal(placement.expert_ranks(), ranks)
    assert (placement.num_layers, placement.dispatch) == (32, "coherent")
    placement.write(tmp_path / "placement.json")
    write_csv(Placement.read(tmp_path / "placement.json"), tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "in.csv").read_bytes()


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason=f"{PUBLISHED} with ExFlow's own placements is absent")
@each("num_ranks, hops, reduction", [(4, 17.495, 0.248), (8, 22.166, 0.183)])
def test_published_placements_survive_byte_for_byte_and_their_names_add_up(
    num_ranks: int, hops: float, reduction: float, tmp_path: Path
) -> None:
    (path,) = PUBLISHED.glob(f"solution_intra{num_ranks}_inter1_*.csv")
    placement = read_csv(path, 8, 1, num_ranks)
    assert (placement.num_layers, placement.slots_per_rank) == (32, 8 // num_ranks)
    write_csv(placement, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == path.read_bytes()
    named = re.fullmatch(r"solution_intra\d+_inter1_cost([\d.]+)_cintra([\d.]+)_cinter0", path.stem)
    assert named is not None
    cost, per_peer = float(named[1]), float(named[2])
    assert cost == pytest.approx(hops, abs=1e-3)
    assert per_peer * (num_ranks - 1) == pytest.approx(cost)
    assert 1 - cost / chance_hops(num_ranks) == pytest.approx(reduction, abs=5e-4)


def chance_hops(num_ranks: int) -> float:
    """Hops per token of any placement where routing knows no affinity, counted by our own evaluation."""
    unlinked = np.ones((31, 8, 8), np.int64)
    statistics = RoutingStatistics(
        num_tokens=64,
        transitions=unlinked,
        jumps=np.zeros((0, 5), np.int64),
        source_counts=None,
        loads=np.full((32, 8), 8),
        dropped=0,
        anchors=np.full((32, 8), 8),
        coactivation=np.zeros((32, 8, 8), np.int64),
    )
    traffic = evaluate(statistics, Topology.hops(1, num_ranks), mixtral_like(num_ranks), "coherent")
    assert traffic.cross_rank == pytest.approx(1 - 1 / num_ranks)
    return traffic.cost


@each("num_ranks, hops", [(4, 23.25), (8, 27.125)])
def test_without_affinity_every_placement_costs_the_chance_level(num_ranks: int, hops: float) -> None:
    assert chance_hops(num_ranks) == pytest.approx(hops)


def test_any_order_of_rows_and_any_line_end_is_read(tmp_path: Path) -> None:
    ranks = mixtral_like(4)
    header, *rows = csv_text(ranks, ending="\n").splitlines()
    shuffled = np.random.default_rng(0).permutation(rows).tolist()
    (tmp_path / "in.csv").write_text("\n".join([header, *shuffled]), encoding="utf-8")
    np.testing.assert_array_equal(read_csv(tmp_path / "in.csv", 8, 2, 2).expert_ranks(), ranks)


EVEN = csv_text(np.tile(np.arange(8) % 4, (2, 1)), ending="\n")


@each(
    "text, problem",
    [
        ("", "line 1: is not Expert,Node ()"),
        ("expert,gpu\n0,1\n", "line 1: is not Expert,Node (expert,gpu)"),
        ("Expert,Node\n", "file: lists no experts"),
        (EVEN.replace("5,1\n", "5,one\n"), "line 7: is not two whole numbers (5,one)"),
        (EVEN.replace("5,1\n", "5,-1\n"), "line 7: is not two whole numbers (5,-1)"),
        (EVEN.replace("5,1\n", "5,1,9\n"), "line 7: is not two whole numbers (5,1,9)"),
        (EVEN.replace("5,1\n", "4,1\n"), "line 7: expert id 4 is listed twice"),
        (EVEN.replace("5,1\n", "5,4\n"), "line 7: GPU 4 is outside the 4 ranks"),
        (EVEN.replace("5,1\n", ""), "layer 0: expert 5 (id 5) is missing"),
        (EVEN.replace("13,1\n", ""), "layer 1: expert 5 (id 13) is missing"),
        (EVEN.replace("15,3\n", ""), "layer 1: expert 7 (id 15) is missing"),
        (EVEN.replace("13,1\n", "13,2\n"), "layer 1: GPU 1 holds 1 experts where each holds 2"),
    ],
)
def test_malformed_files_are_refused_with_layer_gpu_and_count(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.csv") as caught:
        read_csv(path, 8, 1, 4)
    assert str(caught.value).startswith(f"{path}: {problem}; ")


def test_files_that_are_no_text_or_of_another_shape_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes.csv").write_bytes(b"Expert,Node\n\xff\xfe,1\n")
    with pytest.raises(ValueError, match=r"bytes\.csv: file: is not CSV text"):
        read_csv(tmp_path / "bytes.csv", 8, 1, 4)
    with pytest.raises(ValueError, match=r"none\.csv: file: cannot be read \(No such file or directory\); check"):
        read_csv(tmp_path / "none.csv", 8, 1, 4)
    (tmp_path / "even.csv").write_text(EVEN, encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 4: GPU 2 is outside the 2 ranks"):
        read_csv(tmp_path / "even.csv", 8, 1, 2)
    with pytest.raises(ValueError, match="num_experts: 8 experts do not divide among 3 ranks; choose"):
        read_csv(tmp_path / "even.csv", 8, 1, 3)
    with pytest.raises(ValueError, match=r"num_experts: must be at least 1 \(0\)"):
        read_csv(tmp_path / "even.csv", 0, 1, 4)


def test_replicas_have_no_place_in_the_csv(tmp_path: Path) -> None:
    replicated = Placement.contiguous(1, 4, 1, 2).model_copy(update={"rank_experts": (((0, 1, 2), (2, 3, 0)),)})
    with pytest.raises(ValueError, match=r"rank_experts: .* replicas"):
        write_csv(replicated, tmp_path / "out.csv")
    assert not list(tmp_path.iterdir())


@each("top_k", [1, 2])
def test_a_routing_trace_goes_to_npy_and_back(top_k: int, tmp_path: Path) -> None:
    routing = dropping_trace(8, 4, top_k, 60, seed=0, world_size=4, drop=0.1)
    write_npy(routing, tmp_path / "routing.npy")
    assert np.load(tmp_path / "routing.npy").shape == ((60, 4) if top_k == 1 else (60, 4, 2))
    again = RoutingTrace.read(tmp_path / "routing.npy", 8)
    np.testing.assert_array_equal(again.expert_ids, routing.expert_ids)
    write_npy(again, tmp_path / "again.npy")
    assert (tmp_path / "again.npy").read_bytes() == (tmp_path / "routing.npy").read_bytes()


def test_what_exflow_would_read_costs_the_same_here(tmp_path: Path) -> None:
    routing = markov_trace(8, 4, 0.8, 500, seed=0)
    write_npy(routing, tmp_path / "routing.npy")
    ids = np.load(tmp_path / "routing.npy")
    ranks = mixtral_like(4)[:4]
    hops = sum((ranks[gap][ids[:, gap]] != ranks[gap + 1][ids[:, gap + 1]]).sum() for gap in range(3)) / 500
    traffic = evaluate(RoutingStatistics.collect(routing, 4), Topology.hops(1, 4), ranks, "coherent")
    assert traffic.cost == pytest.approx(hops)
