"""The text of an htsim connection matrix: nodes, connections and the triggers between them."""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from netsim.foundation.lines import MOST, read_lines, whole_number
from netsim.foundation.refusal import Refusal

_ARROW = re.compile(r"(.*?)->(.*)")
_START = re.compile(r"[0-9]{1,19}(\.[0-9]{0,20})?([eE]\+?[0-9]{1,2})?")
_COUNTS = ("Nodes", "Connections", "Triggers", "Failures")
_CONNECTION = {"id", "msg", "start", "size", "trigger", "send_done_trigger", "recv_done_trigger", "prio"}
_FAILURE = ("switch_type", "switch_id", "link_id")
_TRIGGER = {"id", "count"}
_TRIGGER_KINDS = {"oneshot", "multishot", "barrier"}


_UNNUMBERED = -1
"""Number of a message that has none."""


class _Identity(NamedTuple):
    """A connection by its id: its ends, whether its first line is a message, and the numbers of its messages."""

    ends: tuple[int, int]
    carries_messages: bool
    numbers: set[int | None]


class Connection(NamedTuple):
    """A line ``src->dst``. Either `start_ps` or the trigger that starts it is None.

    It fires `sent` when all its bytes are acknowledged, `received` when they have arrived. `message`: it is one of
    several messages of a connection, which share an id.
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
    message: bool


class Trigger(NamedTuple):
    """A line ``trigger``. Fired once, a oneshot starts all its connections; a multishot starts one more each time.

    A barrier starts all of them when it has been fired `count` times.
    """

    line: int
    kind: str
    count: int


class Matrix(NamedTuple):
    """A connection matrix, connections in the order of the file, triggers by id."""

    path: Path
    nodes: int
    connections: Sequence[Connection]
    triggers: Mapping[int, Trigger]


def read_matrix(path: Path) -> Matrix:
    """Reads a connection matrix as htsim's ``ConnectionMatrix::load`` does, with picoseconds kept exactly."""
    counts: dict[str, int] = {}
    connections: list[Connection] = []
    triggers: dict[int, Trigger] = {}
    ids: dict[int, _Identity] = {}
    for number, line in enumerate(read_lines(path, "a connection matrix of htsim"), start=1):
        words, place = line.split(), f"line {number}"
        if not words or words[0].startswith("#"):
            continue
        if words[0] in _COUNTS:
            if len(words) != 2 or words[0] in counts:
                raise Refusal(
                    path, place, f"is not a header line ({line!r:.40})", f"write {words[0]} once, then a number"
                )
            counts[words[0]] = whole_number(path, f"{place}: {words[0]}", words[1])
        elif match := _ARROW.fullmatch(words[0]):
            options, _ = _options(path, place, words[1:], _CONNECTION, {"addon"})
            src = whole_number(path, f"{place}: src", match[1])
            dst = whole_number(path, f"{place}: dst", match[2])
            _identify(path, place, (src, dst), options, ids)
            connections.append(_connection(path, number, src, dst, options))
        elif words[0] == "trigger":
            identity, trigger = _trigger(path, number, words[1:])
            if identity in triggers:
                raise Refusal(path, f"{place}: id", f"occurs twice ({identity})", "give each trigger its own")
            triggers[identity] = trigger
        elif words[0] == "failure":
            raise _failure(path, place, words[1:])
        else:
            problem = f"starts with an unknown word ({words[0]!r:.40})"
            raise Refusal(path, place, problem, f"write {', '.join(_COUNTS)}, src->dst or trigger")
    matrix = Matrix(path, counts.get("Nodes", 0), connections, triggers)
    _check(matrix, counts)
    return matrix


def _options(
    path: Path, place: str, words: Sequence[str], valued: set[str], flags: set[str]
) -> tuple[dict[str, int], list[str]]:
    """Reads the words of a line: numbers by name, and the flags among them."""
    options: dict[str, int] = {}
    given_flags: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        if word in options or word in given_flags:
            raise Refusal(path, f"{place}: {word}", "occurs twice", "remove one")
        if word in flags:
            given_flags.append(word)
            position += 1
        elif word == "msg" and not "".join(words[position + 1 : position + 2]).isdecimal():
            options[word] = _UNNUMBERED
            position += 1
        elif word in valued:
            if position + 1 == len(words):
                raise Refusal(
                    path, f"{place}: {word}", "has no value, or the file is cut off", "write a number behind it"
                )
            read = _start_ps if word == "start" else whole_number
            options[word] = read(path, f"{place}: {word}", words[position + 1])
            position += 2
        else:
            remedy = f"use {', '.join(sorted(valued | flags))}"
            raise Refusal(path, place, f"has an unknown word ({word!r:.40})", remedy)
    for name in ("id", "msg", "trigger", "send_done_trigger", "recv_done_trigger"):
        if options.get(name) == 0:
            raise Refusal(path, f"{place}: {name}", f"is 0, which htsim takes as no {name}", "count from 1")
    return options, given_flags


