"""Fabrics: the contract of all kinds, and their paths against networkx."""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
from pydantic import ValidationError

from netsim.topology.fat_tree import FatTree, FatTreeConfig
from netsim.topology.graph import Graph, GraphConfig
from netsim.topology.leaf_spine import LeafSpine, LeafSpineConfig
from netsim.topology.protocol import Topology, paths
from tests.each import each
from tests.netsim.scenes import all_shortest

SMALL = Path("tests/files/fabric.json")
DRAGONFLY = Path("configs/topologies/dragonfly.json")
UNEVEN = {"pods": 3, "edges_per_pod": 2, "aggregations_per_pod": 4, "cores": 8, "hosts_per_edge": 3}


def leaf_spine(leaves: int, spines: int, hosts_per_leaf: int, **fields: Any) -> LeafSpine:
    shape = {"kind": "leaf_spine", "leaves": leaves, "spines": spines, "hosts_per_leaf": hosts_per_leaf}
    return LeafSpine(LeafSpineConfig.model_validate(shape | fields))


def fat_tree(**fields: Any) -> FatTree:
    return FatTree(FatTreeConfig.model_validate({"kind": "fat_tree", **fields}))


def graph(path: Path, **fields: Any) -> Graph:
    return Graph(GraphConfig.model_validate({"kind": "graph", "path": str(path), **fields}))


SINGLE: dict[str, Topology] = {
    "leaf-spine": leaf_spine(3, 4, 2, ranks_per_host=2),
    "leaf-spine of two rates": leaf_spine(2, 2, 3, fabric_rate=["100Gbps", "400Gbps"]),
    "one leaf": leaf_spine(1, 2, 4),
    "fat tree": fat_tree(k=4),
    "smallest fat tree": fat_tree(k=2),
    "uneven fat tree": fat_tree(**UNEVEN),
    "one pod": fat_tree(**UNEVEN | {"pods": 1}),
    "file": graph(SMALL),
    "dragonfly": graph(DRAGONFLY),
}
PARALLEL: dict[str, Topology] = {
    "parallel leaf-spine": leaf_spine(3, 2, 2, parallel=3),
    "parallel fat tree": fat_tree(**UNEVEN, edge_parallel=2, core_parallel=3),
}
FABRICS = SINGLE | PARALLEL


def pairs_of_leaves(topology: Topology) -> Iterator[tuple[int, int]]:
    leaves = {topology.leaf(host) for host in range(topology.hosts)}
    return ((src, dst) for src in sorted(leaves) for dst in sorted(leaves))


def names(topology: Topology, route: tuple[int, ...]) -> list[str]:
    return [topology.links[link].name for link in route]


@pytest.fixture(params=FABRICS, ids=str)
def topology(request: pytest.FixtureRequest) -> Topology:
    return FABRICS[request.param]


def test_links_have_names_of_their_own(topology: Topology):
    assert len({link.name for link in topology.links}) == len(topology.links)


def test_every_switch_is_in_one_tier(topology: Topology):
    switches = [switch for tier in topology.tiers for switch in tier]
    ends = {end for link in topology.links for end in (link.src, link.dst)}
    assert sorted(switches) == sorted(ends - {f"host{host}" for host in range(topology.hosts)})


def test_the_reverse_of_a_link_is_the_other_direction_of_its_cable(topology: Topology):
    for index, link in enumerate(topology.links):
        back = topology.links[topology.reverse(index)]
        assert topology.reverse(topology.reverse(index)) == index
        assert (back.src, back.dst, back.rate_bps, back.delay_ps) == (link.dst, link.src, link.rate_bps, link.delay_ps)
        assert (topology.reverse(index) == index) == (link.src == link.dst)


def test_a_host_has_one_cable_to_its_leaf_and_one_link_inside(topology: Topology):
    ends = Counter(end for link in topology.links for end in (link.src, link.dst))
    for host in range(topology.hosts):
        up, down, inside = (topology.links[at(host)] for at in (topology.up, topology.down, topology.inside))
        name, leaf = f"host{host}", topology.tiers[0][topology.leaf(host)]
        assert [(up.src, up.dst), (down.src, down.dst), (inside.src, inside.dst)] == [
            (name, leaf),
            (leaf, name),
            (name, name),
        ]
        assert inside.delay_ps == 0
        assert ends[name] == 4


def test_routes_are_chains_of_links_of_one_length_from_leaf_to_leaf(topology: Topology):
    for src, dst in pairs_of_leaves(topology):
        routes = topology.between(src, dst)
        assert routes
        assert len(set(routes)) == len(routes)
        assert {len(route) for route in routes} == {len(routes[0])}
        for route in routes:
            links = [topology.links[link] for link in route]
            stops = [topology.tiers[0][src], *(link.dst for link in links)]
            assert [link.src for link in links] == stops[:-1]
            assert stops[-1] == topology.tiers[0][dst]
            assert len(set(stops)) == len(stops)


