"""htsim's connection matrices and topologies: what they become, and what is refused."""

import re
from contextlib import suppress
from functools import partial
from pathlib import Path

import networkx as nx
import pytest

from netsim.foundation.refusal import Refusal
from netsim.topology.htsim import read_topology, replaced, section
from netsim.topology.leaf_spine import LeafSpineConfig
from netsim.workload.connections import read_matrix
from netsim.workload.flows import MatrixConfig, MatrixWorkload
from tests.netsim.foreign import FILES, INSIDE, SERVICE, damaged, foreign, laid_out, refused_or_sound, run

MATRIX = (FILES / "htsim.cm").read_text()
TOPOLOGY = (FILES / "htsim.topo").read_text()
THREE_TIERS = """Nodes 8
Tiers 3
Podsize 4
Tier 0
Downlink_speed_Gbps 200
Radix_Down 2
Radix_Up 2
Downlink_Latency_ns 1000
Tier 1
Downlink_speed_Gbps 200
Radix_Down 2
Radix_Up 4
Downlink_Latency_ns 1000
Tier 2
Downlink_speed_Gbps 100
Radix_Down 4
Downlink_Latency_ns 1000
Bundle 2
"""


def matrix(path: Path) -> MatrixWorkload:
    return MatrixWorkload(MatrixConfig(kind="matrix", path=str(path)))


def written(folder: Path, content: str | bytes, name: str = "x.cm") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def completion_ps(folder: Path, nodes: int, *lines: str) -> int:
    """Completion time of connections and triggers on one leaf."""
    counts = {"Connections": "->", "Triggers": "trigger id"}
    header = [f"Nodes {nodes}", *(f"{name} {sum(mark in line for line in lines)}" for name, mark in counts.items())]
    path = written(folder, "\n".join([*header, *lines]))
    return run(laid_out(matrix(path), nodes), nodes).completion_ps


def test_times_are_picoseconds_and_sizes_bytes(tmp_path):
    assert completion_ps(tmp_path, 2, "0->1 start 123 size 4000") == 123 + SERVICE + INSIDE
    assert completion_ps(tmp_path, 2, "0->1 id 7 start 0.000000 size 8000 addon") == 2 * SERVICE + INSIDE


def test_a_barrier_waits_for_all_and_oneshot_for_one():
    """The golden matrix: a packet joins 10 that are under way to rank 1, which sends 2 on, and 1 comes back."""
    outcome = run(laid_out(matrix(FILES / "htsim.cm"), 4), 4)
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
    config = MatrixConfig.model_validate({"kind": "matrix", "path": str(path), "acknowledged_after": "1us"})
    outcome = run(laid_out(MatrixWorkload(config), 8), 8)
    once = SERVICE + INSIDE
    assert sorted(outcome.flows["end_ps"].tolist()) == [once, 2 * once, 2 * once + 10**6, 3 * once + 2 * 10**6]


def test_messages_of_one_connection_share_its_id(tmp_path):
    lines = ["0->1 id 1 msg start 0 size 4000", "0->1 id 1 msg 7 start 0 size 4000", "0->1 id 1 msg start 0 size 8000"]
    assert completion_ps(tmp_path, 2, *lines) == 4 * SERVICE + INSIDE
    workload = matrix(written(tmp_path, "\n".join(["Nodes 2", "Connections 3", *lines])))
    assert workload.size(2) == 2
    assert workload.notices[0].endswith("share its sender's link, where htsim sends them one by one")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["0->1 id 1 msg 0 start 0 size 4"], "line 3: msg: is 0"),
        (["0->1 msg start 0 size 4"], "line 3: msg: belongs to no connection"),
        (["0->1 id 1 msg 2 start 0 size 4", "0->1 id 1 msg 2 start 0 size 4"], "line 4: msg: 2 occurs twice"),
        (["0->1 id 1 msg start 0 size 4", "0->1 id 1 start 0 size 4"], "line 4: id: occurs twice (1)"),
        (["0->1 id 1 msg start 0 size 4", "1->0 id 1 msg start 0 size 4"], "line 4: id: 1 is already that of 0->1"),
        (["0->1 id 1 msg msg start 0 size 4"], "line 3: msg: occurs twice"),
    ],
)
def test_messages_that_contradict_each_other_are_refused(tmp_path, lines, expected):
    path = written(tmp_path, "\n".join(["Nodes 2", f"Connections {len(lines)}", *lines]))
    with pytest.raises(Refusal) as error:
        read_matrix(path)
    assert str(error.value).startswith(f"{path}: {expected}")


