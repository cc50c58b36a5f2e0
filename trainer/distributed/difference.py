"""What differs between ranks, in one line: the names, the values, and which ranks have which."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, NamedTuple, Self

MOST_NAMES = 3
"""Differing values that a line tells; of more it tells the number."""
MOST_GROUPS = 8
"""Groups of equal ranks that are asked for their values."""
MOST_CHARACTERS = 80
"""Of one value."""


class Origin(NamedTuple):
    """Node and host of a rank, and whether it is the first rank of its node."""

    node: int
    host: str
    leads: bool


@dataclass(frozen=True)
class Report:
    """A rank's message to rank 0: digests by subject (None: as the first rank of its node), and any objection."""

    origin: Origin
    digests: Mapping[str, str | None]
    objection: str | None = None

    def to_json(self) -> str:
        """The report as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The report that a text holds."""
        held = json.loads(text)
        return cls(Origin(*held["origin"]), held["digests"], held["objection"])


def differing(reports: Mapping[int, Report], subjects: Collection[str]) -> dict[str, list[list[int]]]:
    """By subject in which not all ranks are equal, groups of equal ranks; the first of a group knows the values."""
    groups = {}
    for name in subjects:
        leaders = {report.origin.node: report.digests.get(name) for report in reports.values() if report.origin.leads}
        ranks_by_digest: dict[str, list[int]] = {}
        for rank, report in sorted(reports.items()):
            digest = report.digests.get(name) or leaders.get(report.origin.node)
            if digest is not None:
                ranks_by_digest.setdefault(digest, []).append(rank)
        if len(ranks_by_digest) > 1:
            groups[name] = [
                sorted(ranks, key=lambda rank: (reports[rank].digests.get(name) is None, rank))
                for ranks in ranks_by_digest.values()
            ][:MOST_GROUPS]
    return groups


def disagreement(
    reports: Mapping[int, Report],
    groups: Mapping[str, Sequence[Sequence[int]]] | None = None,
    values: Mapping[int, Mapping[str, Mapping[str, Any]]] | None = None,
    remedies: Mapping[str, str] | None = None,
) -> str:
    """Why a start is refused: the differences, or else the objections of ranks.

    `values` are those of the differing subjects, of the first rank of each group.
    """
    groups, values, remedies = groups or {}, values or {}, remedies or {}
    told, more = [], 0
    for name, found in groups.items():
        by_rank = {ranks[0]: values[ranks[0]][name] for ranks in found}
        names = sorted({key for held in by_rank.values() for key in held})
        unequal = [key for key in names if len({_text(held, key) for held in by_rank.values()}) > 1]
        more += len(unequal)
        for key in unequal[: MOST_NAMES - len(told)]:
            ranks_by_text: dict[str, list[int]] = {}
            for ranks in found:
                ranks_by_text.setdefault(_text(by_rank[ranks[0]], key), []).extend(ranks)
            parts = [f"{text} on {_place(reports, ranks)}" for text, ranks in ranks_by_text.items()]
            told.append(f"{key} is {', '.join(parts[:-1])} and {parts[-1]}")
    if told:
        rest = f", and {more - len(told)} more differ" if more > len(told) else ""
        return f"{', '.join(told)}{rest}; {remedies[next(iter(groups))]}"
    objections: dict[str, list[int]] = {}
    for rank, report in sorted(reports.items()):
        if report.objection is not None:
            objections.setdefault(report.objection, []).append(rank)
    problem, ranks = next(iter(objections.items()))
    return f"{_place(reports, ranks)}: {problem}"


def missing(ranks: Collection[int], ranks_per_node: int) -> str:
    """Names ranks of which nothing is known but their numbers, and their nodes."""
    nodes = {rank // ranks_per_node for rank in ranks}
    return f"{_numbered('rank', ranks)} ({_numbered('node', nodes)})"


def node_place(node: int, host: str, ranks: Collection[int]) -> str:
    """Names a node by its number, its machine and its ranks."""
    return f"node {node} ({host}, {_numbered('rank', ranks)})"


def _place(reports: Mapping[int, Report], ranks: Collection[int]) -> str:
    """Names ranks by their nodes where they are all ranks of these, as far as these have reported."""
    nodes = {reports[rank].origin.node for rank in ranks}
    if len(ranks) < sum(report.origin.node in nodes for report in reports.values()):
        return f"{_numbered('rank', ranks)} ({_numbered('node', nodes)})"
    if len(nodes) == 1:
        origin = reports[next(iter(ranks))].origin
        return node_place(origin.node, origin.host, ranks)
    return f"{_numbered('node', nodes)} ({_numbered('rank', ranks)})"


def _numbered(noun: str, numbers: Collection[int]) -> str:
    """``ranks 0-3, 6``: numbers as runs of consecutive ones."""
    runs = []
    for _, run in groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0]):
        first, *rest = [number for _, number in run]
        runs.append(f"{first}-{rest[-1]}" if rest else str(first))
    return f"{noun}{'s' * (len(numbers) > 1)} {', '.join(runs)}"


def _text(held: Mapping[str, Any], key: str) -> str:
    if key not in held:
        return "not given"
    value = held[key]
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."
