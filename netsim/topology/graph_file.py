"""Fabrics in files: networkx node-link JSON with the kinds of nodes, and rate and delay of cables."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator

from netsim.foundation.complaint import validated
from netsim.foundation.documents import check_mapping, read_json
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from netsim.foundation.units import Duration, Rate
from netsim.topology.keys import MOST_LINKS

Identifier = Annotated[
    str, BeforeValidator(lambda value: str(value) if type(value) is int else value), Field(pattern=r"^[\w.:/+-]{1,64}$")
]


class NodeEntry(Section):
    """An entry of ``nodes``.

    Args:
        id: Name of the node. Switches keep it; hosts become host0, host1, ... in the order of the file.
        kind: host or switch.
        tier: Tier of a switch in drawings: 0 for switches with hosts. If absent, its distance from the switches with
            hosts.
    """

    id: Identifier
    kind: Literal["host", "switch"]
    tier: NonNegativeInt | None = None


class CableEntry(Section):
    """An entry of ``links``: cables between two nodes.

    Args:
        source: Id of the node at one end.
        target: Id of the node at the other end.
        rate: Rate of each cable, each direction.
        delay: Propagation delay of each cable.
        count: Number of parallel cables.
        key: Key that distinguishes entries of the same pair of nodes, as networkx writes it.
    """

    source: Identifier
    target: Identifier
    rate: Annotated[Rate, Field(gt=0)]
    delay: Duration
    count: PositiveInt = 1
    key: int | str | None = None


class Expected(Section):
    """Section ``graph``: expected numbers of hosts, switches and links, parallel cables counted one by one."""

    name: str | None = None
    hosts: int | None = None
    switches: int | None = None
    links: int | None = None


class GraphFile(Section):
    """A whole file. Cables are in ``links`` or, as newer networkx writes it, in ``edges``."""

    directed: Literal[False] = False
    multigraph: bool = True
    graph: Expected = Expected()
    nodes: Annotated[tuple[NodeEntry, ...], Field(min_length=1)]
    links: tuple[CableEntry, ...] | None = None
    edges: tuple[CableEntry, ...] | None = None

    @model_validator(mode="after")
    def _one_list(self) -> "GraphFile":
        if (self.links is None) == (self.edges is None):
            raise ValueError("there must be either links or edges; write exactly one of the two")
        return self

    @property
    def cables(self) -> tuple[CableEntry, ...]:
        """The entries of ``links`` or ``edges``."""
        return self.links or self.edges or ()


def read_graph(path: Path) -> GraphFile:
    """Reads a fabric in which every host has one cable, to a switch, and reaches every other node."""
    remedy = "give the path of a fabric in node-link JSON"
    graph = validated(check_mapping(read_json(path, remedy), path, remedy), path, GraphFile)
    for field, problem, remedy in _faults(graph):
        raise Refusal(path, field, problem, remedy)
    return graph


Fault = tuple[str, str, str]
"""Field, problem and remedy."""


def _faults(graph: GraphFile) -> Iterator[Fault]:
    """Yields the faults of a file. Each check may rely on the checks before it."""
    yield from _node_faults(graph)
    yield from _cable_faults(graph)
    yield from _host_faults(graph)
    yield from _count_faults(graph)


def _node_faults(graph: GraphFile) -> Iterator[Fault]:
    seen = set()
    for number, node in enumerate(graph.nodes):
        if node.id in seen:
            yield f"nodes.{number}.id", f"'{node.id}' occurs twice", "give every node an id of its own"
        seen.add(node.id)
        if node.kind == "host" and node.tier is not None:
            yield f"nodes.{number}.tier", f"'{node.id}' is a host", "remove it; only switches have tiers"
        if node.kind == "switch" and node.id.startswith("host"):
            yield f"nodes.{number}.id", f"switch '{node.id}' is called like a host", "choose another id"
    if all(node.kind != "host" for node in graph.nodes):
        yield "nodes", "there is no host", "add nodes with kind: host"


def _cable_faults(graph: GraphFile) -> Iterator[Fault]:
    links = 2 * sum(cable.count for cable in graph.cables)
    if links > MOST_LINKS:
        yield "links" if graph.links else "edges", f"makes {links:,} links", f"leave at most {MOST_LINKS:,}"
    kinds = {node.id: node.kind for node in graph.nodes}
    seen = set()
    for number, cable in enumerate(graph.cables):
        field = f"{'links' if graph.links else 'edges'}.{number}"
        for end in ("source", "target"):
            if getattr(cable, end) not in kinds:
                yield f"{field}.{end}", f"there is no node '{getattr(cable, end)}'", "add it to nodes"
        pair = f"'{cable.source}' and '{cable.target}'"
        if cable.source == cable.target:
            yield field, f"the cable leads from '{cable.source}' to itself", "remove it"
        if kinds[cable.source] == kinds[cable.target] == "host":
            yield field, f"{pair} are both hosts", "put a switch between them"
        key = frozenset((cable.source, cable.target)), cable.key
        if key in seen and not graph.multigraph:
            yield field, f"{pair} are connected twice", "write multigraph: true, or one entry with a count"
        if key in seen and cable.key is not None:
            yield f"{field}.key", f"{cable.key!r} occurs twice between {pair}", "give each entry of a pair its own key"
        seen.add(key)


def _host_faults(graph: GraphFile) -> Iterator[Fault]:
    neighbours = defaultdict(list)
    for cable in graph.cables:
        neighbours[cable.source] += [cable.target] * cable.count
        neighbours[cable.target] += [cable.source] * cable.count
    tiers = {node.id: node.tier for node in graph.nodes}
    first = next(node.id for node in graph.nodes if node.kind == "host")
    reached = _reached(neighbours, first)
    for number, node in enumerate(graph.nodes):
        field, cables = f"nodes.{number}", len(neighbours[node.id])
        if node.kind == "host" and not cables:
            yield field, f"host '{node.id}' has no cable", "connect it to a switch"
        if node.kind == "host" and cables > 1:
            yield field, f"host '{node.id}' has {cables} cables", "give each NIC a host node of its own"
        if node.kind == "host" and tiers[neighbours[node.id][0]]:
            leaf = neighbours[node.id][0]
            yield field, f"its switch '{leaf}' is on tier {tiers[leaf]}", "give switches with hosts tier 0"
        if node.kind == "host" and node.id not in reached:
            yield field, f"no route leads from host '{first}' to host '{node.id}'", "connect their switches"
        if node.id not in reached:
            yield field, f"no host reaches switch '{node.id}'", "connect it or remove it"


def _reached(neighbours: Mapping[str, list[str]], start: str) -> set[str]:
    reached, waiting = {start}, [start]
    while waiting:
        new = set(neighbours[waiting.pop()]) - reached
        reached |= new
        waiting += new
    return reached


def _count_faults(graph: GraphFile) -> Iterator[Fault]:
    kinds = Counter(node.kind for node in graph.nodes)
    counts = {"hosts": kinds["host"], "switches": kinds["switch"], "links": sum(c.count for c in graph.cables)}
    for name, count in counts.items():
        expected = getattr(graph.graph, name)
        if expected not in (None, count):
            yield f"graph.{name}", f"says {expected}, the file has {count}", "correct the number or the file"
