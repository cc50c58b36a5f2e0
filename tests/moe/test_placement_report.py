import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure as Drawing

from moe.placement import solve
from moe.placement.contiguous import contiguous_ranks
from moe.placement.evaluation import evaluate
from moe.placement.placement import Dispatch
from moe.placement.statistics import RoutingStatistics
from moe.placement.topology import Topology
from moe.report.figures import BlockMap, block_maps, cost_by_layer, to_svg
from moe.report.page import Facts, Figure, Note, Section, Table, page
from moe.report.report import placement_report
from moe.routing_trace import RoutingTrace
from tests.moe.traces import dropping_trace, markov_trace, trace

VOID = {"meta", "img", "br", "link", "path", "use", "image"}


class Outline(HTMLParser):
    """Checks that tags close in order and collects what could reach out of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def report_of(routing: RoutingTrace, nodes: int, ranks: int, objective: Dispatch) -> str:
    topology = Topology.hops(nodes, ranks)
    statistics = RoutingStatistics.collect(routing, nodes * ranks)
    placement = solve(statistics, topology, objective=objective)
    baseline = contiguous_ranks(statistics.num_layers, statistics.num_experts, nodes * ranks)
    traffic = (evaluate(statistics, topology, r, objective) for r in (baseline, placement.expert_ranks()))
    return placement_report(placement, statistics, topology, *traffic)


def clustered(routing: RoutingTrace, ranks: int) -> RoutingTrace:
    return replace(routing, source_rank=(routing.expert_ids[:, 0, 0] * 3 % ranks).astype(np.int32))


@pytest.mark.parametrize("objective", ["coherent", "home"])
def test_a_report_stands_alone_and_names_its_dispatch_mode(objective: Dispatch) -> None:
    text = report_of(clustered(markov_trace(8, 4, 0.8, 2_000, seed=0, world_size=4), 4), 2, 2, objective)
    outline = Outline(text)
    assert all(reference.startswith(("#", "data:")) for reference in outline.references)
    assert not {"script", "link", "iframe"} & set(outline.tags)
    assert set(re.findall(r"https?://[^\s\"'<)]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    name = {"coherent": "context-coherent dispatch", "home": "home-return dispatch"}[objective]
    assert f"Dispatch mode: {name}" in text
    assert f"These numbers hold for {name}" in text
    assert "cuts the traffic" in text


def test_the_same_placement_gives_the_same_page() -> None:
    routing = markov_trace(8, 3, 0.8, 500, seed=0, world_size=4)
    assert report_of(routing, 2, 2, "coherent") == report_of(routing, 2, 2, "coherent")


def test_one_layer_has_nothing_to_place_in_coherent_dispatch() -> None:
    routing = markov_trace(8, 1, 0.8, 300, seed=0, world_size=4)
    text = report_of(routing, 2, 2, "coherent")
    Outline(text)
    assert "There is nothing to place" in text
    assert "Affinity" not in text
    assert "Load of the ranks" in text
    assert "Where the tokens of each expert come from" in report_of(clustered(routing, 4), 2, 2, "home")


def test_many_layers_and_experts_stay_one_light_page() -> None:
    text = report_of(markov_trace(64, 24, 0.8, 3_000, seed=0, world_size=16), 4, 4, "coherent")
    outline = Outline(text)
    assert len(text) < 1_500_000
    assert outline.tags.count("figure") == 4
    assert "data:image/png;base64," in text
    assert "<td>layer 22 to 23</td>" in text


def test_a_placement_that_gains_nothing_is_called_that() -> None:
    ids = np.zeros((10, 2, 1), int)
    ids[:5] = 1
    ids[0, 1] = 0
    assert "Experts stay contiguous" in report_of(trace(ids, ids[:, 0, 0] * 0, 2, 1), 2, 1, "coherent")


def test_traffic_that_stays_on_its_rank_is_called_that() -> None:
    routing = dropping_trace(4, 3, 1, 200, seed=0, world_size=4, drop=0.0)
    ids = routing.expert_ids.copy()
    ids[:, 1:] = ids[:, :1] ^ 1
    text = report_of(replace(routing, expert_ids=ids), 2, 1, "coherent")
    assert "moves no token between ranks" in text


def test_copies_of_a_top_k_router_are_said_to_be_left_out() -> None:
    routing = dropping_trace(8, 3, 2, 300, seed=0, world_size=4, drop=0.05)
    assert "not the copies" in report_of(routing, 2, 2, "coherent")
    assert "not the copies" not in report_of(routing, 2, 2, "home")


def test_a_block_map_sorts_by_rank_and_counts_what_stays() -> None:
    tokens = np.array([[0, 8, 1, 1], [5, 0, 0, 0], [0, 3, 0, 3], [0, 0, 7, 0]])
    ranks, following = np.array([1, 0, 1, 0]), np.array([0, 1, 0, 1])
    block_map = BlockMap(tokens, ranks, following)
    assert block_map.staying == (5 + 7 + 8 + 1 + 3 + 3) / 28
    shares = block_map.ordered_shares()
    np.testing.assert_allclose(shares, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0.1, 0.8, 0.1], [0, 0, 0.5, 0.5]])


def test_figures_are_the_same_bytes_and_carry_no_date() -> None:
    first, second = (cost_by_layer(np.array([2.0, 3]), np.array([1.0, 2]), "hops", first_layer=1) for _ in range(2))
    assert first == second
    assert "date" not in first.lower()
    assert "cost per token [hops]" in first


def test_heavy_figures_become_png() -> None:
    draw = np.random.default_rng(0)
    ranks = np.arange(64) // 4
    maps = [BlockMap(draw.integers(0, 9, (64, 64)), ranks, ranks) for _ in range(20)]
    light = block_maps(["one"], maps[:1], maps[:1], "row", "column")
    heavy = block_maps([str(index) for index in range(20)], maps, maps, "row", "column")
    assert isinstance(light, str)
    assert isinstance(heavy, bytes)
    assert heavy.startswith(b"\x89PNG")
    assert heavy == block_maps([str(index) for index in range(20)], maps, maps, "row", "column")


def test_a_page_escapes_what_it_is_given() -> None:
    drawing = Drawing(figsize=(1, 1))
    drawing.text(0.5, 0.5, "<b>")
    blocks = [
        Facts((("<name>", "1 < 2", "&"),)),
        Note("a <note>"),
        Table(("<column>", "x"), [("<cell>", "1")], caption="<caption>", half=True),
        Figure(to_svg(drawing), "<figure>", half=True),
        Figure(b"\x89PNG", 'a "quoted" picture'),
    ]
    text = page("<title>", "<finding>", [Section("<section>", blocks, text="<text>")], kicker="<kicker>", footer="<f>")
    outline = Outline(text)
    assert text.startswith("<!doctype html>")
    for word in ("name", "note", "column", "cell", "finding", "kicker", "text", "f"):
        assert f"&lt;{word}&gt;" in text
        assert f"<{word}>" not in text
    assert "data:image/png;base64,iVBORw==" in outline.references
    assert text.count('class="half"') + text.count('class="table half"') == 2
