"""Whether the ranks of a run were started alike: compared through the launcher's store, before there are any groups.

Every rank reports a digest of each subject. Rank 0 reads them; where some differ it asks one rank of each group of equal
ones for the values. So W ranks write W small records, however much they differ, and each reads one answer.
"""

import hashlib
import json
import os
import socket
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist

from trainer.distributed.difference import Origin, Report, differing, disagreement, missing, node_place
from trainer.distributed.groups import Launch, early_store
from trainer.distributed.process.launcher import STAGE
from trainer.distributed.refusal import RanksMissing, StartRefused, located

ARRIVAL_S = 60.0
"""Rank 0 waits so long after the last rank has come."""
REMINDER_S = 15.0
"""Between two lines that say for whom rank 0 waits."""
LINGER_S = 10.0
"""Rank 0, with which the store may end, waits so long for the other nodes to hear why they are refused."""
PAUSE_S = 0.02
SLICE_S = 2.0
"""Waiting ranks look so often whether the start has been refused meanwhile."""
SILENT = "rank 0 does not answer; look at what node 0 wrote, and start all nodes again"


class Subject(NamedTuple):
    """Something in which all ranks must be equal.

    Attributes:
        values: by name, such as the settings by dotted key; JSON can hold them. None: this rank does not know, and is
            as the first rank of its node.
        remedy: what a person can do where they differ.
    """

    values: Mapping[str, Any] | None
    remedy: str