def test_notices_say_what_is_not_as_in_htsim():
    workload = matrix(FILES / "htsim.cm")
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


def edited(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


BROKEN_MATRICES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "file: is empty"),
    "binary": (b"Nodes \xfe\xff", "file: is not text"),
    "comments only": ("# nothing\n", "Nodes: is missing"),
    "no connections": ("Nodes 4\n", "file: lists no connections"),
    "cut off": (MATRIX[: MATRIX.index("2->1")], "Connections: announces 4, the file has 1"),
    "cut off in a line": (
        MATRIX[: MATRIX.index(" recv_done_trigger 1") + 18],
        "line 5: recv_done_trigger: has no value",
    ),
    "nodes twice": (edited(MATRIX, "Connections 4", "Nodes 4"), "line 3: is not a header line"),
    "nodes no number": (edited(MATRIX, "Nodes 4", "Nodes four"), "line 2: Nodes: is not a whole number ('four')"),
    "negative node": (edited(MATRIX, "3->0", "-3->0"), "line 8: src: is not a whole number ('-3')"),
    "unknown node": (edited(MATRIX, "3->0", "3->4"), "line 8: dst: is not a node (4, of 4)"),
    "to itself": (edited(MATRIX, "3->0", "3->3"), "line 8: dst: is the sender itself (3)"),
    "no size": (edited(MATRIX, "size 8000 ", ""), "line 7: size: is missing"),
    "endless": (edited(MATRIX, "size 8000", "size 0"), "line 7: size: is 0: the flow would never end"),
    "size NaN": (edited(MATRIX, "size 8000", "size nan"), "line 7: size: is not a whole number ('nan')"),
    "fraction of a picosecond": (edited(MATRIX, "start 1000000", "start 0.5"), "line 6: start: is not a whole number"),
    "start too late": (edited(MATRIX, "start 1000000", "start 1e40"), "line 6: start: is not a whole number"),
    "start and trigger": (edited(MATRIX, "trigger 2 size", "trigger 2 start 0 size"), "line 8: there are both"),
    "neither": (edited(MATRIX, " trigger 2 size", " size"), "line 8: there is neither start nor trigger"),
    "unknown word": (edited(MATRIX, "prio", "colour"), "line 7: has an unknown word ('colour')"),
    "unknown line": (edited(MATRIX, "3->0", "3-0"), "line 8: starts with an unknown word ('3-0')"),
    "id twice": (edited(MATRIX, "id 4", "id 3"), "line 8: id: occurs twice (3)"),
    "id zero": (edited(MATRIX, "id 4", "id 0"), "line 8: id: is 0"),
    "word twice": (edited(MATRIX, "id 4", "id 4 id 4"), "line 8: id: occurs twice"),
    "unknown trigger": (edited(MATRIX, "send_done_trigger 2", "send_done_trigger 9"), "line 7: send_done_trigger: no"),
    "trigger twice": (edited(MATRIX, "id 2 oneshot", "id 1 oneshot"), "line 10: id: occurs twice (1)"),
    "trigger of no kind": (edited(MATRIX, " oneshot", ""), "line 10: is of no kind"),
    "trigger of two kinds": (edited(MATRIX, "oneshot", "oneshot multishot"), "line 10: is oneshot and multishot"),
    "trigger without id": (edited(MATRIX, "id 2 oneshot", "oneshot"), "line 10: id: is missing"),
    "barrier without count": (edited(MATRIX, " count 2", ""), "line 9: count: is missing or 0"),
    "barrier never full": (edited(MATRIX, "count 2", "count 3"), "line 9: trigger 1 (barrier) must be fired 3 times"),
    "oneshot fired twice": (
        edited(MATRIX, "barrier count 2", "oneshot"),
        "line 9: trigger 1 (oneshot) must be fired 1",
    ),
    "circle": (edited(MATRIX, "start 0 size", "trigger 2 size"), "line 5: trigger: triggers wait for each other"),
    "failure": (MATRIX + "failure switch_type AGG switch_id 0 link_id 1\n", "line 11: fails link 1 up of AGG switch 0"),
    "failure cut off": (MATRIX + "failure switch_type AGG switch_id 0\n", "line 11: is not a failure"),
    "failure of a host": (
        MATRIX + "failure switch_type HOST switch_id 0 link_id 1\n",
        "line 11: switch_type: is not a tier of switches ('HOST')",
    ),
    "failure of no link": (
        MATRIX + "failure switch_type AGG switch_id 0 link_id x\n",
        "line 11: link_id: is not a whole number ('x')",
    ),
    "trigger count": (edited(MATRIX, "Triggers 2", "Triggers 3"), "Triggers: announces 3, the file has 2"),
}


