"""Hosts of several adapters: rails, links of GPUs, all-to-alls along the receiver's rail, and who takes which."""

from collections import Counter
from itertools import product

import pytest

from netsim import simulate
from netsim.collective.protocol import Operation
from netsim.collective.two_level import rails_all_to_all
from netsim.engine.protocol import Engine
from netsim.foundation.refusal import Refusal
from netsim.simulation.engines import refusal, run_engine
from netsim.simulation.prepare import prepare
from netsim.simulation.scenario import read_scenario
from netsim.topology.fat_tree import FatTree, FatTreeConfig
from netsim.topology.leaf_spine import LeafSpine, LeafSpineConfig
from netsim.topology.protocol import gpu_links, network_tiers, paths
from tests.each import each
from tests.netsim.documents import collective_of, scenario_on
from tests.netsim.scenes import all_shortest
from tests.netsim.schedules import execute, schedule

pytestmark = pytest.mark.usefixtures("blank_pictures")

SERVICE_PS, DELAY_PS, GPU_DELAY_PS = 320_000, 500_000, 250_000  # 4,000 B at 100 Gbps
GPU_SERVICE_PS = 8889  # 4,000 B at 3600 Gbps, rounded up
RAILS = {"leaves": 4, "spines": 2, "hosts_per_leaf": 3, "adapters_per_host": 2, "rails": True, "ranks_per_host": 4}
HOSTS, PER_HOST = 6, 4
TREE = {
    "kind": "fat_tree",
    "pods": 2,
    "edges_per_pod": 4,
    "aggregations_per_pod": 2,
    "cores": 4,
    "hosts_per_edge": 2,
    "adapters_per_host": 2,
    "rails": True,
    "ranks_per_host": 4,
}
"""Eight hosts: two on each pair of edges, four in each pod."""
HIERARCHICAL = {"algorithms": {"all_reduce": "hierarchical"}}
OTHERS: tuple[Engine, ...] = ("exact", "event", "windowed")


def scenario(op: str = "all_to_all", size: str = "96KB", **topology: object) -> dict[str, object]:
    shape = {"kind": "leaf_spine", **RAILS, **topology}
    return scenario_on(shape, collective_of(op, size), transports=["spray_random"], engine="simpy")


def in_a_tree(op: str = "all_to_all", size: str = "128KB", **topology: object) -> dict[str, object]:
    """The same on a fat tree."""
    return scenario(op, size) | {"topology": {**TREE, **topology}}


def tree(**fields: object) -> FatTree:
    return FatTree(FatTreeConfig.model_validate({**TREE, **fields}))


def sent(document: dict[str, object]) -> dict[str, int]:
    """Bytes by name of the link."""
    results = simulate(document)
    return {link.name: size for link, size in zip(results.links, results.runs[0].links["bytes"].tolist(), strict=True)}