def test_paths_lead_from_host_to_host(topology: Topology):
    for src, dst in product(range(topology.hosts), repeat=2):
        for path in paths(topology, src, dst):
            links = [topology.links[link] for link in path]
            assert (links[0].src, links[-1].dst) == (f"host{src}", f"host{dst}")
            assert all(link.dst == following.src for link, following in pairwise(links))


@each("name", SINGLE)
def test_routes_are_all_shortest_ones(name: str):
    topology = SINGLE[name]
    reference = all_shortest(topology)
    for src, dst in pairs_of_leaves(topology):
        assert set(topology.between(src, dst)) == reference(src, dst)


@each("name", PARALLEL)
def test_routes_over_parallel_cables_are_shortest_and_use_them_equally(name: str):
    topology = PARALLEL[name]
    reference = all_shortest(topology)
    for src, dst in pairs_of_leaves(topology):
        routes = topology.between(src, dst)
        assert set(routes) <= reference(src, dst)
        for place, all_there in enumerate(map(set, zip(*reference(src, dst), strict=True))):
            used = Counter(route[place] for route in routes)
            assert set(used) == all_there
            assert len(set(used.values())) == 1


@each("k", [2, 4, 6])
def test_a_fat_tree_has_the_numbers_of_its_k(k: int):
    half = k // 2
    topology = fat_tree(k=k)
    assert [len(tier) for tier in topology.tiers] == [k * half, k * half, half * half]
    assert topology.hosts == k**3 // 4
    assert len(topology.links) == 2 * 3 * k**3 // 4 + topology.hosts
    for src, dst in pairs_of_leaves(topology):
        routes = topology.between(src, dst)
        same_pod = src // half == dst // half
        assert len(routes) == (1 if src == dst else half if same_pod else half**2)
        assert len(routes[0]) == (0 if src == dst else 2 if same_pod else 4)
        assert list(routes) == sorted(routes)


def test_routes_of_a_parallel_fat_tree_by_closed_form():
    topology = PARALLEL["parallel fat tree"]
    assert len(topology.between(0, 1)) == 4 * 2
    assert len(topology.between(0, 2)) == 8 * 3 * 2
    assert list(topology.between(0, 2)) == sorted(topology.between(0, 2))


def test_the_fabric_of_512_hosts_with_32_32_and_16_switches():
    rates = {"host_rate": "100Gbps", "edge_rate": "400Gbps", "core_rate": "800Gbps"}
    topology = fat_tree(k=8, hosts_per_edge=16, **rates)
    assert topology.hosts == 512
    assert [len(tier) for tier in topology.tiers] == [32, 32, 16]
    of_pair = {(link.src[:4], link.dst[:4]): link.rate_bps for link in topology.links if link.src != link.dst}
    gbps = 10**9
    assert {frozenset(pair): rate for pair, rate in of_pair.items()} == {
        frozenset(("host", "edge")): 100 * gbps,
        frozenset(("edge", "aggr")): 400 * gbps,
        frozenset(("aggr", "core")): 800 * gbps,
    }


def test_k_is_short_for_counts():
    short = FatTreeConfig.model_validate({"kind": "fat_tree", "k": 4})
    counts = {"pods": 4, "edges_per_pod": 2, "aggregations_per_pod": 2, "cores": 4, "hosts_per_edge": 2}
    long = FatTreeConfig.model_validate({"kind": "fat_tree", **counts})
    assert FatTree(short).links == FatTree(long).links
    assert FatTreeConfig.model_validate(short.model_dump(mode="json", exclude_none=True)) == short