@pytest.mark.parametrize("name", BROKEN_MATRICES)
def test_says_in_one_line_what_is_wrong_with_a_matrix(name, tmp_path):
    content, expected = BROKEN_MATRICES[name]
    path = written(tmp_path, content)
    with pytest.raises(Refusal) as error:
        laid_out(matrix(path), 4)
    assert str(error.value).startswith(f"{path}: {expected}")
    assert "\n" not in str(error.value)


def test_two_tiers_become_a_leaf_spine():
    expected = {
        "kind": "leaf_spine",
        "leaves": 4,
        "spines": 2,
        "hosts_per_leaf": 4,
        "parallel": 2,
        "host_rate": "100Gbps",
        "fabric_rate": "100Gbps",
        "link_delay": "500ns",
        "queue": "800KB",
    }
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


@pytest.mark.parametrize("text", [TOPOLOGY, THREE_TIERS])
def test_every_switch_has_as_many_cables_as_ports(text, tmp_path):
    graph = wired(text, tmp_path)
    assert nx.is_connected(graph)


def test_three_tiers_become_a_fat_tree(tmp_path):
    expected = {
        "kind": "fat_tree",
        "pods": 2,
        "edges_per_pod": 2,
        "aggregations_per_pod": 2,
        "cores": 4,
        "hosts_per_edge": 2,
        "edge_parallel": 1,
        "core_parallel": 2,
        "host_rate": "200Gbps",
        "edge_rate": "200Gbps",
        "core_rate": "100Gbps",
        "link_delay": "1us",
        "queue": "unlimited",
    }
    assert section(read_topology(written(tmp_path, THREE_TIERS, "x.topo"))) == expected


def test_a_section_is_replaced_by_its_file_and_keeps_its_other_keys():
    path = FILES / "htsim.topo"
    found = replaced({"kind": "htsim", "path": str(path), "queue": "9KB", "ranks_per_host": 2})
    assert found == section(read_topology(path)) | {"queue": "9KB", "ranks_per_host": 2}
    other = {"kind": "leaf_spine", "path": "unchanged"}
    assert replaced(other) is other
    with pytest.raises(ValueError, match="needs a path; write path"):
        replaced({"kind": "htsim"})


