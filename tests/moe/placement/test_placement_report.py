import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from moe.placement.cost.evaluation import evaluate, evaluate_placement
from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Dispatch, Mode, Placement
from moe.placement.ranks import contiguous_ranks
from moe.placement.solver.solve import solve
from moe.placement.topology import Topology
from moe.report.context import Context, Volume, find_moving, read_current, read_simulations
from moe.report.report import placement_report
from moe.report.summary import DISPATCH_LAWS, DISPATCH_NAMES, byte_unit, summarise
from moe.routing_trace import RoutingTrace
from netsim.foundation.chart import Panel, chart
from netsim.foundation.marks import Words
from netsim.foundation.page import Facts, Figure, Note, Section, Table, page
from tests.each import each
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


def report_of(
    routing: RoutingTrace, nodes: int, ranks: int, objective: Dispatch, cost: str = "hops", **known: Any
) -> tuple[str, dict[str, Any]]:
    """The page and its numbers; further keywords go into the context; slots, solver and max_load to the search."""
    topology = Topology.parse(cost, nodes, ranks)
    statistics = RoutingStatistics.collect(routing, nodes * ranks)
    search = {name: known.pop(name) for name in ("slots", "solver", "max_load") if name in known}
    placement = solve(statistics, topology, objective=objective, **search)
    baseline = contiguous_ranks(statistics.num_layers, statistics.num_experts, nodes * ranks)
    before = evaluate(statistics, topology, baseline, objective)
    placed = evaluate_placement(statistics, topology, placement)
    current, name = read_current(None, statistics, topology)
    moving = find_moving(placement, current.holders(), name, None, known.pop("expert_parameters", None))
    context = Context(Volume.of(routing, nodes * ranks), name, moving, **known)
    numbers = summarise(placement, statistics, topology, before, placed, context)
    json.dumps(numbers, allow_nan=False)
    return placement_report(placement, statistics, topology, before, placed, context), numbers


def contiguous_like(placement: Placement) -> Placement:
    sizes = placement.num_layers, placement.num_experts, placement.num_nodes, placement.ranks_per_node
    return Placement.contiguous(*sizes, dispatch=placement.dispatch)


def clustered(routing: RoutingTrace, ranks: int) -> RoutingTrace:
    return replace(routing, source_rank=(routing.expert_ids[:, 0, 0] * 3 % ranks).astype(np.int32))


def sized(routing: RoutingTrace, steps: int = 2) -> RoutingTrace:
    header = routing.header.model_copy(update={"hidden": 64, "element_bytes": 2})
    step = np.arange(routing.num_tokens) * steps // routing.num_tokens
    return replace(routing, header=header, step=step, micro=step % 1)


