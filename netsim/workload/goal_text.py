"""The text of a GOAL schedule: operations of each rank (send, receive, compute) and their dependencies.

The grammar is that of LogGOPSim's converter (Hoefler et al.: LogGOPSim, HPDC 2010; spcl/LogGOPSim, txt2bin.re), which
ATLAHS writes too. Here operations may also be separated by semicolons, and a label may stand before what it names.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from netsim.foundation.lines import MOST, read_lines, whole_number
from netsim.foundation.refusal import Refusal
from netsim.workload.records import MOST_RANKS

Kind = Literal["send", "recv", "calc"]

_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_MARKS = re.compile(r"([{}:;])")
_ANY = "-1"
_OPERATIONS: dict[str, Kind] = {"send": "send", "recv": "recv", "calc": "calc"}
_TOWARDS = {"send": "to", "recv": "from"}
_REMEDY = "write the schedule again, or complete it"


class Operation(NamedTuple):
    """An operation of a rank: `amount` is bytes of a message, nanoseconds of a computation, whose peer is -1."""

    line: int
    kind: Kind
    amount: int
    peer: int
    tag: int


class Dependency(NamedTuple):
    """A line ``later requires earlier`` or, with `start`, ``irequires``; operations by their place in their rank."""

    later: int
    earlier: int
    start: bool


class RankSchedule(NamedTuple):
    operations: list[Operation]
    dependencies: list[Dependency]


class Goal(NamedTuple):
    """A schedule by rank; ranks that the file does not name have an empty one."""

    path: Path
    ranks: Sequence[RankSchedule]


class _Statement(NamedTuple):
    """Words between two separators, and the separator behind them."""

    line: int
    words: list[str]
    end: str


def read_goal(path: Path) -> Goal:
    """Reads and checks a schedule."""
    lines = read_lines(path, "a schedule in GOAL")
    reader = _Reader(path)
    for statement in _statements(path, lines):
        reader.read(statement)
    return reader.finish(len(lines))


def _statements(path: Path, lines: Sequence[str]) -> Iterator[_Statement]:
    """Statements without their comments; a line, a semicolon or a brace ends one."""
    comment_from = 0
    for number, line in enumerate(lines, start=1):
        text, comment_from = _without_comments(line, number, comment_from)
        words: list[str] = []
        for word in _MARKS.sub(r" \1 ", text).split():
            if word in ("{", "}", ";"):
                yield _Statement(number, words, word)
                words = []
            else:
                words.append(word)
        yield _Statement(number, words, ";")
    if comment_from:
        raise Refusal(path, f"line {comment_from}", "begins a comment that never ends", "close it with */")


def _without_comments(line: str, number: int, comment_from: int) -> tuple[str, int]:
    """A line without its comments, and the line at which a comment that goes on began, or 0."""
    kept: list[str] = []
    while line:
        if comment_from:
            _, end, line = line.partition("*/")
            if not end:
                break
            comment_from = 0
            kept.append(" ")
            continue
        places = [place for place in (line.find("//"), line.find("/*")) if place >= 0]
        if not places:
            kept.append(line)
            break
        kept.append(line[: min(places)])
        if line.startswith("//", min(places)):
            break
        line, comment_from = line[min(places) + 2 :], number
    return "".join(kept), comment_from


class _Reader:
    """Builds a schedule from statements, one after the other."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ranks: list[RankSchedule] = []
        self._named: set[int] = set()
        self._rank: int | None = None
        self._opened = 0
        self._labels: dict[str, int] = {}
        self._unresolved: list[tuple[int, str, str, bool]] = []

    def read(self, statement: _Statement) -> None:
        """Adds a statement to the schedule."""
        line, words, end = statement
        if end == "{":
            self._open(line, words)
            return
        if words and self._rank is None:
            self._head(line, words)
        elif words:
            self._inside(line, words)
        if end == "}":
            self._close(line)

    def finish(self, lines: int) -> Goal:
        """Returns the whole schedule; `lines` is the number of lines of the file."""
        if self._rank is not None:
            problem = f"rank {self._rank}, opened in line {self._opened}, is not closed"
            raise Refusal(self._path, f"line {lines}", problem, "add }, or complete the file if it is cut off")
        if not any(schedule.operations for schedule in self._ranks):
            raise Refusal(self._path, "file", "lists no operations", "write num_ranks, then rank 0 { ... }")
        return Goal(self._path, self._ranks)

    def _refuse(self, line: int, problem: str, remedy: str = _REMEDY, field: str = "") -> Refusal:
        return Refusal(self._path, f"line {line}: {field}" if field else f"line {line}", problem, remedy)

    def _number(self, line: int, field: str, text: str, most: int = MOST) -> int:
        value = whole_number(self._path, f"line {line}: {field}", text)
        if value >= most:
            raise self._refuse(line, f"is too large ({value})", f"write at most {most - 1}", field)
        return value

    def _head(self, line: int, words: Sequence[str]) -> None:
        if words[0] != "num_ranks" or len(words) != 2:
            problem = f"is outside of a rank ({' '.join(words)!r:.40})"
            raise self._refuse(line, problem, "write num_ranks N first, then rank 0 { ... }")
        if self._ranks:
            raise self._refuse(line, "occurs twice", "write it once", "num_ranks")
        count = self._number(line, "num_ranks", words[1], MOST_RANKS + 1)
        if not count:
            raise self._refuse(line, "is 0", "write how many ranks there are", "num_ranks")
        self._ranks = [RankSchedule([], []) for _ in range(count)]

    def _open(self, line: int, words: Sequence[str]) -> None:
        if self._rank is not None or len(words) != 2 or words[0] != "rank":
            raise self._refuse(line, "has a { that opens no rank", "write rank N { and close it with }")
        if not self._ranks:
            raise self._refuse(line, "stands before num_ranks", "write num_ranks N first", "rank")
        rank = self._number(line, "rank", words[1])
        if rank >= len(self._ranks):
            problem = f"is not a rank ({rank}, of {len(self._ranks)})"
            raise self._refuse(line, problem, f"write 0 to {len(self._ranks) - 1}, or raise num_ranks", "rank")
        if rank in self._named:
            raise self._refuse(line, f"occurs twice ({rank})", "write each rank once", "rank")
        self._named.add(rank)
        self._rank, self._opened, self._labels, self._unresolved = rank, line, {}, []

    def _close(self, line: int) -> None:
        if self._rank is None:
            raise self._refuse(line, "has a } that closes no rank", "remove it, or write rank N { before")
        dependencies = self._ranks[self._rank].dependencies
        for number, later, earlier, start in self._unresolved:
            for label in (later, earlier):
                if label not in self._labels:
                    remedy = "label an operation of the same rank so"
                    raise self._refuse(number, f"names no operation of rank {self._rank} ({label!r:.40})", remedy)
            dependencies.append(Dependency(self._labels[later], self._labels[earlier], start))
        self._rank = None

    def _inside(self, line: int, words: list[str]) -> None:
        """Adds an operation or a dependency to the rank that is open."""
        rank = self._rank
        assert rank is not None
        if len(words) == 3 and words[1] in ("requires", "irequires"):
            self._unresolved.append((line, words[0], words[2], words[1] == "irequires"))
            return
        label = ""
        if len(words) > 1 and words[1] == ":":
            label, words = words[0], words[2:]
            if not _LABEL.fullmatch(label):
                raise self._refuse(line, f"is not a label ({label!r:.40})", "write a letter, then letters and digits")
            if label in self._labels:
                raise self._refuse(line, f"occurs twice in rank {rank} ({label!r:.40})", "give each its own", "label")
        operations = self._ranks[rank].operations
        if label:
            self._labels[label] = len(operations)
        operations.append(self._operation(line, words))

    def _operation(self, line: int, words: list[str]) -> Operation:
        kind = _OPERATIONS.get(words[0]) if words else None
        if kind is None:
            problem = f"is no operation ({' '.join(words)!r:.40})"
            remedy = "write send Nb to R, recv Nb from R, calc N, or A requires B"
            raise self._refuse(line, problem, remedy)
        if kind == "calc":
            if len(words) < 2:
                raise self._refuse(line, "has no duration", "write calc and nanoseconds", "calc")
            self._options(line, words[2:], ("cpu", "nic"))
            return Operation(line, kind, self._number(line, "calc", words[1], MOST // 1000), -1, 0)
        if len(words) > 2 and words[2] == "b":
            words = [kind, f"{words[1]}b", *words[3:]]
        if len(words) < 4 or not words[1].endswith("b") or words[2] != _TOWARDS[kind]:
            raise self._refuse(line, "is cut off or malformed", f"write {kind} Nb {_TOWARDS[kind]} R tag T", kind)
        size_bytes = self._number(line, f"{kind} bytes", words[1][:-1])
        options = self._options(line, words[4:], ("tag", "cpu", "nic"))
        return Operation(line, kind, size_bytes, self._peer(line, words[2], words[3]), options.get("tag", 0))

    def _peer(self, line: int, field: str, text: str) -> int:
        if text == _ANY and field == "from":
            raise self._refuse(line, "is any rank (-1), which only a run could settle", "name the rank", field)
        peer = self._number(line, field, text)
        if peer >= len(self._ranks):
            remedy = f"write 0 to {len(self._ranks) - 1}"
            raise self._refuse(line, f"is not a rank ({peer}, of {len(self._ranks)})", remedy, field)
        if peer == self._rank:
            raise self._refuse(line, f"is the rank itself ({peer})", "name another rank, or write a calc", field)
        return peer

    def _options(self, line: int, words: Sequence[str], known: Sequence[str]) -> Mapping[str, int]:
        options: dict[str, int] = {}
        for name, value in zip(words[::2], [*words[1::2], ""], strict=False):
            if name not in known:
                raise self._refuse(line, f"has an unknown word ({name!r:.40})", f"use {', '.join(known)}")
            if name in options or not value:
                problem = "occurs twice" if name in options else "has no value"
                raise self._refuse(line, problem, "write it once, with a number behind it", name)
            if value == _ANY and name == "tag":
                raise self._refuse(line, "is any tag (-1), which only a run could settle", "name the tag", name)
            options[name] = self._number(line, name, value)
        return options
