"""Pictures of the placement report, read back as shapes and pixels."""

import base64
import io
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.image import imread

from moe.placement.cost.evaluation import Evaluation, TradeoffPoint, evaluate
from moe.placement.counts import RoutingStatistics
from moe.placement.ranks import contiguous_ranks
from moe.placement.topology import Topology
from moe.report.drawing import ALARM, AMOUNTS, BEFORE, DEVIATIONS, PLACED, Drawing, Scale, png
from moe.report.experts_section import BlockMap, block_maps
from moe.report.layer_section import layer_strips, load_histogram, load_maps
from moe.report.report import price_of_balance, tradeoff_curve, tradeoff_section
from moe.report.traffic_section import arrivals_by_layer, cost_bars, link_bars, rank_maps
from netsim.foundation.page import page
from tests.moe.traces import markov_trace

SVG = "{http://www.w3.org/2000/svg}"


def shapes(markup: str, kind: str, **look: str) -> list[ElementTree.Element]:
    root = ElementTree.fromstring(markup)
    return [shape for shape in root.iter(SVG + kind) if all(shape.get(key) == value for key, value in look.items())]


def texts(markup: str) -> list[str]:
    return [shape.text or "" for shape in shapes(markup, "text")]


def pixels(markup: str) -> list[np.ndarray]:
    files = [base64.b64decode((image.get("href") or "").partition(",")[2]) for image in shapes(markup, "image")]
    return [np.round(imread(io.BytesIO(file), format="png")[:, :, :3] * 255) for file in files]


def traffic(cost: str = "hops", num_nodes: int = 2) -> tuple[Evaluation, Evaluation]:
    """Contiguous experts, and experts in another order."""
    statistics = RoutingStatistics.collect(markov_trace(8, 5, 0.8, 600, seed=0, world_size=4), 4)
    topology = Topology.parse(cost, num_nodes, 4 // num_nodes)
    contiguous = contiguous_ranks(5, 8, 4)
    draw = np.random.default_rng(1)
    other = np.stack([draw.permutation(layer) for layer in contiguous])
    return evaluate(statistics, topology, contiguous, "coherent"), evaluate(statistics, topology, other, "coherent")


def test_a_png_has_the_colours_of_its_palette_in_every_cell() -> None:
    shares = np.random.default_rng(0).random((7, 5))
    read = np.round(imread(io.BytesIO(png(shares, AMOUNTS)), format="png")[:, :, :3] * 255)
    np.testing.assert_array_equal(read, AMOUNTS[np.round(shares * (len(AMOUNTS) - 1)).astype(int)])
    outside = np.round(imread(io.BytesIO(png(np.array([[-3.0, 9.0]]), AMOUNTS)), format="png")[:, :, :3] * 255)
    np.testing.assert_array_equal(outside[0], AMOUNTS[[0, -1]])


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 7.3), (1, 1.04), (-0.5, 57.5), (0, 3e-9), (0.93, 2e6)])
@pytest.mark.parametrize("most", [2, 5, 12])
def test_marks_are_round_lie_on_the_axis_and_are_not_too_many(low: float, high: float, most: int) -> None:
    scale = Scale(low, high, 0, 100)
    marks = scale.marks(most)
    assert 1 <= len(marks) <= most + 1
    steps = np.diff(marks)
    assert steps == pytest.approx(np.full(len(steps), steps[0])) if len(steps) else True
    if len(steps):
        assert f"{steps[0]:.6e}"[0] in "125"
    assert all(-1e-6 <= scale(mark) <= 100 + 1e-6 for mark in marks)
    assert all(mark == int(mark) for mark in scale.marks(most, whole=True))


def test_texts_are_escaped_and_pictures_are_the_same_bytes_each_time() -> None:
    drawing = Drawing(10, 10)
    drawing.text(1, 1, "<b> & co")
    drawing.rect(0, 0, 1, 1, PLACED, title='"<i>"')
    assert texts(drawing.markup()) == ["<b> & co"]
    assert shapes(drawing.markup(), "title")[0].text == '"<i>"'
    assert layer_strips(*traffic(), "hops", name="now", first=1) == layer_strips(
        *traffic(), "hops", name="now", first=1
    )


def test_bars_are_as_long_as_their_values() -> None:
    costs = {"contiguous": 4.0, "placed": 3.0, "lower bound": 0.5}
    widths = [
        float(bar.get("width", 0)) for bar in shapes(cost_bars(costs, "hops"), "rect") if bar.get("height") == "26"
    ]
    assert np.array(widths) / widths[0] == pytest.approx(np.array(list(costs.values())) / 4, rel=0.01)
    volumes = {"contiguous": {"same_rank": 2.0, "same_node": 3.0, "other_node": 5.0}}
    volumes["placed"] = {"same_rank": 6.0, "same_node": 1.0, "other_node": 0.0}
    bars = [float(bar.get("width", 0)) for bar in shapes(link_bars(volumes, "GB"), "rect") if bar.get("height") == "26"]
    assert np.array(bars) / bars[0] * 2 == pytest.approx([2, 3, 5, 6, 1], rel=0.01)
    assert {"between nodes", "inside the node"} <= set(texts(link_bars(volumes, "GB")))
    del volumes["contiguous"]
    assert "between nodes" not in texts(link_bars(volumes, "GB"))


