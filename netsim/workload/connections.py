"""The text of an htsim connection matrix: nodes, connections and the triggers between them."""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from netsim.errors import InputError
from netsim.lines import MOST, read_lines, whole_number

_ARROW = re.compile(r"(.*?)->(.*)")
_START = re.compile(r"[0-9]{1,19}(\.[0-9]{0,20})?([eE]\+?[0-9]{1,2})?")
_COUNTS = ("Nodes", "Connections", "Triggers", "Failures")
_CONNECTION = {"id", "start", "size", "trigger", "send_done_trigger", "recv_done_trigger", "prio"}
_TRIGGER = {"id", "count"}
_TRIGGER_KINDS = {"oneshot", "multishot", "barrier"}


class Connection(NamedTuple):
    """A line ``src->dst``.

    Args:
        line: Its number.
        src: Node that sends.
        dst: Another node.
        bytes: Payload, at least 1.
        start_ps: When it starts, in picoseconds; None if a trigger starts it.
        trigger: Trigger that starts it; None if it has a start.
        sent: Trigger that it fires when all its bytes are sent and acknowledged.
        received: Trigger that it fires when all its bytes have arrived.
        priority: Whether it has a priority.
    """

    line: int
    src: int
    dst: int
    bytes: int
    start_ps: int | None
    trigger: int | None
    sent: int | None
    received: int | None
    priority: bool


class Trigger(NamedTuple):
    """A line ``trigger``.

    Args:
        line: Its number.
        kind: oneshot: starts all its connections when it is fired, once; multishot: starts one more of them each time;
            barrier: starts all of them when it has been fired `count` times.
        count: Only of a barrier, at least 1.
    """

    line: int
    kind: str
    count: int


class Matrix(NamedTuple):
    """A whole connection matrix.

    Args:
        path: Where it was read.
        nodes: Number of nodes.
        connections: In the order of the file.
        triggers: By id.
    """

    path: Path
    nodes: int
    connections: Sequence[Connection]
    triggers: Mapping[int, Trigger]


def read_matrix(path: Path) -> Matrix:
    """Reads and checks a connection matrix as htsim's ``ConnectionMatrix::load`` does, with picoseconds kept exactly.

    Raises:
        InputError: Missing or malformed; the message names line, field and remedy.
    """
    counts: dict[str, int] = {}
    connections: list[Connection] = []
    triggers: dict[int, Trigger] = {}
    ids: set[int] = set()
    for number, line in enumerate(read_lines(path, "a connection matrix of htsim"), start=1):
        words, place = line.split(), f"line {number}"
        if not words or words[0].startswith("#"):
            continue
        if words[0] in _COUNTS:
            if len(words) != 2 or words[0] in counts:
                raise InputError(
                    path, place, f"is not a header line ({line!r:.40})", f"write {words[0]} once, then a number"
                )
            counts[words[0]] = whole_number(path, f"{place}: {words[0]}", words[1])
        elif match := _ARROW.fullmatch(words[0]):
            options, _ = _options(path, place, words[1:], _CONNECTION, {"addon"})
            if "id" in options and options["id"] in ids:
                raise InputError(
                    path, f"{place}: id", f"occurs twice ({options['id']})", "give each connection its own"
                )
            ids.add(options.get("id", 0))
            src = whole_number(path, f"{place}: src", match[1])
            dst = whole_number(path, f"{place}: dst", match[2])
            connections.append(_connection(path, number, src, dst, options))
        elif words[0] == "trigger":
            identity, trigger = _trigger(path, number, words[1:])
            if identity in triggers:
                raise InputError(path, f"{place}: id", f"occurs twice ({identity})", "give each trigger its own")
            triggers[identity] = trigger
        elif words[0] == "failure":
            remedy = "delete the line and list the link under topology.failures"
            raise InputError(path, place, "fails a link, which a workload cannot do", remedy)
        else:
            problem = f"starts with an unknown word ({words[0]!r:.40})"
            raise InputError(path, place, problem, f"write {', '.join(_COUNTS)}, src->dst or trigger")
    matrix = Matrix(path, counts.get("Nodes", 0), connections, triggers)
    _check(matrix, counts)
    return matrix


