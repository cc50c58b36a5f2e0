"""Dragonflies and tori, and the transports that take detours on them, against closed forms."""

from itertools import pairwise
from math import ceil, prod
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from netsim.engine.protocol import Outcome, Scene
from netsim.engine.reference.engine import ReferenceEngine
from netsim.foundation.units import service_ps
from netsim.simulation.compare import simulate
from netsim.simulation.engines import seen_by
from netsim.topology.cabled import DetouredFabric
from netsim.topology.dragonfly import Dragonfly, DragonflyConfig
from netsim.topology.torus import Torus, TorusConfig
from netsim.transport.build import build_transport
from netsim.transport.config import TransportConfig, UgalConfig
from tests.each import each
from tests.netsim.documents import collective_of, scenario_on
from tests.netsim.scenes import all_to_all, flow, scene

PACKET, RATE, DELAY = 4000, 100 * 10**9, 500_000
SERVICE = service_ps(PACKET, RATE)


def dragonfly(switches: int, hosts: int, links: int, **more: object) -> Dragonfly:
    shape = {"kind": "dragonfly", "switches_per_group": switches, "hosts_per_switch": hosts, "global_links": links}
    return Dragonfly(DragonflyConfig.model_validate(shape | more))


def torus(*dims: int, **more: object) -> Torus:
    return Torus(TorusConfig.model_validate({"kind": "torus", "dims": dims} | more))


FABRICS = {
    "balanced": dragonfly(4, 2, 2),
    "smallest": dragonfly(2, 1, 1),
    "few groups": dragonfly(4, 1, 2, groups=3),
    "two groups": dragonfly(2, 1, 2, groups=2),
    "ports left over": dragonfly(3, 1, 2, groups=5),
    "ring": torus(5),
    "square": torus(4, 4, hosts_per_switch=2),
    "brick": torus(2, 3, 4),
}


def switch_of(fabric: DetouredFabric) -> dict[str, int]:
    return {name: number for number, name in enumerate(fabric.tiers[0])}


@each("name", FABRICS)
def test_routes_lead_from_end_to_end_and_links_are_cabled_both_ways(name):
    fabric = FABRICS[name]
    numbers, links = switch_of(fabric), fabric.links
    assert len({link.name for link in links}) == len(links)
    for index, link in enumerate(links):
        back = links[fabric.reverse(index)]
        assert (back.src, back.dst) == (link.dst, link.src)
    whole = fabric.with_detours
    for src in range(len(numbers)):
        for dst in range(len(numbers)):
            routes = whole.between(src, dst)
            assert routes[: whole.minimal(src, dst)] == fabric.between(src, dst)
            assert src != dst or routes == ((),)
            for route in routes if src != dst else ():
                assert (numbers[links[route[0]].src], numbers[links[route[-1]].dst]) == (src, dst)
                assert all(links[one].dst == links[other].src for one, other in pairwise(route))


