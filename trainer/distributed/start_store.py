"""The store through which ranks compare their starts, and the differences that it shows."""

import json
import os
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple, Self

import torch.distributed as dist

from trainer.distributed.groups import Launch, early_store
from trainer.distributed.process.exit_status import RanksMissing, StartRefused
from trainer.distributed.process.signals import STAGE

MOST_NAMES = 3
"""Differing values that a line lists; if there are more, it says how many."""
MOST_GROUPS = 8
"""Groups of equal ranks that are asked for their values."""
MOST_CHARACTERS = 80
"""Most characters of a value in a message."""


class Origin(NamedTuple):
    """Node and host of a rank, and whether it is the first rank of its node."""

    node: int
    host: str
    leads: bool


@dataclass(frozen=True)
class Report:
    """A rank's message to rank 0: digests by subject (None if unknown to this rank), and its objection, if any."""

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
    """Returns groups of equal ranks by subject in which ranks differ; the first rank of a group knows the values."""
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
    """Returns why a start is refused: the differences between ranks, or else their objections.

    `values` are those of the differing subjects, by the first rank of each group and by subject.
    """
    groups, values, remedies = groups or {}, values or {}, remedies or {}
    listed, more = [], 0
    for name, members in groups.items():
        by_rank = {ranks[0]: values[ranks[0]][name] for ranks in members}
        names = sorted({key for held in by_rank.values() for key in held})
        unequal = [key for key in names if len({_text(held, key) for held in by_rank.values()}) > 1]
        more += len(unequal)
        for key in unequal[: MOST_NAMES - len(listed)]:
            ranks_by_text: dict[str, list[int]] = {}
            for ranks in members:
                ranks_by_text.setdefault(_text(by_rank[ranks[0]], key), []).extend(ranks)
            parts = [f"{text} on {_place(reports, ranks)}" for text, ranks in ranks_by_text.items()]
            listed.append(f"{key} is {', '.join(parts[:-1])} and {parts[-1]}")
    if listed:
        rest = f", and {more - len(listed)} more differ" if more > len(listed) else ""
        return f"{', '.join(listed)}{rest}; {remedies[next(iter(groups))]}"
    objections: dict[str, list[int]] = {}
    for rank, report in sorted(reports.items()):
        if report.objection is not None:
            objections.setdefault(report.objection, []).append(rank)
    problem, ranks = next(iter(objections.items()))
    return f"{_place(reports, ranks)}: {problem}"


def missing(ranks: Collection[int], ranks_per_node: int) -> str:
    """Names missing ranks and their nodes by number, since they have sent nothing else."""
    nodes = {rank // ranks_per_node for rank in ranks}
    return f"{_numbered('rank', ranks)} ({_numbered('node', nodes)})"


def node_place(node: int, host: str, ranks: Collection[int]) -> str:
    """Names a node by its number, its machine and its ranks."""
    return f"node {node} ({host}, {_numbered('rank', ranks)})"


def _place(reports: Mapping[int, Report], ranks: Collection[int]) -> str:
    """Names ranks by their nodes if they are all reported ranks of these nodes, or else by their numbers."""
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


ARRIVAL_S = 60.0
"""A rank waits so long for another that says nothing."""
LINGER_S = 10.0
"""Rank 0, with which the store may end, waits so long for the other nodes to hear why they are refused."""
PAUSE_S, MOST_PAUSE_S = 0.02, 0.25
"""First and longest interval between two reads of the store."""
SILENT = "rank 0 does not answer; look at what node 0 wrote, and start all nodes again"
REFUSAL, HEARD = "start/refusal", "start/heard"
"""Why the start is refused, the same for all stages of it; how many nodes besides that of rank 0 have read it."""


class StartStore:
    """The store as one rank sees it, and which rank that is.

    `prefix` begins the keys of this stage of the run. `agreed`: all ranks have been compared, and later errors are not
    sent to the other ranks.
    """

    def __init__(self, launch: Launch, connect: Callable[[], dist.Store] | None = None) -> None:
        self.launch = launch
        self.node = int(os.environ.get("GROUP_RANK", launch.rank // launch.local_world_size))
        self.nodes = int(os.environ.get("GROUP_WORLD_SIZE", launch.world_size // launch.local_world_size))
        self.prefix = f"start/{os.environ.get(STAGE, '')}"
        self.agreed = False
        self._connect = connect or partial(early_store, launch, timedelta(seconds=ARRIVAL_S))
        self._store: dist.Store | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the first rank of its node, which looks at the files of the node."""
        return self.launch.local_rank == 0

    @property
    def place(self) -> str:
        """Names its node for a person."""
        first = self.launch.rank - self.launch.local_rank
        return node_place(self.node, socket.gethostname(), range(first, first + self.launch.local_world_size))

    @property
    def store(self) -> dist.Store:
        """The store, kept until the end since rank 0 may serve it; raises RanksMissing if rank 0 cannot be reached."""
        if self._store is None:
            try:
                self._store = self._connect()
            except dist.DistNetworkError as error:
                place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
                problem = f"rank 0 cannot be reached at {place} within {ARRIVAL_S:g} s"
                raise RanksMissing(f"{problem}; look at what node 0 wrote, and start all nodes again") from error
        return self._store

    def reconnect(self) -> None:
        """Drops a store that has ended, such as that of the previous stage; the next access opens a new connection."""
        self._store = None

    def seen(self, key: str) -> bytes | None:
        """Returns the present value of a key; None if it has none."""
        return self.store.get(key) if self.store.check([key]) else None

    def read(self, key: str, until: float) -> bytes:
        """Waits for another rank to write a key, until `until` (seconds of the monotonic clock), and returns the value.

        The key is polled, since the store's own wait prints a warning when it times out.

        Raises:
            StartRefused: the start has been refused meanwhile.
            RanksMissing: nothing has been written by that time.
        """
        pause_s = PAUSE_S
        while (content := self.seen(key)) is None:
            refusal = self.seen(REFUSAL)
            if refusal is not None:
                self._hear()
                raise StartRefused(refusal.decode())
            if time.monotonic() > until:
                raise RanksMissing(SILENT)
            time.sleep(pause_s)
            pause_s = min(MOST_PAUSE_S, 1.5 * pause_s)
        if key == REFUSAL:
            self._hear()
        return content

    def refuse(self, line: str) -> None:
        """Sends all ranks the refusal, and waits up to `LINGER_S` until each other node has read it; rank 0 alone."""
        self.store.set(REFUSAL, line)
        until = time.monotonic() + LINGER_S
        while self.store.add(HEARD, 0) < self.nodes - 1 and time.monotonic() < until:
            time.sleep(PAUSE_S)

    def _hear(self) -> None:
        if self.leads and self.node > 0:
            self.store.add(HEARD, 1)