def _options(
    path: Path, place: str, words: Sequence[str], valued: set[str], flags: set[str]
) -> tuple[dict[str, int], list[str]]:
    """Numbers by name, and the flags among them."""
    options: dict[str, int] = {}
    given_flags: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        if word in options or word in given_flags:
            raise InputError(path, f"{place}: {word}", "occurs twice", "remove one")
        if word in flags:
            given_flags.append(word)
            position += 1
        elif word in valued:
            if position + 1 == len(words):
                raise InputError(
                    path, f"{place}: {word}", "has no value, or the file is cut off", "write a number behind it"
                )
            read = _start_ps if word == "start" else whole_number
            options[word] = read(path, f"{place}: {word}", words[position + 1])
            position += 2
        else:
            remedy = f"use {', '.join(sorted(valued | flags))}"
            raise InputError(path, place, f"has an unknown word ({word!r:.40})", remedy)
    for name in ("id", "trigger", "send_done_trigger", "recv_done_trigger"):
        if options.get(name) == 0:
            raise InputError(path, f"{place}: {name}", "is 0, which htsim reserves for no trigger", "count from 1")
    return options, given_flags


def _start_ps(path: Path, field: str, text: str) -> int:
    """htsim reads a start as a decimal number of picoseconds."""
    if not _START.fullmatch(text) or Decimal(text) >= MOST or Decimal(text) != int(Decimal(text)):
        problem = f"is not a whole number of picoseconds ({text!r:.40})"
        raise InputError(path, field, problem, "write picoseconds, from 0 to below 2**62")
    return int(Decimal(text))


def _connection(path: Path, number: int, src: int, dst: int, options: Mapping[str, int]) -> Connection:
    place = f"line {number}"
    if src == dst:
        raise InputError(path, f"{place}: dst", f"is the sender itself ({dst})", "name another node")
    if not options.get("size"):
        problem = "is 0: the flow would never end" if "size" in options else "is missing"
        raise InputError(path, f"{place}: size", problem, "write size and the number of bytes")
    if ("start" in options) == ("trigger" in options):
        problem = "there are both start and trigger" if "start" in options else "there is neither start nor trigger"
        raise InputError(path, place, problem, "write one of them")
    named = (options.get(name) for name in ("start", "trigger", "send_done_trigger", "recv_done_trigger"))
    return Connection(number, src, dst, options["size"], *named, priority="prio" in options)


def _trigger(path: Path, number: int, words: Sequence[str]) -> tuple[int, Trigger]:
    place = f"line {number}"
    options, kinds = _options(path, place, words, _TRIGGER, _TRIGGER_KINDS)
    if "id" not in options:
        raise InputError(path, f"{place}: id", "is missing", "write id and a number from 1")
    if len(kinds) != 1:
        problem = f"is {' and '.join(kinds) or 'of no kind'}"
        raise InputError(path, place, problem, "write one of oneshot, multishot, barrier")
    if kinds[0] == "barrier" and not options.get("count"):
        raise InputError(path, f"{place}: count", "is missing or 0", "write how often the barrier must be fired")
    return options["id"], Trigger(number, kinds[0], options.get("count", 1))


def _check(matrix: Matrix, counts: Mapping[str, int]) -> None:
    """Counts of the header against the lines, and nodes and triggers against those that exist."""
    path = matrix.path
    if not matrix.nodes:
        raise InputError(path, "Nodes", "is missing or 0", "write the line Nodes and their number first")
    if not matrix.connections:
        raise InputError(path, "file", "lists no connections", "add a line src->dst for each")
    for name, actual in (("Connections", len(matrix.connections)), ("Triggers", len(matrix.triggers)), ("Failures", 0)):
        if counts.get(name, 0) != actual:
            problem = f"announces {counts.get(name, 0)}, the file has {actual}"
            raise InputError(path, name, problem, "correct the number, or complete the file if it is cut off")
    for connection in matrix.connections:
        place = f"line {connection.line}"
        for field, node in (("src", connection.src), ("dst", connection.dst)):
            if node >= matrix.nodes:
                problem = f"is not a node ({node}, of {matrix.nodes})"
                raise InputError(path, f"{place}: {field}", problem, f"write 0 to {matrix.nodes - 1}, or raise Nodes")
        triggers = (
            ("trigger", connection.trigger),
            ("send_done_trigger", connection.sent),
            ("recv_done_trigger", connection.received),
        )
        for field, trigger in triggers:
            if trigger is not None and trigger not in matrix.triggers:
                problem = f"no trigger has the id {trigger}"
                raise InputError(path, f"{place}: {field}", problem, f"add a line trigger id {trigger}")
