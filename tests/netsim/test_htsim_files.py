"""htsim's connection matrices and topologies: what they become, and what is refused."""

import re
from contextlib import suppress
from pathlib import Path

import networkx as nx
import pytest

from netsim.foundation.refusal import Refusal
from netsim.topology.htsim import read_topology, replaced, section
from netsim.topology.leaf_spine import LeafSpineConfig
from netsim.workload.connections import read_matrix
from tests.each import each
from tests.netsim.foreign import FILES, INSIDE, SERVICE, damaged, foreign, laid_out, opened, run

TOPOLOGY = (FILES / "htsim.topo").read_text()
THREE_TIERS = "\n".join((
    "Nodes 8\nTiers 3\nPodsize 4",
    "Tier 0\nDownlink_speed_Gbps 200\nRadix_Down 2\nRadix_Up 2\nDownlink_Latency_ns 1000",
    "Tier 1\nDownlink_speed_Gbps 200\nRadix_Down 2\nRadix_Up 4\nDownlink_Latency_ns 1000",
    "Tier 2\nDownlink_speed_Gbps 100\nRadix_Down 4\nDownlink_Latency_ns 1000\nBundle 2\n",
))  # fmt: skip


def written(folder: Path, content: str | bytes, name: str = "x.cm") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def completion_ps(folder: Path, nodes: int, *lines: str) -> int:
    """Completion time of connections and triggers on one leaf."""
    counts = {"Connections": "->", "Triggers": "trigger id"}
    header = [f"Nodes {nodes}", *(f"{name} {sum(mark in line for line in lines)}" for name, mark in counts.items())]
    path = written(folder, "\n".join([*header, *lines]))
    return run(laid_out(opened("matrix", path), nodes), nodes).completion_ps


def test_times_are_picoseconds_and_sizes_bytes(tmp_path):
    assert completion_ps(tmp_path, 2, "0->1 start 123 size 4000") == 123 + SERVICE + INSIDE
    assert completion_ps(tmp_path, 2, "0->1 id 7 start 0.000000 size 8000 addon") == 2 * SERVICE + INSIDE


def test_a_barrier_waits_for_all_and_oneshot_for_one():
    """The golden matrix: a packet joins 10 that are under way to rank 1, which sends 2 on, and 1 comes back."""
    outcome = run(laid_out(opened("matrix", FILES / "htsim.cm"), 4), 4)
    assert outcome.completion_ps == (11 * SERVICE + INSIDE) + (2 * SERVICE + INSIDE) + (SERVICE + INSIDE)


def test_triggers_may_stand_before_what_fires_them_and_chains_are_as_long_as_they_are(tmp_path):
    length = 5
    chain = [f"0->1 id {n} trigger {n} size 4000 recv_done_trigger {n + 1}" for n in range(length, 0, -1)]
    chain.append("1->0 id 99 start 0 size 4000 send_done_trigger 1")
    chain.append(f"0->1 trigger {length + 1} size 4000")
    chain += [f"trigger id {n} oneshot" for n in range(1, length + 2)]
    assert completion_ps(tmp_path, 2, *chain) == (length + 2) * (SERVICE + INSIDE)


def test_multishot_starts_one_for_each_that_ends(tmp_path):
    lines = ["0->1 id 1 start 0 size 4000 send_done_trigger 1", "2->3 id 2 start 500 size 4000 send_done_trigger 1"]
    lines += ["0->1 id 3 trigger 1 size 4000", "2->3 id 4 trigger 1 size 8000", "trigger id 1 multishot"]
    assert completion_ps(tmp_path, 4, *lines) == 500 + (SERVICE + INSIDE) + (2 * SERVICE + INSIDE)


def test_a_sender_knows_later_than_the_receiver_that_a_connection_is_done(tmp_path):
    """The second and third connection start when the first is done, for its sender and for its receiver."""
    lines = ["0->1 id 1 start 0 size 4000 send_done_trigger 1 recv_done_trigger 2"]
    lines += ["2->3 id 2 trigger 1 size 4000", "4->5 id 3 trigger 2 size 4000", "6->7 id 4 trigger 3 size 4000"]
    lines[1] += " send_done_trigger 3"
    lines += ["trigger id 1 oneshot", "trigger id 2 oneshot", "trigger id 3 oneshot"]
    path = written(tmp_path, "\n".join(["Nodes 8", "Connections 4", "Triggers 3", *lines]))
    outcome = run(laid_out(opened("matrix", path, acknowledged_after="1us"), 8), 8)
    once = SERVICE + INSIDE
    assert sorted(outcome.flows["end_ps"].tolist()) == [once, 2 * once, 2 * once + 10**6, 3 * once + 2 * 10**6]


def test_messages_of_one_connection_share_its_id(tmp_path):
    lines = ["0->1 id 1 msg start 0 size 4000", "0->1 id 1 msg 7 start 0 size 4000", "0->1 id 1 msg start 0 size 8000"]
    assert completion_ps(tmp_path, 2, *lines) == 4 * SERVICE + INSIDE
    workload = opened("matrix", written(tmp_path, "\n".join(["Nodes 2", "Connections 3", *lines])))
    assert workload.size(2) == 2
    assert workload.notices[0].endswith("share its sender's link, where htsim sends them one by one")