BROKEN_TOPOLOGIES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("\n", "file: is empty"),
    "binary": (b"\x80\x81", "file: is not text"),
    "cut off": (TOPOLOGY[: TOPOLOGY.index("Radix_Down")], "tier 0: radix_down: is missing"),
    "no nodes": (edited(TOPOLOGY, "Nodes 16\n", ""), "nodes: is missing"),
    "nodes no number": (edited(TOPOLOGY, "Nodes 16", "Nodes many"), "line 2: Nodes: is not a whole number ('many')"),
    "no hosts": (edited(TOPOLOGY, "Nodes 16", "Nodes 0"), "line 2: Nodes: is not a whole number ('0')"),
    "one tier": (edited(TOPOLOGY, "Tiers 2", "Tiers 1"), "tiers: is 1"),
    "a tier missing": (edited(TOPOLOGY, "Tiers 2", "Tiers 3"), "tier 1: radix_up: is missing"),
    "a tier too many": (TOPOLOGY + "Tier 2\nRadix_Down 4\n", "tier 2: is not among 2 tiers"),
    "a tier twice": (edited(TOPOLOGY, "Tier 1", "Tier 0"), "line 14: Tier: tier 0 occurs twice"),
    "unknown key": (edited(TOPOLOGY, "Bundle", "Bundel"), "line 18: Bundel: is not a known key"),
    "key twice": (edited(TOPOLOGY, "Bundle 2", "Bundle 2\nBundle 2"), "line 19: Bundle: occurs twice"),
    "no value": (edited(TOPOLOGY, "Bundle 2", "Bundle"), "line 18: Bundle: has 0 values"),
    "header below": (TOPOLOGY + "Podsize 16\n", "line 20: Podsize: is out of place"),
    "negative": (edited(TOPOLOGY, "Radix_Up 4", "Radix_Up -4"), "line 9: Radix_Up: is not a whole number ('-4')"),
    "ports above the highest": (TOPOLOGY + "Radix_Up 4\n", "tier 1: radix_up: does not belong to the highest tier"),
    "speed missing": (edited(TOPOLOGY, "Downlink_speed_Gbps 100\n", ""), "tier 0: downlink_speed_gbps: is missing"),
    "pods of two tiers": (edited(TOPOLOGY, "Podsize 16", "Podsize 8"), "podsize: makes 2 pods"),
    "pods not full": (edited(TOPOLOGY, "Podsize 16", "Podsize 5"), "podsize: hosts do not fill pods"),
    "leaves not full": (edited(TOPOLOGY, "Radix_Down 4", "Radix_Down 5"), "tier 0: radix_down: the hosts of a pod"),
    "too few ports down": (edited(TOPOLOGY, "Radix_Down 8", "Radix_Down 4"), "tier 1: radix_down: is 4"),
    "bundle forgotten": (edited(TOPOLOGY, "Bundle 2\n", ""), "tier 1: radix_down: is 8"),
    "bundle does not divide": (edited(TOPOLOGY, "Radix_Up 4", "Radix_Up 3"), "tier 1: bundle: ports up of a leaf"),
    "oversubscribed silently": (edited(TOPOLOGY, "Radix_Up 4", "Radix_Up 2"), "tier 0: oversubscribed: is 1, but"),
    "bundle of hosts": (edited(TOPOLOGY, "Radix_Up 4", "Radix_Up 4\nBundle 2"), "tier 0: bundle: is 2"),
    "slow switches": (edited(TOPOLOGY, "Radix_Up 4", "Radix_Up 4\nSwitch_Latency_ns 9"), "tier 0: switch_latency_ns"),
    "unequal delays": (edited(TOPOLOGY, "ns 500", "ns 400"), "tier 1: downlink_latency_ns: is 500ns, not 400ns"),
    "unequal queues": (edited(TOPOLOGY, "Up 800000", "Up 900000"), "queue_down: queues differ"),
}


@pytest.mark.parametrize("name", BROKEN_TOPOLOGIES)
def test_says_in_one_line_what_is_wrong_with_a_topology(name, tmp_path):
    content, expected = BROKEN_TOPOLOGIES[name]
    path = written(tmp_path, content, "x.topo")
    with pytest.raises(Refusal) as error:
        section(read_topology(path))
    assert str(error.value).startswith(f"{path}: {expected}")
    assert "\n" not in str(error.value)


def test_damaged_files_are_refused_or_still_sound(tmp_path):
    files = damaged(MATRIX.encode(), 500)
    refused = [refused_or_sound(partial(matrix, written(tmp_path, content)), 64) for content in files]
    assert 100 < sum(refused) < 500, "both happen"
    sound = 0
    for content in damaged(TOPOLOGY.encode(), 500):
        with suppress(Refusal):
            LeafSpineConfig.model_validate(section(read_topology(written(tmp_path, content, "x.topo"))))
            sound += 1
    assert 0 < sound < 400, "both happen"


def test_the_matrices_of_htsim_are_read_as_they_are():
    folder = foreign("htsim")
    permutation = read_matrix(folder / "perm_16n_16c_2MB.cm").connections
    assert sorted(connection.src for connection in permutation) == list(range(16))
    assert sorted(connection.dst for connection in permutation) == list(range(16))
    assert {connection.bytes for connection in permutation} == {2_000_000}
    workload = matrix(folder / "incast.cm")
    outcome = run(laid_out(workload, 16), 16)
    assert outcome.completion_ps == 15 * 500 * SERVICE + INSIDE
    one = run(laid_out(matrix(folder / "one.cm"), 16), 16, leaves=4)
    assert one.completion_ps == (500 + 3) * SERVICE + 4 * 500_000


def test_the_topology_of_htsim_is_read_as_it_is():
    read = LeafSpineConfig.model_validate(section(read_topology(foreign("htsim") / "leaf_spine_tiny.topo")))
    assert (read.leaves, read.spines, read.hosts_per_leaf) == (4, 2, 8)
    assert (read.host_rate, read.fabric_rate, read.link_delay) == (10**11, 10**11, 10**6)