def _identify(
    path: Path, place: str, ends: tuple[int, int], options: Mapping[str, int], ids: dict[int, _Identity]
) -> None:
    """Notes the id of a connection, and refuses a repeated id unless each line is a message of one connection."""
    if "id" not in options:
        if "msg" in options:
            raise Refusal(path, f"{place}: msg", "belongs to no connection", "write the id of its connection too")
        return
    identity, message = options["id"], options.get("msg")
    numbers = {message} - {None, _UNNUMBERED}
    if identity not in ids:
        ids[identity] = _Identity(ends, message is not None, numbers)
        return
    first = ids[identity]
    remedy = "give each connection its own, and write msg at each message of one connection"
    if not first.carries_messages or message is None:
        raise Refusal(path, f"{place}: id", f"occurs twice ({identity})", remedy)
    if first.ends != ends:
        problem = f"{identity} is already that of {first.ends[0]}->{first.ends[1]}"
        raise Refusal(path, f"{place}: id", problem, remedy)
    if numbers & first.numbers:
        raise Refusal(path, f"{place}: msg", f"{message} occurs twice in connection {identity}", remedy)
    first.numbers.update(numbers)


def _failure(path: Path, place: str, words: Sequence[str]) -> Refusal:
    """The refusal of a line ``failure``, with the remedy: a workload cannot make links fail."""
    given = dict(zip(words[::2], words[1::2], strict=False))
    if len(words) != 2 * len(_FAILURE) or set(given) != set(_FAILURE):
        return Refusal(path, place, "is not a failure", f"write {', '.join(_FAILURE)} with a value behind each")
    if given["switch_type"] not in ("TOR", "AGG", "CORE"):
        problem = f"is not a tier of switches ({given['switch_type']!r:.40})"
        return Refusal(path, f"{place}: switch_type", problem, "write TOR, AGG or CORE")
    numbers = [whole_number(path, f"{place}: {name}", given[name]) for name in ("switch_id", "link_id")]
    problem = f"fails link {numbers[1]} up of {given['switch_type']} switch {numbers[0]}, which a workload cannot do"
    remedy = "delete the line and Failures, and name the link under topology.failures"
    return Refusal(path, place, problem, remedy)


def _start_ps(path: Path, field: str, text: str) -> int:
    """Reads a start, for htsim a decimal number of picoseconds, as an integer."""
    if not _START.fullmatch(text) or Decimal(text) >= MOST or Decimal(text) != int(Decimal(text)):
        problem = f"is not a whole number of picoseconds ({text!r:.40})"
        raise Refusal(path, field, problem, "write picoseconds, from 0 to below 2**62")
    return int(Decimal(text))


def _connection(path: Path, number: int, src: int, dst: int, options: Mapping[str, int]) -> Connection:
    place = f"line {number}"
    if src == dst:
        raise Refusal(path, f"{place}: dst", f"is the sender itself ({dst})", "name another node")
    if not options.get("size"):
        problem = "is 0: the flow would never end" if "size" in options else "is missing"
        raise Refusal(path, f"{place}: size", problem, "write size and the number of bytes")
    if ("start" in options) == ("trigger" in options):
        problem = "there are both start and trigger" if "start" in options else "there is neither start nor trigger"
        raise Refusal(path, place, problem, "write one of them")
    named = (options.get(name) for name in ("start", "trigger", "send_done_trigger", "recv_done_trigger"))
    start_ps, trigger, sent, received = named
    kind = "prio" in options, "msg" in options
    return Connection(number, src, dst, options["size"], start_ps, trigger, sent, received, *kind)


def _trigger(path: Path, number: int, words: Sequence[str]) -> tuple[int, Trigger]:
    place = f"line {number}"
    options, kinds = _options(path, place, words, _TRIGGER, _TRIGGER_KINDS)
    if "id" not in options:
        raise Refusal(path, f"{place}: id", "is missing", "write id and a number from 1")
    if len(kinds) != 1:
        problem = f"is {' and '.join(kinds) or 'of no kind'}"
        raise Refusal(path, place, problem, "write one of oneshot, multishot, barrier")
    if kinds[0] == "barrier" and not options.get("count"):
        raise Refusal(path, f"{place}: count", "is missing or 0", "write how often the barrier must be fired")
    return options["id"], Trigger(number, kinds[0], options.get("count", 1))


def _check(matrix: Matrix, counts: Mapping[str, int]) -> None:
    """Refuses counts of the header that differ from the lines, and nodes and triggers that do not exist."""
    path = matrix.path
    if not matrix.nodes:
        raise Refusal(path, "Nodes", "is missing or 0", "write the line Nodes and their number first")
    if not matrix.connections:
        raise Refusal(path, "file", "lists no connections", "add a line src->dst for each")
    for name, actual in (("Connections", len(matrix.connections)), ("Triggers", len(matrix.triggers)), ("Failures", 0)):
        if counts.get(name, 0) != actual:
            problem = f"announces {counts.get(name, 0)}, the file has {actual}"
            raise Refusal(path, name, problem, "correct the number, or complete the file if it is cut off")
    for connection in matrix.connections:
        place = f"line {connection.line}"
        for field, node in (("src", connection.src), ("dst", connection.dst)):
            if node >= matrix.nodes:
                problem = f"is not a node ({node}, of {matrix.nodes})"
                raise Refusal(path, f"{place}: {field}", problem, f"write 0 to {matrix.nodes - 1}, or raise Nodes")
        triggers = (
            ("trigger", connection.trigger),
            ("send_done_trigger", connection.sent),
            ("recv_done_trigger", connection.received),
        )
        for field, trigger in triggers:
            if trigger is not None and trigger not in matrix.triggers:
                problem = f"no trigger has the id {trigger}"
                raise Refusal(path, f"{place}: {field}", problem, f"add a line trigger id {trigger}")