def test_notices_say_what_is_not_as_in_htsim():
    workload = opened("matrix", FILES / "htsim.cm")
    assert workload.size(4) == 4
    assert [notice.partition(": ")[2] for notice in workload.notices] == [
        "send_done_trigger fires when all bytes have arrived, not when they are acknowledged; set "
        "workload.acknowledged_after to the time that the acknowledgement takes back",
        "priorities are ignored, as by htsim's UEC and RoCE; its NDP pulls by them",
    ]
    assert workload.size(64) == 4
    assert workload.notices[0].endswith("4 nodes on a fabric of 64 ranks: the first 4 are used")
    with pytest.raises(Refusal, match="Nodes: there are 4, the job has 3 ranks"):
        workload.size(3)


def test_two_tiers_become_a_leaf_spine():
    expected = {
        "kind": "leaf_spine", "leaves": 4, "spines": 2, "hosts_per_leaf": 4, "parallel": 2,
        "host_rate": "100Gbps", "fabric_rate": "100Gbps", "link_delay": "500ns", "queue": "800KB",
    }  # fmt: skip
    assert section(read_topology(FILES / "htsim.topo")) == expected


def wired(text: str, folder: Path) -> nx.MultiGraph:
    """The cables of the shape, drawn by its description alone."""
    shape = read_topology(written(folder, text, "x.topo"))
    graph = nx.MultiGraph()
    leaf, aggregation, *core = shape.tiers
    for host in range(shape.hosts):
        graph.add_edge(f"host{host}", f"leaf{host // leaf.radix_down}")
    for pod in range(shape.pods):
        for position in range(shape.aggregations_per_pod):
            name = f"aggregation{pod}.{position}"
            for below in range(shape.leaves_per_pod):
                for _ in range(aggregation.bundle):
                    graph.add_edge(name, f"leaf{pod * shape.leaves_per_pod + below}")
            for above in range(position, shape.cores, shape.aggregations_per_pod):
                for _ in range(core[0].bundle):
                    graph.add_edge(name, f"core{above}")
    for switch in graph:
        kind = re.sub(r"[\d.]", "", switch)
        if kind != "host":
            tier = shape.tiers[["leaf", "aggregation", "core"].index(kind)]
            assert graph.degree(switch) == tier.radix_down + tier.radix_up
    return graph


@each("text", [TOPOLOGY, THREE_TIERS])
def test_every_switch_has_as_many_cables_as_ports(text, tmp_path):
    graph = wired(text, tmp_path)
    assert nx.is_connected(graph)


def test_three_tiers_become_a_fat_tree(tmp_path):
    expected = {
        "kind": "fat_tree", "pods": 2, "edges_per_pod": 2, "aggregations_per_pod": 2,
        "cores": 4, "hosts_per_edge": 2, "edge_parallel": 1,
        "core_parallel": 2, "host_rate": "200Gbps", "edge_rate": "200Gbps", "core_rate": "100Gbps",
        "link_delay": "1us", "queue": "unlimited",
    }  # fmt: skip
    assert section(read_topology(written(tmp_path, THREE_TIERS, "x.topo"))) == expected


def test_a_section_is_replaced_by_its_file_and_keeps_its_other_keys():
    path = FILES / "htsim.topo"
    found = replaced({"kind": "htsim", "path": str(path), "queue": "9KB", "ranks_per_host": 2})
    assert found == section(read_topology(path)) | {"queue": "9KB", "ranks_per_host": 2}
    other = {"kind": "leaf_spine", "path": "unchanged"}
    assert replaced(other) is other
    with pytest.raises(ValueError, match="needs a path; write path"):
        replaced({"kind": "htsim"})


def test_damaged_topologies_are_refused_or_still_sound(tmp_path):
    sound = 0
    for content in damaged(TOPOLOGY.encode(), 300):
        with suppress(Refusal):
            LeafSpineConfig.model_validate(section(read_topology(written(tmp_path, content, "x.topo"))))
            sound += 1
    assert 0 < sound < 240, "both happen"


def test_the_matrices_of_htsim_are_read_as_they_are():
    folder = foreign("htsim")
    permutation = read_matrix(folder / "perm_16n_16c_2MB.cm").connections
    assert sorted(connection.src for connection in permutation) == list(range(16))
    assert sorted(connection.dst for connection in permutation) == list(range(16))
    assert {connection.bytes for connection in permutation} == {2_000_000}
    workload = opened("matrix", folder / "incast.cm")
    outcome = run(laid_out(workload, 16), 16)
    assert outcome.completion_ps == 15 * 500 * SERVICE + INSIDE
    one = run(laid_out(opened("matrix", folder / "one.cm"), 16), 16, leaves=4)
    assert one.completion_ps == (500 + 3) * SERVICE + 4 * 500_000


def test_the_topology_of_htsim_is_read_as_it_is():
    read = LeafSpineConfig.model_validate(section(read_topology(foreign("htsim") / "leaf_spine_tiny.topo")))
    assert (read.leaves, read.spines, read.hosts_per_leaf) == (4, 2, 8)
    assert (read.host_rate, read.fabric_rate, read.link_delay) == (10**11, 10**11, 10**6)
