"""Fabrics in files: everything that may be wrong with one is refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from netsim.foundation.refusal import Refusal
from netsim.topology.graph import Graph, GraphConfig
from tests.each import each

SMALL = Path("tests/files/fabric.json")


def graph(path: Path) -> Graph:
    return Graph(GraphConfig.model_validate({"kind": "graph", "path": str(path)}))


Edit = Callable[[dict[str, Any]], Any]


def setting(*place: Any, **values: Any) -> Edit:
    """Changes entries below a place of the file; None removes one."""

    def edit(content: dict[str, Any]) -> None:
        for part in place:
            content = content[part]
        for key, value in values.items():
            content.pop(key, None) if value is None else content.update({key: value})

    return edit


def adding(place: str, **entry: Any) -> Edit:
    return lambda content: content[place].append(entry)


CABLE = {"rate": "1Gbps", "delay": "1ns"}
WRONG: dict[str, tuple[Edit, str, str]] = {
    "no nodes": (setting(nodes=None), "nodes: is missing", "add it"),
    "no cables": (setting(links=None), "document: there must be either links or edges", "write exactly one"),
    "cables twice": (setting(edges=[]), "document: there must be either links or edges", "write exactly one"),
    "unknown key": (
        setting("links", 4, cuont=2),
        "links.4.cuont: is not a known key (2)",
        "write count, or remove it",
    ),
    "directed": (setting(directed=True), "directed: must be False (True)", "False"),
    "no host": (
        lambda content: [node.update(kind="switch") for node in content["nodes"]],
        "nodes: there is no host",
        "kind: host",
    ),
    "node twice": (adding("nodes", id="leaf-1", kind="switch"), "nodes.8.id: 'leaf-1' occurs twice", "of its own"),
    "id with a comma": (setting("nodes", 4, id="a,b"), "nodes.4.id: must match pattern", "matches"),
    "unknown kind": (
        setting("nodes", 4, kind="router"),
        "nodes.4.kind: must be 'host' or 'switch' ('router')",
        "switch",
    ),
    "switch called host": (setting("nodes", 6, id="host0"), "nodes.6.id: switch 'host0' is called like", "choose"),
    "tier of a host": (setting("nodes", 0, tier=0), "nodes.0.tier: 'a' is a host", "remove it"),
    "host above the lowest tier": (setting("nodes", 5, tier=1), "nodes.2: its switch 'leaf-2' is on tier 1", "tier 0"),
    "unknown end": (setting("links", 5, target="spine"), "links.5.target: there is no node 'spine'", "add it"),
    "self-loop": (setting("links", 4, source="spine-1"), "links.4: the cable leads from 'spine-1' to itself", "remove"),
    "hosts connected": (setting("links", 0, target="b"), "links.0: 'a' and 'b' are both hosts", "switch between"),
    "host without a cable": (adding("nodes", id="e", kind="host"), "nodes.8: host 'e' has no cable", "connect"),
    "host with two cables": (
        adding("links", source="a", target="leaf-2", **CABLE),
        "nodes.0: host 'a' has 2 cables",
        "give each NIC a host node",
    ),
    "host with parallel cables": (setting("links", 0, count=2), "nodes.0: host 'a' has 2 cables", "each NIC"),
    "hosts that do not reach each other": (
        lambda content: content.update(links=content["links"][:6]),
        "nodes.2: no route leads from host 'a' to host 'c'",
        "connect their switches",
    ),
    "switch apart": (adding("nodes", id="s", kind="switch"), "nodes.8: no host reaches switch 's'", "remove it"),
    "no rate": (setting("links", 4, rate=None), "links.4.rate: is missing", "add it"),
    "rate of zero": (setting("links", 4, rate="0Gbps"), "links.4.rate: must be greater than 0", "use"),
    "bare number for a rate": (setting("links", 4, rate=100), "links.4.rate: a rate needs a unit (100)", "100Gbps"),
    "unknown unit": (setting("links", 4, delay="1min"), "links.4.delay: a time needs a unit ('1min')", "500ns"),
    "no cable in an entry": (setting("links", 4, count=0), "links.4.count: must be greater than 0 (0)", "1 or more"),
    "too many cables": (setting("links", 4, count=2**40), "links: makes", "leave at most 4,000,000"),
    "hosts miscounted": (setting("graph", hosts=5), "graph.hosts: says 5, the file has 4", "correct"),
    "switches miscounted": (setting("graph", switches=3), "graph.switches: says 3, the file has 4", "correct"),
    "parallel cables forgotten": (setting("links", 4, count=None), "graph.links: says 10, the file has 9", "correct"),
    "key twice": (
        lambda content: [setting("links", n, key=0, source="leaf-1", target="spine-1")(content) for n in (4, 5)],
        "links.5.key: 0 occurs twice between 'leaf-1' and 'spine-1'",
        "its own key",
    ),
    "pair twice in a simple graph": (
        lambda content: [
            content.update(multigraph=False),
            adding("links", source="spine-2", target="leaf-1", **CABLE)(content),
        ],
        "links.8: 'spine-2' and 'leaf-1' are connected twice",
        "multigraph: true",
    ),
    "names that coincide": (
        lambda content: [
            content.update(graph={}),
            adding("nodes", id="1-spine-2", kind="switch")(content),
            adding("nodes", id="leaf", kind="switch")(content),
            adding("links", source="leaf", target="1-spine-2", **CABLE)(content),
            adding("links", source="leaf", target="leaf-1", **CABLE)(content),
        ],
        "nodes: 2 links would be called 'leaf-1-spine-2'",
        "choose other ids",
    ),
}


@each("case", WRONG)
def test_malformed_files_are_refused_in_one_line(case: str, tmp_path: Path):
    edit, problem, remedy = WRONG[case]
    content = json.loads(SMALL.read_text())
    edit(content)
    path = tmp_path / "fabric.json"
    path.write_text(json.dumps(content))
    with pytest.raises(Refusal) as error:
        graph(path)
    assert str(error.value).startswith(f"{path}: {problem}")
    assert remedy in error.value.remedy
    assert "\n" not in str(error.value)


@each(
    "content, problem",
    [
        (b'{"nodes": [\n', "document: is not JSON"),
        (b"[]", "document: is a list"),
        (b"\xff\xfe{}", "document: is not JSON"),
        (None, "file: cannot be read (No such file or directory)"),
    ],
)
def test_what_is_no_node_link_file_is_refused(content: bytes | None, problem: str, tmp_path: Path):
    path = tmp_path / "fabric.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Refusal) as error:
        graph(path)
    assert str(error.value).startswith(f"{path}: {problem}")