@each(
    "fields, message",
    [
        ({}, "lacks pods, edges_per_pod, aggregations_per_pod, cores, hosts_per_edge; add"),
        ({"pods": 2, "cores": 2}, "lacks edges_per_pod, aggregations_per_pod, hosts_per_edge; add"),
        ({"k": 5}, "multiple of 2"),
        ({"k": 0}, "greater than or equal to 2"),
        ({"k": "8"}, "valid integer"),
        ({"k": 4, "pods": 3}, "k = 4 makes pods 4, not 3; give one of the two"),
        ({"k": 4, "cores": 8}, "k = 4 makes cores 4, not 8; give one of the two"),
        (UNEVEN | {"cores": 6}, "6 cores do not spread over 4 aggregations; give a multiple of 4"),
        (UNEVEN | {"pods": 0}, "greater than 0"),
        ({"k": 4, "core_rate": "0bps"}, "greater than 0"),
        ({"k": 4, "spines": 2}, "not permitted"),
    ],
)
def test_fat_trees_that_cannot_be(fields: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        fat_tree(**fields)


def written_by_networkx(topology: Topology, folder: Path, cables: str = "links") -> Path:
    """The fabric in a file as networkx writes it, hosts under names of their own."""
    multigraph = nx.MultiGraph()
    name = {f"host{host}": f"node-{host}" for host in range(topology.hosts)}
    multigraph.add_nodes_from((node, {"kind": "host"}) for node in name.values())
    multigraph.add_nodes_from((switch, {"kind": "switch"}) for tier in topology.tiers for switch in tier)
    for index, link in enumerate(topology.links):
        if index < topology.reverse(index):
            attributes = {"rate": f"{link.rate_bps}bps", "delay": f"{link.delay_ps}ps"}
            multigraph.add_edge(name.get(link.src, link.src), name.get(link.dst, link.dst), **attributes)
    path = folder / "fabric.json"
    content = nx.node_link_data(multigraph, edges=cables)
    path.write_text(json.dumps(content))
    return path


@each("cables", ["links", "edges"])
@each("name", ["leaf-spine", "leaf-spine of two rates", "fat tree", "uneven fat tree"])
def test_a_fabric_in_a_file_is_the_same_fabric(name: str, cables: str, tmp_path: Path):
    built = SINGLE[name]
    read = graph(written_by_networkx(built, tmp_path, cables))
    assert read.hosts == built.hosts
    assert read.tiers == built.tiers
    assert sorted(link[0:] for link in read.links) == sorted(link[0:] for link in built.links)
    for src, dst in product(range(built.hosts), repeat=2):
        assert [names(read, path) for path in paths(read, src, dst)] == [
            names(built, path) for path in paths(built, src, dst)
        ]


def test_parallel_cables_are_different_routes():
    topology = graph(SMALL)
    assert [names(topology, route) for route in topology.between(0, 1)] == [
        ["leaf-1-spine-1.0", "spine-1-leaf-2.0"],
        ["leaf-1-spine-1.0", "spine-1-leaf-2.1"],
        ["leaf-1-spine-1.1", "spine-1-leaf-2.0"],
        ["leaf-1-spine-1.1", "spine-1-leaf-2.1"],
        ["leaf-1-spine-2", "spine-2-leaf-2"],
    ]


def test_a_selection_of_routes_is_spread_over_the_cables(tmp_path: Path):
    """Uncut, 4 routes of 16 go through each of 4 aggregations, and one through each of 16 cores."""
    file = written_by_networkx(fat_tree(k=8), tmp_path)
    everything = graph(file)
    for max_paths in (1, 3, 7):
        topology, cores = graph(file, max_paths=max_paths), Counter[str]()
        for src, dst in pairs_of_leaves(topology):
            routes, uncut = topology.between(src, dst), everything.between(src, dst)
            assert len(routes) == min(max_paths, len(uncut))
            assert [route for route in uncut if route in routes] == list(routes)
            if len(uncut) == 16:
                first = Counter(route[0] for route in routes)
                assert all(max_paths // 4 <= first[route[0]] <= -(-max_paths // 4) for route in uncut)
                cores.update(topology.links[route[1]].dst for route in routes)
        mean = cores.total() / 16
        assert all(0.8 * mean < cores[core] < 1.2 * mean for core in topology.tiers[2])


@each("seed", range(5))
def test_routes_in_random_graphs(seed: int, tmp_path: Path):
    """Switches at random, a host on each of the first five, some cables parallel."""
    random = nx.gnm_random_graph(12, 26, seed=seed)
    nx.add_path(random, range(12))
    nodes: list[dict[str, Any]] = [{"id": f"h{n}", "kind": "host"} for n in range(5)]
    nodes += [{"id": n, "kind": "switch", "tier": 0} for n in random]
    cable = {"rate": "1Gbps", "delay": "1ns"}
    links: list[dict[str, Any]] = [{"source": f"h{n}", "target": n, **cable} for n in range(5)]
    links += [{"source": a, "target": b, "count": 1 + (a + b) % 2, **cable} for a, b in random.edges]
    path = tmp_path / "fabric.json"
    path.write_text(json.dumps({"nodes": nodes, "links": links}))
    whole, cut = graph(path, max_paths=10**6), graph(path, max_paths=3)
    reference = all_shortest(whole)
    for src, dst in pairs_of_leaves(whole):
        assert set(whole.between(src, dst)) == reference(src, dst)
        assert len(set(cut.between(src, dst))) == len(cut.between(src, dst)) == min(3, len(reference(src, dst)))
        assert set(cut.between(src, dst)) <= reference(src, dst)


def test_the_order_of_hosts_is_that_of_the_file():
    content = json.loads(SMALL.read_text())
    topology = graph(SMALL)
    switch = {entry["source"]: entry["target"] for entry in content["links"][:4]}
    hosts = [node["id"] for node in content["nodes"] if node["kind"] == "host"]
    assert [topology.tiers[0][topology.leaf(host)] for host in range(4)] == [switch[host] for host in hosts]


def test_the_dragonfly_of_the_project():
    """Minimal routes of a dragonfly are at most three links long; two cables join each two groups."""
    topology = graph(DRAGONFLY)
    group = [switch.partition("router")[0] for switch in topology.tiers[0]]
    joined = Counter((link.src.partition("router")[0], link.dst.partition("router")[0]) for link in topology.links)
    for src, dst in pairs_of_leaves(topology):
        assert len(topology.between(src, dst)[0]) <= 3
        assert group[src] == group[dst] or joined[group[src], group[dst]] == 2