def test_moving_experts_fill_their_share_of_a_layer() -> None:
    moving = np.array([0, 2, 8])
    heights = [float(bar.get("height", 0)) for bar in shapes(arrivals_by_layer(moving, 8), "rect", fill=PLACED)]
    assert np.array(heights[:3]) / heights[2] == pytest.approx(moving / 8, abs=0.01)


@pytest.mark.parametrize("num_nodes", [1, 2])
def test_a_map_of_ranks_shows_every_pair_and_leaves_out_what_stays(num_nodes: int) -> None:
    before, placed = traffic(num_nodes=num_nodes)
    markup = rank_maps({"now": before, "placed": placed}, 4 // num_nodes)
    sent = [(of.moves.sum(axis=(0, 1)) / 600) * (1 - np.eye(4)) for of in (before, placed)]
    reach = max(float(moves.max()) for moves in sent)
    for image, moves in zip(pixels(markup), sent, strict=False):
        np.testing.assert_array_equal(image, AMOUNTS[np.round(moves / reach * (len(AMOUNTS) - 1)).astype(int)])
    written = [float(text) for text in texts(markup) if re.fullmatch(r"\d?\.?\d+", text)]
    assert all(float(f"{value:.2g}") in written for moves in sent for value in moves[moves > 0])
    frames = shapes(markup, "rect", stroke=ALARM)
    assert len(frames) == (4 if num_nodes == 2 else 0)
    assert any("of them to other nodes" in text for text in texts(markup)) == (num_nodes == 2)


def test_strips_show_the_moves_only_where_they_differ_from_the_cost() -> None:
    hops, flat = traffic(), traffic(num_nodes=1)
    assert "moves of a token to other ranks" in texts(layer_strips(*hops, "hops", name="now", first=1))
    assert "moves of a token to other ranks" not in texts(layer_strips(*flat, "hops", name="now", first=1))
    dots = shapes(layer_strips(*flat, "hops", name="now", first=1), "circle", fill=BEFORE)
    assert len(dots) == 4 + 5, "no cost in layer 0, a load in every layer"
    titles = [title.text or "" for title in shapes(layer_strips(*flat, "hops", name="now", first=1), "title")]
    for layer in range(1, 5):
        assert any(t.startswith("now, cost") and t.endswith(f"layer {layer}: {flat[0].cost_by_layer[layer]:.4g}")
                   for t in titles)  # fmt: skip


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
    assert [image.shape for image in pixels(markup)][:4] == [(16, 16, 3)] * 4


def test_loads_are_shown_relative_to_the_mean_of_their_layer() -> None:
    loads = np.array([[10.0, 30, 20], [5, 5, 5]])
    markup = load_maps(loads, loads[:, ::-1], name="now")
    assert "now: at most 1.50 of the mean" in texts(markup)
    assert texts(markup).count("1.50") == texts(markup).count("0.50") == 2
    first, second, _ = pixels(markup)
    np.testing.assert_array_equal(first[:, ::-1], second)
    np.testing.assert_array_equal(first[0, 1], DEVIATIONS[-1])
    assert any(text.endswith("%") for text in texts(load_histogram(loads, loads)))


def test_no_key_of_loads_goes_below_zero() -> None:
    loads = np.array([[0.0, 0, 0, 40]])
    assert not any(text.startswith("-") for text in texts(load_maps(loads, loads)))


POINTS = tuple(
    TradeoffPoint(cap, cost, cost, busiest)
    for cap, cost, busiest in ((1.05, 12.0, 1.04), (1.2, 11.0, 1.18), (None, 10.0, 1.6))
)
CONTIGUOUS = TradeoffPoint(None, 20.0, 20.0, 1.3)


def test_the_curve_puts_every_placement_where_its_load_and_cost_are() -> None:
    markup = tradeoff_curve(POINTS, POINTS[1], {"contiguous": CONTIGUOUS}, "hops")
    dots = {(float(dot.get("cx", 0)), float(dot.get("cy", 0))): dot.get("fill") for dot in shapes(markup, "circle")}
    curve = sorted(place for place, fill in dots.items() if fill != BEFORE)
    (grey,) = (place for place, fill in dots.items() if fill == BEFORE)
    assert [y for _, y in curve] == sorted(y for _, y in curve), "less balance, lower cost: further down"
    assert grey[1] < curve[0][1]
    along = (curve[1][0] - curve[0][0]) / (curve[2][0] - curve[0][0])
    assert along == pytest.approx((1.18 - 1.04) / (1.6 - 1.04), abs=0.01)
    assert (grey[1] - curve[2][1]) / (curve[0][1] - curve[2][1]) == pytest.approx((20 - 10) / (12 - 10), rel=0.01)
    assert {"placed", "contiguous", "no cap"} <= set(texts(markup))


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