def test_a_balanced_dragonfly_has_the_shape_of_the_paper():
    """a = 2p = 2h: a h + 1 groups, one link between each two, minimal routes of at most three links, one global."""
    for half in (1, 2):
        fabric = dragonfly(2 * half, half, half)
        size, groups = 2 * half, 2 * half * half + 1
        assert fabric.hosts == groups * size * half
        group = {name: number // size for name, number in switch_of(fabric).items()}
        crossing = [(group[a.src], group[a.dst]) for a in fabric.links if a.src in group and a.dst in group]
        between = sorted(ends for ends in crossing if ends[0] != ends[1])
        assert between == sorted((one, other) for one in range(groups) for other in range(groups) if one != other)
        out = [link.src for link in fabric.links if group.get(link.src) != group.get(link.dst, group.get(link.src))]
        assert {out.count(switch) for switch in group} == {half}
        switches = range(len(group))
        lengths = [len(route) for src in switches for dst in switches for route in fabric.between(src, dst)]
        assert max(lengths) == 3
        assert {len(fabric.between(src, dst)) for src in switches for dst in switches} == {1}
        whole = fabric.with_detours
        for dst in range(size, len(group)):
            detours = whole.between(0, dst)[1:]
            assert len(detours) == groups - 2
            ends = [[group[fabric.links[link].dst] for link in route] for route in detours]
            assert sorted({*visited} - {0, dst // size} for visited in ends) == [
                {via} for via in range(1, groups) if via != dst // size
            ]


def test_fewer_groups_share_the_links_evenly():
    fabric = FABRICS["few groups"]
    assert {len(fabric.between(src, dst)) for src in range(4) for dst in range(4, 12)} == {4}
    assert fabric.cables - fabric.hosts == 3 * 6 + 3 * 4


@each("dims", [(4, 4), (5, 3), (2, 2, 2), (2, 3, 4), (6,)])
def test_a_torus_has_its_diameter_and_its_bisection(dims):
    """Diameter: half of each dimension; cutting an even dimension in two cuts two cables a row, one if it is of two."""
    fabric = torus(*dims)
    switches, numbers = range(prod(dims)), switch_of(fabric)
    lengths = [[{len(route) for route in fabric.between(src, dst)} for dst in switches] for src in switches]
    assert all(len(of_pair) == 1 for of_one in lengths for of_pair in of_one)
    assert max(max(of_pair) for of_one in lengths for of_pair in of_one) == sum(size // 2 for size in dims)
    cables = fabric.links[fabric.hosts : fabric.cables]
    assert len(cables) == sum(prod(dims) if size > 2 else prod(dims) // 2 for size in dims)
    half = prod(dims) // 2
    if dims[0] % 2 == 0:
        crossing = sum((numbers[link.src] < half) != (numbers[link.dst] < half) for link in cables)
        assert crossing == prod(dims) // dims[0] * (2 if dims[0] > 2 else 1)


def test_minimal_routes_of_a_torus_take_the_dimensions_in_any_order_and_both_ways_round():
    fabric = torus(4, 5, 3)
    assert len(fabric.between(0, 15 + 3 + 1)) == 6  # one step in each dimension
    assert len(fabric.between(0, 2 * 15)) == 2  # halfway round
    assert len(fabric.between(0, 2 * 15 + 1)) == 4
    assert len(torus(4, 5, 3, max_paths=2).between(0, 15 + 3 + 1)) == 2


def run(what: Scene, transport: TransportConfig, seed: int = 0) -> Outcome:
    seen = seen_by(what, transport)
    return ReferenceEngine(seen, build_transport(transport, seed, what.most_paths), seed).run()


def plain(kind: str) -> TransportConfig:
    return TypeAdapter(TransportConfig).validate_python(kind)


def shifted(fabric: DetouredFabric, hosts_per_group: int, packets: int) -> Scene:
    """All hosts of a group send to the next group."""
    hosts = fabric.hosts
    return scene(fabric, [flow(h, (h + hosts_per_group) % hosts, packets * PACKET) for h in range(hosts)])


def test_the_adversarial_pattern_of_a_dragonfly_gets_one_link_minimally_and_half_the_rate_by_detours():
    """Group i sends to group i + 1. Minimal: all a p = 8 hosts share one link.

    Valiant: each of 7 other groups gets 8/7 of a host's traffic over one link and passes it on over another, which also
    has 8/7 of its own group's. With 16/7 of a host's traffic on a link a host gets 7/16 of its rate at most, and less
    in short messages, whose draws are uneven.
    """
    fabric, packets = dragonfly(4, 2, 2), 30
    what = shifted(fabric, 8, packets)
    alone = packets * SERVICE
    minimal = run(what, plain("spray_random")).completion_ps
    assert 8 * alone <= minimal <= 8 * alone + 6 * SERVICE + 5 * DELAY
    valiant = run(what, plain("valiant")).completion_ps
    assert 16 / 7 * alone < valiant < 1.6 * 16 / 7 * alone
    adaptive = run(what, plain("ugal")).completion_ps
    assert 1.5 * alone < adaptive < 5 * alone


def test_ugal_stays_minimal_where_minimal_is_enough():
    """Neighbours inside groups: a detour would double the load, and queues never make it worth while."""
    fabric, packets = dragonfly(4, 1, 2), 40
    tasks = [flow(4 * group, 4 * group + 1, packets * PACKET) for group in range(9)]
    what = scene(fabric, tasks)
    outcome = run(what, plain("ugal"))
    assert outcome.completion_ps == (packets + 2) * SERVICE + 3 * DELAY
    assert outcome.packet_hops == 9 * packets * 3
    assert run(what, plain("valiant")).packet_hops == 9 * packets * 4


def test_a_bias_keeps_ugal_minimal():
    what = shifted(dragonfly(4, 2, 2), 8, 8)
    biased = run(what, UgalConfig.model_validate({"kind": "ugal", "bias": "1s"}))
    assert biased.completion_ps == run(what, plain("spray_random")).completion_ps


def test_detours_help_a_torus_against_its_tornado():
    """Ring of 8, each host to the third on: minimal loads one direction three times, detours both."""
    fabric, packets = torus(8), 30
    what = scene(fabric, [flow(h, (h + 3) % 8, packets * PACKET) for h in range(8)])
    minimal = run(what, plain("spray_random")).completion_ps
    assert minimal >= 3 * packets * SERVICE
    assert run(what, plain("ugal")).completion_ps < minimal


def test_every_byte_arrives_on_every_route():
    for fabric in (dragonfly(2, 1, 1), torus(2, 3)):
        what = scene(fabric, all_to_all(fabric.hosts, 10_000))
        for kind in ("valiant", "ugal"):
            outcome = run(what, plain(kind), seed=5)
            assert outcome.flows["bytes"].sum() == fabric.hosts * (fabric.hosts - 1) * 10_000
            assert outcome.packets == fabric.hosts * (fabric.hosts - 1) * ceil(10_000 / PACKET)


def scenario(topology: dict[str, Any], **more: object) -> dict[str, object]:
    return scenario_on(topology, collective_of("all_to_all", "6KB"), transports=["ecmp", "valiant"]) | more


SMALL: dict[str, Any] = {"kind": "dragonfly", "switches_per_group": 2, "hosts_per_switch": 1, "global_links": 1}


def test_transports_with_and_without_detours_share_a_scenario():
    results = simulate(scenario(SMALL, engine="simpy"))
    hops = {run.transport: run.packet_hops for run in results.runs}
    assert hops["ecmp"] < hops["valiant"]


def test_detours_go_round_what_is_down():
    broken = SMALL | {"failures": [{"link": "group0switch0-group1switch1"}]}
    results = simulate(scenario(broken, transports=["ugal", "valiant"], engine="simpy"))
    assert all(run.completion_ps for run in results.runs)


def test_configs_are_frozen_and_complete():
    with pytest.raises(ValidationError):
        TorusConfig.model_validate({"kind": "torus", "dims": [3], "max_paths": 0})