@each("objective", ["copies", "coherent", "home"])
def test_a_report_stands_alone_and_names_its_dispatch_mode(objective: Dispatch, request: pytest.FixtureRequest) -> None:
    """The first with its pictures."""
    if objective != "copies":
        request.getfixturevalue("blank_pictures_here")
    text, _ = report_of(clustered(markov_trace(8, 4, 0.8, 2_000, seed=0, world_size=4), 4), 2, 2, objective)
    outline = Outline(text)
    assert all(reference.startswith(("#", "data:")) for reference in outline.references)
    assert not {"script", "link", "iframe"} & set(outline.tags)
    assert set(re.findall(r"https?://[^\s\"'<)]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    name = DISPATCH_NAMES[objective]
    assert f"Dispatch mode: {name}" in text
    assert f"These numbers hold for {name}" in text
    assert "cuts the traffic" in text
    assert ">cap " not in text


@pytest.mark.usefixtures("blank_pictures_here")
def test_one_layer_has_nothing_to_place_in_coherent_dispatch() -> None:
    routing = markov_trace(8, 1, 0.8, 300, seed=0, world_size=4)
    text, _ = report_of(routing, 2, 2, "coherent")
    Outline(text)
    assert "There is nothing to place" in text
    assert "Affinity" not in text
    assert "The busiest rank computes" in text
    assert "No expert has to move" in text
    assert "Where the tokens of each expert come from" in report_of(clustered(routing, 4), 2, 2, "home")[0]


def test_the_page_of_a_large_model_stays_light() -> None:
    draw = np.random.default_rng(0)
    ids = draw.integers(256, size=(500, 58, 1))
    text, _ = report_of(trace(ids, ids[:, 0, 0] % 64, 256, 64), 8, 8, "home", solver="contiguous")
    Outline(text)
    assert len(text) < 500_000


def test_many_layers_are_told_by_those_that_save_most_and_least() -> None:
    routing = clustered(markov_trace(8, 12, 0.8, 500, seed=0, world_size=4), 4)
    text, numbers = report_of(routing, 2, 2, "coherent")
    cost = numbers["cost_per_token"]
    saved = np.subtract(cost["before_by_layer"], cost["placed_by_layer"])[1:]
    order = (np.argsort(-saved, kind="stable") + 1).tolist()
    assert re.findall(r"<td>layer (\d+)</td><td>\d\.", text) == [str(layer) for layer in order[:3] + order[-3:]]
    assert f"layer {order[0] - 1} to {order[0]} saves most" in text
    assert f"layer {order[-1] - 1} to {order[-1]} saves least" in text
    assert "-&gt;" not in text


def test_few_layers_are_all_shown() -> None:
    text, _ = report_of(clustered(markov_trace(8, 4, 0.8, 500, seed=0, world_size=4), 4), 2, 2, "coherent")
    for gap in range(3):
        assert f">layer {gap} to {gap + 1}</text>" in text
        assert f"<td>layer {gap + 1}</td>" in text


def test_every_dispatch_mode_has_a_name_and_a_law() -> None:
    assert set(DISPATCH_NAMES) == {name for one in get_args(Mode) for name in get_args(one)}
    assert set(DISPATCH_LAWS) == set(get_args(Dispatch)), "placements are made for these"
    assert all(DISPATCH_NAMES[dispatch] in law for dispatch, law in DISPATCH_LAWS.items() if dispatch != "hierarchical")


@pytest.mark.usefixtures("blank_pictures_here")
def test_hierarchical_dispatch_is_reported_inside_nodes_and_between_them() -> None:
    """Priced for a placement that another mode was solved for, since the report only measures."""
    routing, topology = dropping_trace(8, 3, 3, 400, seed=0, world_size=4, drop=0.1), Topology.hops(2, 2)
    statistics = RoutingStatistics.collect(routing, 4)
    placement = solve(statistics, topology, objective="copies").model_copy(update={"dispatch": "hierarchical"})
    before, placed = (evaluate_placement(statistics, topology, p) for p in (contiguous_like(placement), placement))
    numbers = summarise(placement, statistics, topology, before, placed, Context())
    text = placement_report(placement, statistics, topology, before, placed)
    Outline(text)
    assert "hierarchical dispatch with one copy a node" in text
    for name, ranks in (("before", before.expert_ranks), ("placed", placed.expert_ranks)):
        between = sum(
            len({ranks[layer][e] // 2 for e in chosen if e >= 0} - {home // 2})
            for home, layers in zip(routing.source_rank.tolist(), routing.expert_ids.tolist(), strict=True)
            for layer, chosen in enumerate(layers)
        )
        assert numbers["traffic"][name]["moves_to_another_node_per_token"] == pytest.approx(2 * between / 400)
    assert "moves, contiguous" in text
    assert "between nodes" in text


@pytest.mark.usefixtures("blank_pictures_here")
def test_a_placement_that_gains_nothing_is_called_that() -> None:
    ids = np.zeros((10, 2, 1), int)
    ids[:5] = 1
    ids[0, 1] = 0
    assert "Experts stay contiguous" in report_of(trace(ids, ids[:, 0, 0] * 0, 2, 1), 2, 1, "coherent")[0]


@pytest.mark.usefixtures("blank_pictures_here")
def test_traffic_that_stays_on_its_rank_is_called_that() -> None:
    routing = dropping_trace(4, 3, 1, 200, seed=0, world_size=4, drop=0.0)
    ids = routing.expert_ids.copy()
    ids[:, 1:] = ids[:, :1] ^ 1
    text, _ = report_of(replace(routing, expert_ids=ids), 2, 1, "coherent")
    assert "moves no token between ranks" in text


@pytest.mark.usefixtures("blank_pictures_here")
def test_copies_of_a_top_k_router_are_in_bytes_and_cost_and_moves_are_counted_not_shared() -> None:
    routing = sized(dropping_trace(8, 3, 2, 300, seed=0, world_size=4, drop=0.05))
    text, numbers = report_of(routing, 2, 2, "coherent")
    assert "the cost counts the moves of the first and the copies" in text
    traffic, statistics = numbers["traffic"]["placed"], RoutingStatistics.collect(routing, 4)
    moves = traffic["moves_per_token"]
    assert sum(moves.values()) * 300 > statistics.moves
    assert traffic["cost_per_token"] == pytest.approx(moves["same_node"] + 2 * moves["other_node"])
    assert numbers["sends_copies"]
    assert f"<dd>{moves['same_node'] + moves['other_node']:.2f}<small>moves of a token, there and back" in text
    home, numbers = report_of(routing, 2, 2, "home")
    assert not numbers["sends_copies"]
    assert "copies for the others" not in home
    replicated, numbers = report_of(routing, 2, 2, "coherent", slots=4)
    assert "others take there and back. A token takes the nearest replica" in replicated
    assert "no bound is known with replicas" in replicated


def test_a_cap_on_the_busiest_rank_is_drawn_where_loads_are() -> None:
    routing = dropping_trace(8, 2, 2, 200, seed=0, world_size=2, drop=0.0)
    text, _ = report_of(routing, 1, 2, "copies", max_load=1.1)
    assert ">cap 1.1</text>" in text


@pytest.mark.usefixtures("blank_pictures_here")
def test_bytes_and_times_follow_from_moves_sizes_and_rates() -> None:
    routing = sized(clustered(markov_trace(8, 4, 0.8, 2_000, seed=0, world_size=8), 8))
    rates = "intra=8Gbps,inter=1Gbps,latency=1us"
    text, numbers = report_of(routing, 2, 2, "home", rates, expert_parameters=1_000)
    assert "predicted by alpha-beta, not measured" in text
    for name in ("before", "placed"):
        traffic = numbers["traffic"][name]
        for link, moves in traffic["moves_per_token"].items():
            assert traffic["bytes_per_token"][link] == pytest.approx(moves * 128)
            group_tokens = 2_000 / 2 / 2  # two steps, two groups
            assert traffic["bytes_per_step"][link] == pytest.approx(2 * moves * 128 * group_tokens)
        assert sum(traffic["moves_per_token"].values()) == pytest.approx(2 * 4), "there and back in 4 layers"
        total_s = traffic["predicted_ms_per_step"] / 1e3
        evenly_s = 8 * traffic["bytes_per_step"]["other_node"] / 4 / 1e9
        assert total_s >= evenly_s + 2 * 2 * 4 * 3 * 1e-6
    moving = numbers["moving"]
    assert moving["bytes_per_parameter"] == 2 + 4 + 8
    assert moving["total_bytes"] == len(moving["arrivals"]) * 14_000
    for entry in moving["arrivals"]:
        assert entry["expert"] // 2 != entry["rank"]
    assert f"<dd>{moving['total_bytes'] / byte_unit(numbers)[1]:,.3g} {byte_unit(numbers)[0]}<" in text
    now, then = (sum(list(numbers["traffic"][name]["bytes_per_step"].values())[1:]) for name in ("before", "placed"))
    assert moving["steps_to_pay_back"] == pytest.approx(moving["total_bytes"] / (now - then))
    assert {unit for unit in ("KB", "MB", "GB") if f" {unit}" in text or f">{unit} per" in text} == {
        byte_unit(numbers)[0]
    }


@pytest.mark.usefixtures("blank_pictures_here")
def test_what_is_not_known_is_said() -> None:
    routing = markov_trace(8, 3, 0.8, 300, seed=0, world_size=4)
    assert "does not say how wide a token is" in report_of(routing, 2, 2, "coherent")[0]
    header = routing.header.model_copy(update={"hidden": 4, "element_bytes": 4})
    assert "does not say which step" in report_of(replace(routing, header=header), 2, 2, "coherent")[0]
    assert "No times: give --cost intra=" in report_of(sized(routing), 2, 2, "coherent")[0]


@pytest.mark.usefixtures("blank_pictures_here")
def test_simulated_times_are_shown_as_netsim_wrote_them(tmp_path: Path) -> None:
    golden = Path("tests/files/results.json")
    simulations = tuple(read_simulations(golden))
    runs = json.loads(golden.read_text())["runs"]
    assert [run.transport for run in simulations] == list(dict.fromkeys(run["transport"] for run in runs))
    first = [run["completion_ns"] for run in runs if run["transport"] == simulations[0].transport]
    assert simulations[0].completion_ms == pytest.approx(sum(first) / len(first) / 1e6)
    assert simulations[0].seeds == len(first)
    text, _ = report_of(markov_trace(8, 3, 0.8, 300, seed=0, world_size=4), 2, 2, "coherent", simulations=simulations)
    assert "simulated by netsim" in text
    assert f"<td>{simulations[0].source}: {simulations[0].transport}</td>" in text
    for document, problem in (
        ("{", "document: is not JSON"),
        ("[]", "format: is not flowfabric.results/1"),
        ('{"format": "flowfabric.results/1", "runs": []}', "runs: lists no runs"),
        ('{"format": "flowfabric.results/1", "runs": [{"transport": "ecmp"}]}', "runs.0: lacks transport"),
        (
            '{"format": "flowfabric.results/1", "runs": [{"transport": "ecmp", "completion_ns": NaN, "bound_ns": 1}]}',
            "runs.0: lacks transport, completion_ns or bound_ns as a time",
        ),
    ):
        (tmp_path / "results.json").write_text(document)
        with pytest.raises(ValueError, match=re.escape(f"results.json: {problem}")):
            read_simulations(tmp_path / "results.json")
    with pytest.raises(ValueError, match=r"none.json: file: cannot be read"):
        read_simulations(tmp_path / "none.json")


@pytest.mark.usefixtures("blank_pictures_here")
def test_packing_is_reported_by_the_load_that_it_evens_out() -> None:
    ids = np.minimum(np.random.default_rng(0).geometric(0.4, size=(2_000, 3, 1)) - 1, 7)
    routing = trace(ids, np.arange(2_000) % 4, 8, 4)
    text, numbers = report_of(routing, 2, 2, "home", solver="packing", slots=3)
    assert "Packing by load brings the busiest rank from" in text
    loads = numbers["load_over_mean"]
    assert max(loads["ranks_placed"]["max"]) < max(loads["ranks_before"]["max"])
    for spread in (loads["experts"], loads["ranks_before"], loads["ranks_placed"]):
        assert all(low <= high for low, high in zip(spread["p50"], spread["p90"], strict=True))
        assert all(low <= high for low, high in zip(spread["p99"], spread["max"], strict=True))
    assert "hold replicas" in text


def test_a_page_escapes_what_it_is_given() -> None:
    blocks = [
        Facts((("<name>", "1 < 2", "&"),)),
        Note("a <note>"),
        Table(("<column>", "x"), [("<cell>", "1")], caption="<caption>", half=True),
        Figure(chart([Panel([Words(0.5, 0.5, "<b>")])]), "<figure>", half=True),
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
