"""Files of execution traces: those of all ranks, what each contains, and what its nodes wait for."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, Field

from netsim.foundation.complaint import validated
from netsim.foundation.documents import check_mapping, read_json
from netsim.foundation.files import reading
from netsim.foundation.refusal import Refusal
from netsim.workload.chakra.nodes import Attribute, Node, NodeType, collective, is_earlier, read_metadata, read_node
from netsim.workload.chakra.wire import WireError, read_messages
from netsim.workload.program import in_order

RANKS_OF_GROUP = "pg_ranks."
"""Prefix of an attribute of the metadata: the rest is the name of a process group, the value its ranks."""

_FILE = re.compile(r"(?:(?P<prefix>.*)\.)?(?P<rank>0|[1-9][0-9]{0,8})\.(?P<form>et|json)", re.DOTALL)
_REMEDY = "convert or record the trace again"

Count = Annotated[int, Field(ge=0, lt=2**64, strict=True)]


class RankTrace(NamedTuple):
    """The execution trace of a rank: nodes in the order of the file, and groups (name, ranks) that the file defines."""

    path: Path
    groups: Mapping[str, Sequence[int]]
    nodes: Sequence[Node]


class _JsonNode(BaseModel, frozen=True, extra="allow"):
    """A node in JSON, by the names that Chakra's feeder reads; all other keys are its attributes."""

    id: Count = Field(alias="Id")
    name: str = Field(alias="Name", default="")
    type: Annotated[int, Field(ge=0, le=max(NodeType), strict=True)] = Field(alias="NodeType")
    data_deps: tuple[Count, ...]
    control: tuple[Count, ...] = Field(alias="ctrlDeps", default=())
    runtime: Count = 0


class _JsonGraph(BaseModel, frozen=True, extra="ignore"):
    workload_graph: tuple[_JsonNode, ...]


def find_traces(path: Path) -> list[Path]:
    """The files of all ranks, in their order: of a folder with one set, or with the prefix of ``PREFIX.RANK.et``."""
    folder, wanted = (path, None) if path.is_dir() else (path.parent, path.name)
    files_by_prefix: dict[tuple[str, str], dict[int, Path]] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _FILE.fullmatch(file.name)
        if match and (wanted is None or match["prefix"] == wanted):
            files_by_prefix.setdefault((match["form"], match["prefix"] or ""), {})[int(match["rank"])] = file
    forms = [form for form in ("et", "json") if any(key[0] == form for key in files_by_prefix)]
    if not forms:
        raise Refusal(path, "file", "contains no execution traces", "give a folder or prefix of NAME.RANK.et files")
    prefixes = sorted(prefix for form, prefix in files_by_prefix if form == forms[0])
    if len(prefixes) > 1:
        problem = f"holds {len(prefixes)} traces ({', '.join(prefixes)!r:.60})"
        raise Refusal(path, "file", problem, f"write the prefix too, such as {path / prefixes[0]}")
    files = files_by_prefix[forms[0], prefixes[0]]
    for rank in range(len(files)):
        if rank not in files:
            name = f"{prefixes[0]}.{rank}.{forms[0]}".removeprefix(".")
            raise Refusal(path, "file", f"rank {rank} has no file ({name}), rank {max(files)} has", "add it")
    return [files[rank] for rank in range(len(files))]


def read_rank(path: Path) -> RankTrace:
    """Reads the trace of one rank, in protocol buffers or JSON."""
    trace = _read_json(path) if path.suffix == ".json" else _read_messages(path)
    if not trace.nodes:
        raise Refusal(path, "file", "contains no nodes", _REMEDY)
    seen: set[int] = set()
    for node in trace.nodes:
        if node.id in seen:
            raise Refusal(path, f"node {node.id}", "occurs twice", _REMEDY)
        seen.add(node.id)
    return trace


def _read_messages(path: Path) -> RankTrace:
    with reading(path, "give files that can be read"):
        content = path.read_bytes()
    if not content:
        raise Refusal(path, "file", "is empty", _REMEDY)
    place = "file"
    try:
        messages = list(read_messages(content))
        place = "message 1"
        metadata = read_metadata(messages[0])
        first = 0 if metadata is None else 1
        earlier = False
        for position, message in enumerate(messages[first:], start=first + 1):
            place = f"message {position}"
            earlier = earlier or is_earlier(message)
        nodes = []
        for position, message in enumerate(messages[first:], start=first + 1):
            place = f"message {position}"
            nodes.append(read_node(message, earlier=earlier))
    except WireError as error:
        raise Refusal(path, place, f"is not an execution trace, or damaged: {error}", _REMEDY) from None
    return RankTrace(path, _groups(metadata or {}), nodes)


def _groups(metadata: Mapping[str, Attribute]) -> dict[str, Sequence[int]]:
    groups: dict[str, Sequence[int]] = {}
    for name, ranks in metadata.items():
        if name.startswith(RANKS_OF_GROUP) and isinstance(ranks, tuple):
            groups[name.removeprefix(RANKS_OF_GROUP)] = [rank for rank in ranks if isinstance(rank, int)]
    return groups


def _read_json(path: Path) -> RankTrace:
    graph = validated(read_json(path, "correct it"), path, _JsonGraph)
    nodes = []
    for node in graph.workload_graph:
        attributes = {name: _attribute(value) for name, value in (node.model_extra or {}).items()}
        named = collective(attributes.get("comm_type"))
        about = (node.id, node.name, NodeType(node.type), node.control, node.data_deps, node.runtime)
        nodes.append(Node(*about, attributes, named))
    return RankTrace(path, {}, nodes)


def _attribute(value: object) -> Attribute:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, list):
        return tuple(item for item in value if isinstance(item, (int, float, str)))
    return value if isinstance(value, (int, float, str)) else ""


def read_groups(path: Path) -> dict[str, Sequence[int]]:
    """Process groups in a file of their own: a JSON mapping from name to list of ranks, as ASTRA-sim reads it."""
    remedy = 'write {"0": [0, 1]}'
    content = check_mapping(read_json(path, remedy), path, remedy)
    for name, ranks in content.items():
        if not isinstance(ranks, list) or any(type(rank) is not int or rank < 0 for rank in ranks):
            raise Refusal(path, f"{name:.40}", "is not a list of ranks", "write ranks such as [0, 1]")
    return dict(content)


class Dependencies(NamedTuple):
    """Nodes that each node `needs`, by place in the file; `control`: all ctrl_deps on its nodes are among them."""

    needs: Sequence[Sequence[int]]
    control: bool


def dependencies(trace: RankTrace) -> Dependencies:
    """Data dependencies, and control dependencies where they do not contradict them.

    Traces from a profiler have the caller of a node in ctrl_deps, and sometimes a caller that waits for the node it
    called. If ctrl_deps and data_deps together form a circle in a file, only its data_deps are used.
    """
    places = {node.id: place for place, node in enumerate(trace.nodes)}
    data: list[list[int]] = []
    both: list[list[int]] = []
    for node in trace.nodes:
        for other in node.data:
            if other not in places:
                problem = f"needs node {other}, which does not exist"
                raise Refusal(trace.path, f"node {node.id}: data_deps", problem, _REMEDY)
        data.append([places[other] for other in dict.fromkeys(node.data)])
        both.append([places[other] for other in dict.fromkeys((*node.data, *node.control)) if other in places])
    if in_order(both)[1] is None:
        return Dependencies(both, control=True)
    _, place = in_order(data)
    if place is not None:
        where = f"node {trace.nodes[place].id}: data_deps"
        raise Refusal(trace.path, where, "nodes depend on each other in a circle", _REMEDY)
    return Dependencies(data, control=False)