def test_without_rails_all_adapters_of_a_host_are_on_its_leaf():
    config = {"kind": "leaf_spine", **RAILS, "rails": False}
    topology = LeafSpine(LeafSpineConfig.model_validate(config))
    assert [topology.leaf(host) for host in range(24)] == [host // 6 for host in range(24)]


def test_adapters_of_a_fat_tree_are_on_the_edges_of_their_group():
    names = {link.name for link in tree().links}
    for host in range(8):
        for adapter in range(2):
            assert f"host{host}.{adapter}-edge{host // 2 * 2 + adapter}" in names
    together = tree(rails=False)
    assert [together.leaf(host) for host in range(32)] == [host // 4 for host in range(32)]


@each("rails", [True, False])
def test_routes_of_a_fat_tree_are_all_the_shortest_ones(rails):
    """By networkx; none joins the switch inside a machine to another, and all GPUs of a machine are on it."""
    topology = tree(rails=rails)
    between, network = all_shortest(topology), len(network_tiers(topology)[0])
    for src, dst in product(range(network), repeat=2):
        routes = topology.between(src, dst)
        assert len(routes) == len({*routes})
        assert {*routes} == between(src, dst)
    assert all(topology.between(src, network) == () for src in range(network))
    gpus = gpu_links(topology)
    assert gpus is not None
    assert [topology.tiers[0][topology.leaf(host)] for host in range(gpus.first, topology.hosts)] == [
        f"host{number // PER_HOST}.switch" for number in range(topology.hosts - gpus.first)
    ]


@each("rails", [True, False])
def test_k_counts_the_ports_that_adapters_take(rails):
    """k * k / 4 ports of a pod lead down, whether the adapters of a host share an edge or not."""
    config = FatTreeConfig.model_validate({"kind": "fat_tree", "k": 8, "adapters_per_host": 2, "rails": rails})
    topology = FatTree(config)
    assert config.machines == 8**3 // 4 // 2
    down = Counter(link.src for link in topology.links if link.dst.startswith("host") and link.src != link.dst)
    assert {count for name, count in down.items() if name.startswith("edge")} == {4}
    assert FatTreeConfig.model_validate(config.model_dump(mode="json", exclude_none=True)) == config


def test_links_of_a_fat_tree_carry_exactly_the_traffic_of_their_gpus_and_rails():
    """Each of 32 ranks sends 4 kB to each: to its 3 neighbours by its GPU's link, to 28 others by its adapter."""
    carried = sent(in_a_tree())
    for host in range(8):
        for gpu in range(PER_HOST):
            assert carried[f"host{host}.gpu{gpu}-host{host}.switch"] == 3 * 4000
        for adapter in range(2):
            name, edge = f"host{host}.{adapter}", f"edge{host // 2 * 2 + adapter}"
            assert carried[f"{name}-{edge}"] == carried[f"{edge}-{name}"] == 2 * 28 * 4000
    up: Counter[str] = Counter()
    for name, size in carried.items():
        lower, _, upper = name.partition("-")
        if lower.startswith(("edge", "aggregation")) and upper.startswith(("aggregation", "core")):
            up[lower if lower.startswith("edge") else "to cores"] += size
    # of an edge's four ranks each sends to all but the four on its host and the two of its rail on the other one
    assert up == {f"edge{edge}": 4 * (32 - 4 - 2) * 4000 for edge in range(8)} | {"to cores": 2 * 16 * 16 * 4000}


@each(
    "ranks, links",
    [
        ([0, 4], 2),  # one rail of a group of edges
        ([0, 6], 4),  # another rail of the group
        ([0, 8], 4),  # another group of the pod
        ([0, 16], 6),  # another pod
    ],
)
def test_a_packet_takes_the_links_of_a_fat_tree_between_its_ranks(ranks, links):
    document = in_a_tree()
    del document["workload"]
    job = {"workload": collective_of("send", "4KB"), "ranks": ranks}
    run = simulate({**document, "jobs": [job]}).runs[0]
    assert run.completion_ps == run.bound_ps == links * (SERVICE_PS + DELAY_PS)


def test_links_carry_exactly_the_traffic_of_their_gpus_and_rails():
    """Each of 24 ranks sends 4 kB to each: to its 3 neighbours by its GPU's link, to 20 others by its adapter."""
    carried = sent(scenario())
    for host in range(HOSTS):
        for gpu in range(PER_HOST):
            assert carried[f"host{host}.gpu{gpu}-host{host}.switch"] == 3 * 4000
            assert carried[f"host{host}.switch-host{host}.gpu{gpu}"] == 3 * 4000
        for adapter in range(2):
            name = f"host{host}.{adapter}"
            leaf = f"leaf{host // 3 * 2 + adapter}"
            assert carried[f"{name}-{leaf}"] == carried[f"{leaf}-{name}"] == 2 * 20 * 4000
    crossing: Counter[str] = Counter()
    for name, size in carried.items():
        if name.startswith("leaf") and "-spine" in name:
            crossing[name.partition("-")[0]] += size
    # of a leaf's six ranks each sends to all but the four ranks on its own host and the four of its rail on the others
    assert crossing == {f"leaf{leaf}": 6 * (24 - 4 - 4) * 4000 for leaf in range(4)}
    assert all(size == 0 for name, size in carried.items() if name.endswith("inside"))


def test_rings_between_ranks_of_one_rail_stay_below_their_leaf():
    """An all-reduce among the first ranks of the hosts of a pod crosses no spine and no other rail."""
    job = {"workload": collective_of("all_reduce", "12KB"), "ranks": [0, 4, 8]}
    document = scenario()
    del document["workload"]
    carried = sent({**document, "jobs": [job]})
    used = {name for name, size in carried.items() if size}
    assert used == {f"host{host}.0-leaf0" for host in range(3)} | {f"leaf0-host{host}.0" for host in range(3)}


@each(
    "ranks, expected_ps",
    [
        ([0, 1], 2 * (GPU_SERVICE_PS + GPU_DELAY_PS)),  # one host
        ([0, 4], 2 * (SERVICE_PS + DELAY_PS)),  # one rail of a pod
        ([0, 6], 4 * (SERVICE_PS + DELAY_PS)),  # another rail of the pod
        ([0, 12], 4 * (SERVICE_PS + DELAY_PS)),  # another pod
    ],
)
def test_a_packet_takes_the_links_between_its_ranks(ranks, expected_ps):
    document = scenario()
    del document["workload"]
    job = {"workload": collective_of("send", "4KB"), "ranks": ranks}
    results = simulate({**document, "jobs": [job]})
    assert results.runs[0].completion_ps == expected_ps
    assert [results.runs[0].flows[side].tolist() for side in ("src", "dst")] == [[ranks[0]], [ranks[1]]]


def test_gpus_share_an_adapter_evenly_and_hosts_may_have_one():
    """Four GPUs behind one adapter: four packets leave it one after the other; inside the host nothing waits."""
    shape = {"leaves": 1, "hosts_per_leaf": 2, "adapters_per_host": 1, "rails": False, "gpu_link_rate": "3600Gbps"}
    document = scenario(**shape)
    del document["workload"]
    sends = [collective_of("send", "4KB")] * 4
    away = [{"workload": one, "ranks": [rank, 4 + rank]} for rank, one in enumerate(sends)]
    near = [{"workload": one, "ranks": [rank, (rank + 1) % 4]} for rank, one in enumerate(sends)]
    assert simulate({**document, "jobs": away}).runs[0].completion_ps == 5 * SERVICE_PS + 2 * DELAY_PS
    assert simulate({**document, "jobs": near}).runs[0].completion_ps == 2 * (GPU_SERVICE_PS + GPU_DELAY_PS)


@each("order", [None, [*reversed(range(24))]])
def test_no_run_is_faster_than_the_bound(order):
    document = scenario("all_reduce", "48KB") | ({} if order is None else {"rank_order": order})
    for name in ("ring", "hierarchical", "double_tree"):
        run = simulate({**document, "algorithms": {"all_reduce": name}}).runs[0]
        assert run.completion_ps >= run.bound_ps > 0


def test_a_hierarchical_all_reduce_crosses_hosts_on_the_rail_of_each_rank():
    document = scenario("all_reduce", "96KB", leaves=2)
    carried = sent({**document, **HIERARCHICAL})
    assert not any(size for name, size in carried.items() if "spine" in name)


def test_the_paths_of_a_fabric_join_no_switch_inside_a_machine_to_another():
    prepared = prepare(read_scenario(scenario()), "scenario")
    topology = prepared.scene.topology
    gpus = gpu_links(topology)
    assert gpus is not None
    first, second = gpus.first, gpus.first + PER_HOST
    assert paths(topology, first, first + 1)
    assert paths(topology, first, second) == ()


@pytest.mark.slow
@pytest.mark.parametrize("op", ["all_to_all", "all_reduce"])
@pytest.mark.parametrize("listens", [False, True])
@pytest.mark.parametrize("on", [scenario, in_a_tree])
def test_all_engines_agree_on_rails_and_links_of_gpus(on, op, listens):
    document = on(op, "48KB", queue="20KB" if listens else "unlimited") | {"transports": ["ecmp", "drb"]}
    if listens:
        document |= {"congestion": {"kind": "dctcp"}, "recovery": {"kind": "selective", "timeout": "100us"}}
    config = read_scenario(document)
    prepared = prepare(config, "scenario")
    for transport in config.transports:
        reference, _ = run_engine("simpy", prepared.scene, transport, 3, prepared.most_paths)
        for engine in OTHERS:
            if refusal(engine, prepared.scene, transport, prepared.most_paths) is None:
                found, _ = run_engine(engine, prepared.scene, transport, 3, prepared.most_paths)
                assert found.equals(reference), (transport.name, engine)


PXN = {"algorithms": {"all_to_all": "pxn"}}
BLOCK = 4000


def across(carried: dict[str, int]) -> Counter[str]:
    """Bytes from each leaf to the spines."""
    crossing: Counter[str] = Counter()
    for name, size in carried.items():
        if name.startswith("leaf") and "-spine" in name:
            crossing[name.partition("-")[0]] += size
    return crossing


def test_links_carry_what_the_closed_forms_say():
    """24 ranks on 6 hosts in two pods, two on each of two rails of a host, 4 kB for each other rank."""
    carried = sent(scenario() | PXN)
    for host in range(HOSTS):
        gpus = [f"host{host}.gpu{gpu}" for gpu in range(PER_HOST)]
        up = [carried[f"{gpu}-host{host}.switch"] for gpu in gpus]
        down = [carried[f"host{host}.switch-{gpu}"] for gpu in gpus]
        assert up == [(3 + 10) * BLOCK] * 4  # three neighbours, and the ten ranks of other hosts on the other rail
        assert sum(down) == sum(up)
        for adapter in range(2):
            leaf = f"leaf{host // 3 * 2 + adapter}"
            assert carried[f"host{host}.{adapter}-{leaf}"] == 4 * 10 * BLOCK  # of four ranks for ten on the rail
            assert carried[f"{leaf}-host{host}.{adapter}"] == 2 * 20 * BLOCK
    assert across(carried) == {f"leaf{leaf}": 12 * 6 * BLOCK for leaf in range(4)}  # to the six on the rail of a pod
    assert sum(across(sent(scenario())).values()) == 4 * 6 * 16 * BLOCK


def test_in_one_pod_nothing_crosses_a_spine():
    assert sum(across(sent(scenario(leaves=2))).values()) > 0
    assert sum(across(sent(scenario(leaves=2) | PXN)).values()) == 0


@each("engine", ["exact", "event", "simpy", "windowed"])
def test_engines_agree_on_all_to_alls_by_pxn(engine):
    what = scenario("all_to_all", "48KB") | PXN
    if engine == "exact":
        with pytest.raises(Refusal):
            simulate(what | {"engine": engine})
        return
    (run,) = simulate(what | {"engine": engine}).runs
    (same,) = simulate(what).runs
    assert run.completion_ps == same.completion_ps >= run.bound_ps > 0


def test_a_host_without_a_rank_on_the_rail_sends_directly():
    """Four ranks: two of host 0, on rails 0 and 1, and two of host 1, both on rail 1."""
    size, hosts, rails = 4, (0, 0, 1, 1), (0, 1, 1, 1)
    matrix = tuple(tuple(10 * i + j for j in range(size)) for i in range(size))
    messages = schedule("all_to_all", "pxn", size, matrix=matrix, hosts=hosts, rails=rails)
    moved = Counter({(one.src, one.dst): 0 for one in messages})
    for one in messages:
        moved[one.src, one.dst] += one.bytes
    assert moved == {
        (0, 1): matrix[0][1] + matrix[0][2] + matrix[0][3],  # its own block, and what rank 1 sends on along rail 1
        (1, 2): matrix[1][2] + matrix[0][2],
        (1, 3): matrix[1][3] + matrix[0][3],
        (1, 0): matrix[1][0],
        (2, 0): matrix[2][0],  # nobody of host 1 is on rail 0
        (3, 0): matrix[3][0],
        (2, 1): matrix[2][1],
        (3, 1): matrix[3][1],
        (2, 3): matrix[2][3],
        (3, 2): matrix[3][2],
    }
    held = execute(messages, {(i, j): frozenset((i,)) for i in range(size) for j in range(size)}).held
    assert all(held[rank, rank] == frozenset(range(size)) for rank in range(size))


def test_without_hosts_it_is_direct():
    messages = rails_all_to_all(Operation("all_to_all", 3, matrix=((1, 2, 3),) * 3))
    assert sorted((one.src, one.dst, one.bytes) for one in messages) == [
        (i, j, j + 1) for i in range(3) for j in range(3) if i != j
    ]


def test_hosts_of_one_adapter_have_no_rails():
    with pytest.raises(Refusal) as told:
        simulate(scenario(adapters_per_host=1, rails=False, ranks_per_host=4) | PXN)
    assert "algorithms.all_to_all: pxn goes through the GPUs of a host" in str(told.value)
    assert "set topology.adapters_per_host, or write direct" in str(told.value)
