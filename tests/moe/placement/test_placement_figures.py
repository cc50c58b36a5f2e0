"""Pictures of the placement report: their texts, and the figures behind them."""

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from moe.placement.cost.evaluation import Evaluation, TradeoffPoint, evaluate
from moe.placement.counts import RoutingStatistics
from moe.placement.ranks import contiguous_ranks
from moe.placement.topology import Topology
from moe.report.experts_section import BlockMap, block_maps
from moe.report.layer_section import layer_strips, load_histogram, load_maps
from moe.report.report import price_of_balance, tradeoff_curve, tradeoff_section
from moe.report.traffic_section import arrivals_by_layer, cost_bars, link_bars, rank_maps
from netsim.foundation.page import page
from tests.each import each
from tests.moe.traces import markov_trace

SVG = "{http://www.w3.org/2000/svg}"


def texts(markup: str) -> list[str]:
    return ["".join(text.itertext()) for text in ElementTree.fromstring(markup).iter(SVG + "text")]


def traffic(cost: str = "hops", num_nodes: int = 2) -> tuple[Evaluation, Evaluation]:
    """Contiguous experts, and experts in another order."""
    statistics = RoutingStatistics.collect(markov_trace(8, 5, 0.8, 600, seed=0, world_size=4), 4)
    topology = Topology.parse(cost, num_nodes, 4 // num_nodes)
    contiguous = contiguous_ranks(5, 8, 4)
    draw = np.random.default_rng(1)
    other = np.stack([draw.permutation(layer) for layer in contiguous])
    return evaluate(statistics, topology, contiguous, "coherent"), evaluate(statistics, topology, other, "coherent")


def test_pictures_are_the_same_bytes_each_time() -> None:
    once, again = (layer_strips(*traffic(), "hops", name="now", first=1) for _ in range(2))
    assert once == again


def test_bars_have_their_values_beside_them() -> None:
    written = texts(cost_bars({"contiguous": 4.0, "placed": 3.0, "lower bound": 0.5}, "hops"))
    assert {"contiguous", "placed", "lower bound", "4", "3", "0.5", "cost per token [hops]"} <= set(written)
    volumes = {"contiguous": {"same_rank": 2.0, "same_node": 3.0, "other_node": 5.25}}
    volumes["placed"] = {"same_rank": 6.0, "same_node": 1.0, "other_node": 0.0}
    assert {"between nodes", "inside the node", "5.25", "GB"} <= set(texts(link_bars(volumes, "GB")))
    del volumes["contiguous"]
    assert "between nodes" not in texts(link_bars(volumes, "GB"))
    assert {"stay", "move", "experts"} <= set(texts(arrivals_by_layer(np.array([0, 2, 8]), 8)))


@each("num_nodes", [1, 2])
def test_a_map_of_ranks_shows_every_pair_and_leaves_out_what_stays(num_nodes: int) -> None:
    before, placed = traffic(num_nodes=num_nodes)
    written = texts(rank_maps({"now": before, "placed": placed}, 4 // num_nodes))
    sent = [(of.moves.sum(axis=(0, 1)) / 600) * (1 - np.eye(4)) for of in (before, placed)]
    assert all(f"{value:.2g}" in written for moves in sent for value in moves[moves > 0])
    assert any("of them to other nodes" in text for text in written) == (num_nodes == 2)


def test_strips_show_the_moves_only_where_they_differ_from_the_cost() -> None:
    hops, flat = traffic(), traffic(num_nodes=1)
    assert "moves of a token to other ranks" in texts(layer_strips(*hops, "hops", name="now", first=1))
    assert "moves of a token to other ranks" not in texts(layer_strips(*flat, "hops", name="now", first=1))


def test_a_block_map_sorts_by_rank_and_counts_what_stays() -> None:
    tokens = np.array([[0, 8, 1, 1], [5, 0, 0, 0], [0, 3, 0, 3], [0, 0, 7, 0]])
    ranks, following = np.array([1, 0, 1, 0]), np.array([0, 1, 0, 1])
    block_map = BlockMap(tokens, ranks, following)
    assert block_map.staying == (5 + 7 + 8 + 1 + 3 + 3) / 28
    shares = block_map.ordered_shares()
    np.testing.assert_allclose(shares, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0.1, 0.8, 0.1], [0, 0, 0.5, 0.5]])
    by_rank = block_map.by_rank()
    assert by_rank.tokens.tolist() == [[12, 0], [1, 15]]
    assert by_rank.staying == block_map.staying


def test_pairs_of_maps_say_what_stays() -> None:
    draw = np.random.default_rng(0)
    tokens, ranks = draw.integers(0, 9, (16, 16)), np.arange(16) // 4
    one, other = BlockMap(tokens, ranks, ranks), BlockMap(tokens, ranks, draw.permutation(ranks))
    markup = block_maps(["layer 3", "layer 5"], [one, one], [other, one], "row", "column", name="now")
    assert {"layer 3", "layer 5", f"now: {one.staying:.0%} stays", f"placed: {other.staying:.0%} stays"} <= set(
        texts(markup)
    )
    assert one.frames() == [(4 * rank - 0.5, 4 * rank + 3.5, 4 * rank - 0.5, 4 * rank + 3.5) for rank in range(4)]


def test_loads_are_shown_relative_to_the_mean_of_their_layer() -> None:
    loads = np.array([[10.0, 30, 20], [5, 5, 5]])
    markup = load_maps(loads, loads[:, ::-1], name="now")
    assert texts(markup).count("at most 1.50 of the mean") == 2
    assert texts(markup).count("1.50") == texts(markup).count("0.50") == 2
    assert "cap 1.2" in texts(load_histogram(loads, loads, cap=1.2))
    assert not any("cap" in text for text in texts(load_histogram(loads, loads)))


def test_no_key_of_loads_goes_below_zero() -> None:
    loads = np.array([[0.0, 0, 0, 40]])
    assert not any(text.startswith(("-", "\N{MINUS SIGN}")) for text in texts(load_maps(loads, loads)))


POINTS = tuple(
    TradeoffPoint(cap, cost, cost, busiest)
    for cap, cost, busiest in ((1.05, 12.0, 1.04), (1.2, 11.0, 1.18), (None, 10.0, 1.6))
)
CONTIGUOUS = TradeoffPoint(None, 20.0, 20.0, 1.3)


def test_the_curve_names_its_placements() -> None:
    written = texts(tradeoff_curve(POINTS, POINTS[1], {"contiguous": CONTIGUOUS}, "hops"))
    assert {"placed", "contiguous", "no cap", "cap 1.05"} <= set(written)
    assert "cap 1.2" not in written, "the placed one"


def test_the_price_of_balance_is_a_sentence() -> None:
    text = price_of_balance(POINTS, POINTS[1], {"contiguous": CONTIGUOUS}, "hops")
    assert "at 1.18 instead of 1.60 times the mean costs 10.0% more traffic (11 instead of 10 hops a token)" in text
    assert "contiguous 20 hops at 1.30" in text
    assert "no cap that was tried costs less" in price_of_balance(POINTS, POINTS[2], {}, "hops")
    alone = price_of_balance((), POINTS[2], {}, "hops")
    assert "cap" not in alone
    assert "10 hops a token with the busiest rank at 1.60" in alone
    free = replace(POINTS[0], cost=0.0, cross_rank=0.0)
    assert "nan" not in price_of_balance((free,), free, {}, "hops")


def test_a_section_without_a_curve_still_compares() -> None:
    section = tradeoff_section((), POINTS[0], {"contiguous": CONTIGUOUS, "packing": CONTIGUOUS}, "hops")
    assert section.title == "Traffic and balance"
    assert "one cap" not in page("", "", [section])
    assert tradeoff_section(POINTS, POINTS[0], {}, "hops").title == "The price of balance"


def test_a_point_of_the_curve_is_read_off_the_traffic() -> None:
    _, placed = traffic()
    point = TradeoffPoint.of(1.2, placed)
    off_rank = placed.moves.sum(axis=(0, 1)) * (1 - np.eye(4))
    assert point.cross_rank == pytest.approx(off_rank.sum() / 600)
    busiest = [loads.max() / loads.mean() for loads in placed.rank_loads]
    assert (point.max_load, point.busiest) == (1.2, pytest.approx(max(busiest)))
