"""What `moe place` chooses where nothing is given: the dispatch mode of the objective, and the cap on the load."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moe.__main__ import main
from moe.command.place import parse_cap, parse_flops
from moe.place import choose_objective, quickest_cap
from moe.placement import Placement
from moe.placement.cost.evaluation import Evaluation, expert_seconds
from moe.placement.topology import Topology
from moe.report.context import Volume
from moe.routing_trace import RoutingTrace
from tests.each import each
from tests.moe.traces import dropping_trace, markov_trace

pytestmark = pytest.mark.usefixtures("blank_pictures")

SHAPE = ["--nodes", "2", "--ranks-per-node", "2"]


def named(dispatch: str | None, top_k: int = 2, world_size: int = 4) -> RoutingTrace:
    routing = dropping_trace(8, 2, top_k, 100, seed=0, world_size=world_size, drop=0.0)
    return replace(routing, header=routing.header.model_copy(update={"dispatch": dispatch}))


@each("dispatch", ["coherent", "home", "copies", "hierarchical"])
def test_the_objective_is_what_the_run_of_the_trace_sends(dispatch: str) -> None:
    assert choose_objective("auto", named(dispatch), 4)[0] == dispatch
    assert choose_objective(dispatch, named("home"), 4) == (dispatch, "")


def test_traces_that_name_no_dispatch_mode_are_priced_as_most_systems_send() -> None:
    assert choose_objective("auto", named("capped"), 4)[0] == "home"
    assert choose_objective("auto", named(None), 4)[0] == "copies"
    assert choose_objective("auto", named(None, top_k=1), 4)[0] == "home"
    mode, reason = choose_objective("auto", named(None, world_size=1), 4)
    assert mode == "coherent"
    assert "no ranks" in reason
    with pytest.raises(ValueError, match=r"objective: unknown \(speed\); choose from auto, coherent, home"):
        choose_objective("speed", named(None), 4)


def test_caps_and_rates_are_read_or_refused() -> None:
    assert (parse_cap("1.15"), parse_cap("none")) == (1.15, None)
    assert (parse_flops("200TFLOPs"), parse_flops("1.5PFLOP")) == (2e14, 1.5e15)
    with pytest.raises(ValueError, match=r"max_load: is not a number \(much\); give"):
        parse_cap("much")
    for text in ("200", "0TFLOPs", "1.2.3TFLOPs", "TFLOPs"):
        with pytest.raises(ValueError, match="compute: is not a rate above 0"):
            parse_flops(text)


def test_the_cap_is_that_of_the_least_time_of_links_and_experts() -> None:
    """Two placements: one sends twice as much, the other loads a rank twice as much."""
    topology = Topology.parse("intra=800Gbps,inter=800Gbps", 1, 2)
    ranks, links = np.zeros((1, 4), int), topology.off_rank[None, None]

    def traffic(sent: float, busiest: float) -> Evaluation:
        loads = np.array([[busiest, 40 - busiest]])
        return Evaluation(ranks, 10, np.zeros(1), 0.0, 0.0, loads, sent * links, topology.off_node)

    placements = [(None, traffic(10, 40)), (1.0, traffic(20, 20))]
    volume = Volume(token_bytes=1_000)
    link_s = 2 * 10 * 8 * 1_000 / 800e9
    even = 6 * 20 / link_s  # operations of one parameter at which both end together, in a second
    assert quickest_cap(placements, topology, volume, 1_000, 1_000 * even * 1.1) is None
    assert quickest_cap(placements, topology, volume, 1_000, 1_000 * even * 0.9) == 1.0
    assert expert_seconds(np.array([[3.0, 1.0]]), 5, 10.0).tolist() == [9.0]


def place(path: Path, out: Path, *options: str) -> Placement:
    assert main(["place", str(path), *SHAPE, *options, "--out", str(out)]) == 0
    return Placement.read(out)


def test_place_says_which_objective_and_cap_it_took(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "routing.npz"
    named("copies").write(path)
    placement = place(path, tmp_path / "auto.json")
    assert placement.dispatch == "copies"
    assert placement.load is not None
    assert placement.load.max_load == 1.1
    printed = " ".join(capsys.readouterr().out.split())
    assert "objective copies: the dispatch mode of the run that recorded the trace" in printed
    assert "cap on the busiest rank: 1.1 x mean, which is the usual one" in printed
    free = place(path, tmp_path / "free.json", "--max-load", "none", "--objective", "home")
    assert free.load is not None
    assert free.load.max_load is None
    assert "objective" not in capsys.readouterr().out.split("wrote")[0].splitlines()[-1]


def test_with_rates_the_cap_is_chosen_by_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    routing = named("copies")
    header = routing.header.model_copy(update={"hidden": 64, "element_bytes": 2})
    replace(routing, header=header).write(tmp_path / "routing.npz")
    rates = ["--cost", "intra=900Gbps,inter=100Gbps", "--expert-parameters", "1000000"]
    slow = place(tmp_path / "routing.npz", tmp_path / "slow.json", *rates, "--compute", "1GFLOPs")
    assert slow.load is not None
    assert slow.load.max_load == 1.05, "computation counts alone"
    assert "takes the least predicted time" in capsys.readouterr().out
    quick = place(tmp_path / "routing.npz", tmp_path / "quick.json", *rates, "--compute", "1000000PFLOPs")
    assert quick.load is not None
    assert quick.load.max_load is None, "traffic counts alone"


def test_caps_that_cannot_be_kept_and_rates_that_say_nothing_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    markov_trace(8, 2, 0.5, 200, seed=0, world_size=4).write(tmp_path / "routing.npz")
    for options, message in (
        (["--max-load", "1"], "--max-load: no placement is known that keeps 1 in layer"),
        (["--max-load", "0.5"], "--max-load: 0.5 is below 1"),
        (["--compute", "1TFLOPs"], "--compute: times need rates in --cost"),
    ):
        assert main(["place", str(tmp_path / "routing.npz"), *SHAPE, *options, "--out", str(tmp_path / "p.json")]) == 2
        printed = capsys.readouterr()
        assert message in printed.err
        assert printed.err.count("\n") == 1
