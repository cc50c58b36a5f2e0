"""The exact engine says which runs are not for it, and is right where it does not."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest

from netsim.congestion.flow_control import PfcConfig
from netsim.congestion.recovery import GoBackNConfig
from netsim.congestion.window import WindowConfig
from netsim.engine.exact.engine import ExactEngine
from netsim.engine.exact.layout import in_order
from netsim.engine.exact.refusal import refusal
from netsim.topology.failure import FailureConfig
from netsim.topology.graph import GraphConfig
from netsim.workload.tasks import Task
from tests.each import each
from tests.netsim.exactly import assert_equal, config
from tests.netsim.scenes import all_to_all, fabric, flow, scene

TASKS = all_to_all(4, 9000)
SCENE = scene(fabric(2, 2, 2), TASKS)


def failing(**fields: Any) -> Any:
    failures = [FailureConfig.model_validate({"link": "leaf0-spine1", "rate": 0} | fields)]
    return scene(fabric(2, 2, 2), TASKS, failures=failures)


REFUSED = {
    "congestion": SCENE._replace(congestion=WindowConfig(kind="window")),
    "recovery": SCENE._replace(recovery=GoBackNConfig(kind="go_back_n")),
    "flow_control": SCENE._replace(flow_control=PfcConfig(kind="pfc")),
    "limit": SCENE._replace(queue_bytes=100_000),
    "down": failing(at="1us"),
    "waits": scene(fabric(2, 2, 2), [flow(0, 1, 10), Task(1, 1, 0, 5, (0,)), Task(1, 2, 10, 0, (1,))]),
}


@each("word", REFUSED)
def test_a_closed_loop_is_refused(word):
    reason = refusal(REFUSED[word], config("ecmp"))
    assert reason is not None
    assert word in reason
    with pytest.raises(ValueError, match=word):
        ExactEngine(REFUSED[word], config("ecmp"), 0)


@each("transport", ["reps", "drill", "jsq", "adaptive_flow", "ideal", {"class": "mine:Mine"}])
def test_transports_that_look_at_the_network_are_refused(transport):
    assert refusal(SCENE, config(transport)) is not None


@each("times", [{}, {"until": "5us"}, {"until": "5us", "noticed_after": "never"}, {"at": "1us", "rate": "1Gbps"}])
def test_failures_that_lose_nothing_are_not_refused(times):
    for transport in ("spray_random", "flowlet"):
        assert_equal(failing(**times), transport)


@each("until, late, refused", [("5us", "1us", False), ("5us", "4us", True), ("9us", "8us", True)])
def test_a_failure_within_a_failure(until, late, refused):
    """The link is down until 9 us; what the routing believes may have a gap or be late, and is wrong then."""
    failures = [
        FailureConfig.model_validate({"link": "leaf0-spine1", "rate": 0} | times)
        for times in ({"until": until, "noticed_after": "1us"}, {"at": "4us", "until": "9us", "noticed_after": late})
    ]
    what = scene(fabric(2, 2, 2), TASKS, failures=failures)
    assert not what.rates.lossy
    if refused:
        assert "down" in str(refusal(what, config("ecmp")))
    else:
        assert_equal(what, "spray_random")


@each("seed", range(20))
def test_links_come_after_those_that_feed_them_unless_they_go_round_in_a_circle(seed):
    draw = np.random.default_rng(seed)
    rank = draw.permutation(12)
    routes = np.array([sorted(draw.choice(12, 4, replace=False), key=lambda link: rank[link]) for _ in range(8)])
    if seed % 2:
        routes[0] = routes[0][::-1]
    graph = nx.DiGraph([pair for route in routes.tolist() for pair in pairwise(route)])
    order = in_order(routes, 12)
    if not nx.is_directed_acyclic_graph(graph):
        assert order is None
        return
    assert order is not None
    place = {link: number for number, link in enumerate(order.tolist())}
    assert set(place) == set(graph)
    assert all(place[first] < place[second] for first, second in graph.edges)


def rings_of_switches(file: Path, switches: int) -> Any:
    """Hosts below switches in a ring; from five switches on its routes feed each other in a circle."""
    hosts = [{"id": f"h{n}", "kind": "host"} for n in range(switches)]
    nodes = [*hosts, *({"id": f"s{n}", "kind": "switch"} for n in range(switches))]
    cables = [(f"h{n}", f"s{n}") for n in range(switches)] + [
        (f"s{n}", f"s{(n + 1) % switches}") for n in range(switches)
    ]
    links = [{"source": a, "target": b, "rate": "100Gbps", "delay": "500ns"} for a, b in cables]
    file.write_text(json.dumps({"directed": False, "multigraph": True, "graph": {}, "nodes": nodes, "links": links}))
    return GraphConfig(kind="graph", path=str(file)).build()


@each("switches, circle", [(3, False), (5, True)])
def test_links_in_a_circle_are_refused(switches, circle, tmp_path):
    what = scene(rings_of_switches(tmp_path / "ring.json", switches), all_to_all(switches, 20_000))
    if circle:
        assert "circle" in str(refusal(what, config("ecmp")))
    else:
        assert_equal(what, "ecmp")


def test_a_ring_without_traffic_around_it_is_not_refused(tmp_path):
    """One way only: from each of three hosts to the next but one."""
    topology = rings_of_switches(tmp_path / "ring.json", 6)
    assert_equal(scene(topology, [flow(src, src + 2, 30_000) for src in range(4)]), "drb")
