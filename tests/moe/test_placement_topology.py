from pathlib import Path

import numpy as np
import pytest

from moe.placement.topology import Topology


def test_hops_count_levels() -> None:
    topology = Topology.parse("hops", 2, 2)
    assert topology.cost.tolist() == [[0, 1, 2, 2], [1, 0, 2, 2], [2, 2, 0, 1], [2, 2, 1, 0]]
    np.testing.assert_array_equal(topology.cost, topology.off_rank + topology.off_node)


@pytest.mark.parametrize(
    ("text", "ratio"),
    [("intra=900Gbps,inter=100Gbps", 9), ("intra=1.8Tbps,inter=400Gbps", 4.5), ("intra=500Mbps,inter=1Gbps", 0.5)],
)
def test_rates_become_transfer_times(text: str, ratio: float) -> None:
    cost = Topology.parse(text, 2, 2).cost
    np.testing.assert_allclose(cost[0], [0, 1, ratio, ratio])


def test_a_matrix_is_taken_as_it_is(tmp_path: Path) -> None:
    matrix = np.array([[0, 3], [5, 0]])
    np.save(tmp_path / "cost.npy", matrix)
    np.testing.assert_array_equal(Topology.parse(str(tmp_path / "cost.npy"), 2, 1).cost, matrix)


@pytest.mark.parametrize("text", ["", "miles", "intra=900,inter=100", "intra=1Gbps", "intra=1Gbps,inter=0Gbps",
                                  "intra=1.2.3Gbps,inter=1Gbps"])  # fmt: skip
def test_other_costs_are_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(ValueError, match=r"cost: is no cost that is known .*; give hops, a .npy matrix or intra="):
        Topology.parse(text, 2, 2)


@pytest.mark.parametrize(
    ("matrix", "problem"),
    [
        (np.zeros((3, 3)), r"shape \(3, 3\) is not \(4, 4\)"),
        (np.ones((4, 4)), "the diagonal is not zero"),
        (np.eye(4) - 1, "negative"),
        (np.where(np.eye(4), 0, np.nan), "NaN"),
        (np.array([["a"] * 4] * 4), "is no plain array of numbers"),
        (np.array([{}], dtype=object), "is no plain array of numbers"),
    ],
)
def test_matrices_that_are_no_cost_are_refused(matrix: np.ndarray, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "cost.npy"
    np.save(path, matrix, allow_pickle=True)
    with pytest.raises(ValueError, match=rf"cost.npy: cost: .*{problem}.*; "):
        Topology.parse(str(path), 2, 2)


def test_a_missing_matrix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.npy: cost: cannot be read"):
        Topology.parse(str(tmp_path / "none.npy"), 2, 2)


@pytest.mark.parametrize(("nodes", "ranks", "field"), [(0, 2, "num_nodes"), (2, 0, "ranks_per_node"), (-1, 1, "num_")])
def test_counts_must_be_positive(nodes: int, ranks: int, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        Topology.hops(nodes, ranks)