class Consistency:
    """What one rank says to the others before the first step, and is told.

    Attributes:
        launch: what the launcher said.
        node: number of its node.
        nodes: how many there are.
        agreed: whether the last comparison is behind it; what goes wrong later concerns no other rank.
        prefix: of keys of the store, for this stage of the run.
    """

    def __init__(self, launch: Launch, connect: Callable[[], dist.Store] | None = None) -> None:
        """Connects to nothing yet.

        Args:
            launch: what the launcher said.
            connect: opens the store of the ranks; None: the launcher's.
        """
        self.launch = launch
        self.node = int(os.environ.get("GROUP_RANK", launch.rank // launch.local_world_size))
        self.nodes = int(os.environ.get("GROUP_WORLD_SIZE", launch.world_size // launch.local_world_size))
        self.agreed = False
        self._connect = connect or partial(early_store, launch, timedelta(seconds=ARRIVAL_S))
        self._store: dist.Store | None = None
        self.prefix = f"consistency/{os.environ.get(STAGE, '')}"

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
        """The store of the ranks; kept until the end, for rank 0 may serve it.

        Raises:
            RanksMissing: rank 0 cannot be reached.
        """
        if self._store is None:
            try:
                self._store = self._connect()
            except dist.DistNetworkError as error:
                place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
                problem = f"rank 0 cannot be reached at {place} within {ARRIVAL_S:g} s"
                raise RanksMissing(f"{problem}; look at what node 0 wrote, and start all nodes again") from error
        return self._store

    def compare(
        self,
        topic: str,
        subjects: Mapping[str, Subject],
        *,
        objection: str | None = None,
        patience_s: float = ARRIVAL_S,
    ) -> None:
        """Refuses the start on every rank where two ranks differ or one objects; collective.

        Args:
            topic: names this comparison, the same on every rank.
            subjects: by name, the same on every rank, in the order in which differences are told.
            objection: why this rank cannot go on, if it cannot.
            patience_s: how long rank 0 waits after the last rank has come.

        Raises:
            StartRefused: the same on every rank; names what differs, the values and the ranks.
            RanksMissing: a rank did not come.
        """
        if self.launch.world_size == 1:
            if objection is not None:
                raise StartRefused(objection)
            return
        digests = {name: _digest(subject.values) for name, subject in subjects.items()}
        own = Report(self._origin(), digests, objection)
        key = f"{self.prefix}/{topic}"
        if self.launch.rank == 0:
            self._judge(key, own, subjects, patience_s)
        else:
            self._answer(key, own, subjects, patience_s)

    def object(self, problem: str) -> str:
        """Tells the other ranks, wherever they are in the start, why this one cannot go on.

        Args:
            problem: in one line.

        Returns:
            What all ranks say of it; the problem itself where no other rank has answered in time.
        """
        if self.launch.world_size == 1:
            return problem
        report = Report(self._origin(), {}, problem)
        try:
            if self.launch.rank == 0:
                line = disagreement({0: report})
                self._refuse(line)
                return line
            self.store.set(f"consistency/objection/{self.launch.rank}", report.to_json())
            return self._refusal(time.monotonic() + LINGER_S / 2)
        except (dist.DistError, RanksMissing):
            return problem

    def read(self, key: str, until: float) -> bytes:
        """What another rank writes under a key, once it has.

        Args:
            key: of the store.
            until: when to give up, in seconds of the monotonic clock.

        Raises:
            StartRefused: the start has been refused meanwhile.
            RanksMissing: nothing has been written until then.
        """
        while True:
            try:
                self.store.wait([key], timedelta(seconds=max(PAUSE_S, min(SLICE_S, until - time.monotonic()))))
                return self.store.get(key)
            except dist.DistStoreError:
                if self.store.check(["consistency/refusal"]):
                    raise StartRefused(self._refusal(until)) from None
                if time.monotonic() > until:
                    raise RanksMissing(SILENT) from None

    def _answer(self, key: str, own: Report, subjects: Mapping[str, Subject], patience_s: float) -> None:
        """A rank other than 0 reports, is asked for values if it is one of those that differ, and is told."""
        until = time.monotonic() + 2 * patience_s
        while True:
            try:
                self.store.set(f"{key}/{self.launch.rank}", own.to_json())
                answer = json.loads(self.read(f"{key}/answer", until))
                break
            except dist.DistNetworkError:  # it was the store of a stage that has just ended
                if time.monotonic() > until:
                    raise RanksMissing(SILENT) from None
                self._store = None
                time.sleep(PAUSE_S)
        if "missing" in answer:
            raise RanksMissing(answer["missing"])
        if not answer["differs"]:
            return
        if self.launch.rank in answer["asked"]:
            values = {name: subjects[name].values for name in answer["differs"]}
            self.store.set(f"{key}/values/{self.launch.rank}", _packed(values))
        raise StartRefused(self._refusal(until))

    def _judge(self, key: str, own: Report, subjects: Mapping[str, Subject], patience_s: float) -> None:
        """Rank 0 reads the reports and answers them."""
        reports = {0: own, **self._reports(key, patience_s)}
        groups = differing(reports, subjects)
        if not groups and all(report.objection is None for report in reports.values()):
            self._write(f"{key}/answer", {"differs": []})
            return
        asked = sorted({ranks[0] for found in groups.values() for ranks in found})
        self._write(f"{key}/answer", {"differs": [*groups], "asked": asked})
        values = {0: {name: subject.values for name, subject in subjects.items()}}
        until = time.monotonic() + LINGER_S
        values |= {rank: _unpacked(self.read(f"{key}/values/{rank}", until)) for rank in asked if rank}
        remedies = {name: subject.remedy for name, subject in subjects.items()}
        line = disagreement(reports, groups, values, remedies)
        self._refuse(line)
        raise StartRefused(line)

    def _reports(self, key: str, patience_s: float) -> dict[int, Report]:
        """The reports of the other ranks; those that have come where one objects, for the rest may never come."""
        waiting, reports = set(range(1, self.launch.world_size)), {}
        last = reminded = time.monotonic()
        while waiting:
            came = {rank: text for rank in sorted(waiting) if (text := self._report(key, rank)) is not None}
            reports |= {rank: Report.from_json(text) for rank, text in came.items()}
            waiting -= reports.keys()
            now = time.monotonic()
            last = now if came else last
            if any(report.objection is not None for report in reports.values()) and now > last + SLICE_S / 2:
                break
            if waiting and now > max(reminded, last) + REMINDER_S:
                reminded = now
                print(f"waits for {self._place(waiting)}", file=sys.stderr, flush=True)
            if waiting and now > last + patience_s:
                line = f"did not come within {patience_s:g} s; look at what they wrote, and start all nodes again"
                line = f"{self._place(waiting)} {line}"
                self._write(f"{key}/answer", {"missing": line})
                raise RanksMissing(line)
            time.sleep(PAUSE_S)
        return reports

    def _report(self, key: str, rank: int) -> bytes | None:
        for name in (f"{key}/{rank}", f"consistency/objection/{rank}"):
            if self.store.check([name]):
                return self.store.get(name)
        return None

    def _refuse(self, line: str) -> None:
        """Rank 0 tells all ranks, and stays until each other node has heard it."""
        self.store.set("consistency/refusal", line)
        until = time.monotonic() + LINGER_S
        while self.store.add("consistency/heard", 0) < self.nodes - 1 and time.monotonic() < until:
            time.sleep(PAUSE_S)

    def _refusal(self, until: float) -> str:
        """What rank 0 tells all ranks."""
        left = max(PAUSE_S, until - time.monotonic())
        try:
            self.store.wait(["consistency/refusal"], timedelta(seconds=left))
        except dist.DistStoreError as error:
            raise RanksMissing(SILENT) from error
        line = self.store.get("consistency/refusal").decode()
        if self.leads and self.node > 0:
            self.store.add("consistency/heard", 1)
        return line

    def _write(self, key: str, answer: Mapping[str, Any]) -> None:
        self.store.set(key, json.dumps(answer))

    def _origin(self) -> Origin:
        return Origin(self.node, socket.gethostname(), self.leads)

    def _place(self, ranks: set[int]) -> str:
        return missing(ranks, self.launch.local_world_size)


_here: ContextVar[Consistency | None] = ContextVar("consistency", default=None)


def compare_ranks(topic: str, subjects: Mapping[str, Subject], *, patience_s: float) -> None:
    """The last comparison of a start, inside :func:`consistent_ranks`; elsewhere there is nothing to compare with.

    Args:
        topic: see :meth:`Consistency.compare`.
        subjects: as there.
        patience_s: as there.
    """
    ranks = _here.get()
    if ranks is not None:
        ranks.compare(topic, subjects, patience_s=patience_s)
        ranks.agreed = True


@contextmanager
def consistent_ranks(ranks: Consistency, path: Path) -> Iterator[None]:
    """While entered, wrong input on one rank ends all of them, until the last comparison is behind them.

    Args:
        ranks: this rank.
        path: the configuration.

    Raises:
        StartRefused: in the place of a ValueError from inside.
    """
    token = _here.set(ranks)
    try:
        yield
    except StartRefused:
        raise
    except ValueError as error:
        if ranks.agreed or "TORCHELASTIC_RUN_ID" not in os.environ and ranks.launch.world_size == 1:
            raise
        raise StartRefused(ranks.object(located(error, path))) from error
    finally:
        _here.reset(token)


def _digest(values: Mapping[str, Any] | None) -> str | None:
    if values is None:
        return None
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _packed(values: Mapping[str, Any]) -> bytes:
    return zlib.compress(json.dumps(values, default=str).encode())


def _unpacked(content: bytes) -> dict[str, Any]:
    return json.loads(zlib.decompress(content))
