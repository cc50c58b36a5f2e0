from pathlib import Path

import numpy as np
import pytest

from moe.placement.cost.evaluation import exchange_seconds
from moe.placement.topology import LinkRates, Topology
from tests.each import each


def test_hops_count_levels() -> None:
    topology = Topology.parse("hops", 2, 2)
    assert topology.cost.tolist() == [[0, 1, 2, 2], [1, 0, 2, 2], [2, 2, 0, 1], [2, 2, 1, 0]]
    np.testing.assert_array_equal(topology.cost, topology.off_rank + topology.off_node)


@each(
    "text, ratio",
    [("intra=900Gbps,inter=100Gbps", 9), ("intra=1.8Tbps,inter=400Gbps", 4.5), ("intra=500Mbps,inter=1Gbps", 0.5)],
)
def test_rates_become_transfer_times(text: str, ratio: float) -> None:
    cost = Topology.parse(text, 2, 2).cost
    np.testing.assert_allclose(cost[0], [0, 1, ratio, ratio])


def test_rates_and_latency_are_kept_for_predictions() -> None:
    rates = Topology.parse("intra=900Gbps,inter=100Gbps,latency=5us", 2, 2).rates
    assert rates == LinkRates(900e9, 100e9, 5e-6)
    plain = Topology.parse("intra=1.8Tbps,inter=400Gbps", 2, 2).rates
    assert plain == LinkRates(1.8e12, 4e11, 0)
    assert Topology.hops(2, 2).rates is None


def test_levels_are_the_least_ways_there_and_back() -> None:
    assert Topology.hops(2, 2).levels() == (2, 2)
    assert Topology.hops(1, 4).levels() == (2, 0)
    assert Topology.hops(1, 1).levels() == (0, 0)
    uneven = np.array([[0, 5, 9, 9], [1, 0, 9, 9], [9, 9, 0, 3], [9, 9, 2, 0]], dtype=float)
    assert Topology(2, 2, uneven, "units").levels() == (5, 13)


def test_an_exchange_takes_as_long_as_the_busiest_link() -> None:
    topology = Topology.parse("intra=8Gbps,inter=1Gbps,latency=2us", 2, 2)
    sent = np.zeros((1, 3, 4, 4))
    sent[0, 0, 0, 1] = 1e9  # 1 s inside the node
    sent[0, 1, :, 3] = [1e8, 2e8, 5e9, 9e9]  # 0.3 GB come in from the other node: 2.4 s; 5 GB inside: 5 s
    sent[0, 2, 1, 2:] = [1e8, 1e8]  # 0.2 GB leave one rank for the other node: 1.6 s
    np.testing.assert_allclose(exchange_seconds(sent, topology)[0], np.array([1, 5, 1.6]) + 3 * 2e-6)
    with pytest.raises(ValueError, match="cost: has no rates, which a prediction of times needs; give intra="):
        exchange_seconds(sent, Topology.hops(2, 2))


def test_a_matrix_is_taken_as_it_is(tmp_path: Path) -> None:
    matrix = np.array([[0, 3], [5, 0]])
    np.save(tmp_path / "cost.npy", matrix)
    np.testing.assert_array_equal(Topology.parse(str(tmp_path / "cost.npy"), 2, 1).cost, matrix)


@each(
    "text",
    [
        "",
        "miles",
        "intra=900,inter=100",
        "intra=1Gbps",
        "intra=1Gbps,inter=0Gbps",
        "intra=1.2.3Gbps,inter=1Gbps",
        "intra=1Gbps,inter=1Gbps,latency=5",
    ],
)
def test_other_costs_are_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(ValueError, match=r"cost: is unknown .*; give hops, a .npy matrix or intra="):
        Topology.parse(text, 2, 2)


@each(
    "matrix, problem",
    [
        (np.zeros((3, 3)), r"shape \(3, 3\) is not \(4, 4\)"),
        (np.ones((4, 4)), "the diagonal is not zero"),
        (np.eye(4) - 1, "negative"),
        (np.where(np.eye(4), 0, np.nan), "NaN"),
        (np.where(np.eye(4), 0, 1e200), r"holds 1e\+200"),
        (np.ones((4, 4), complex), "is not a plain array of numbers"),
        (np.zeros((4, 4), [("a", "i4"), ("b", "f4")]), "is not a plain array of numbers"),
        (np.array([["a"] * 4] * 4), "is not a plain array of numbers"),
        (np.array([{}], dtype=object), "is not a plain array of numbers"),
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
