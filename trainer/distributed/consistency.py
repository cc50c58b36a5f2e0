"""Checks, through the launcher's store, that all ranks of a run were started with equal inputs.

Every rank reports a digest of each subject to rank 0. Where digests differ, rank 0 requests the values from one rank
per group of equal ranks. W ranks thus write W small records, whatever the size of the values, and each reads one
answer.
"""

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from os import environ
from pathlib import Path
from socket import gethostname
from typing import Any, NamedTuple

import torch.distributed as dist

from trainer.distributed.process.exit_status import RanksMissing, StartRefused, located
from trainer.distributed.start_store import (
    ARRIVAL_S,
    LINGER_S,
    MOST_PAUSE_S,
    PAUSE_S,
    REFUSAL,
    SILENT,
    Origin,
    Report,
    StartStore,
    differing,
    disagreement,
    missing,
)

REMINDER_S = 15.0
"""Interval between the messages that name the ranks for which rank 0 waits."""
GRACE_S = 1.0
"""How long rank 0 waits for further objections after the first."""


class Subject(NamedTuple):
    """Values by name, as JSON, that must be equal on all ranks, and the remedy where they differ.

    If `values` is None, this rank does not know them, and counts as equal to the first rank of its node.
    """

    values: Mapping[str, Any] | None
    remedy: str


def compare(
    ranks: StartStore,
    topic: str,
    subjects: Mapping[str, Subject],
    *,
    objection: str | None = None,
    patience_s: float = ARRIVAL_S,
) -> None:
    """Refuses the start on every rank if two ranks differ or one objects; collective.

    Args:
        topic: name of this comparison, the same on every rank.
        subjects: by name, the same names on every rank, in the order in which differences are reported.
        objection: why this rank cannot start; None if it can.
        patience_s: how long rank 0 waits for the next rank after the latest arrival.

    Raises:
        StartRefused: on every rank, with the same message; names what differs, the values and the ranks.
        RanksMissing: a rank did not arrive.
    """
    if ranks.launch.world_size == 1:
        if objection is not None:
            raise StartRefused(objection)
        return
    digests = {name: _digest(subject.values) for name, subject in subjects.items()}
    key, own = f"{ranks.prefix}/{topic}", Report(_origin(ranks), digests, objection)
    if ranks.launch.rank == 0:
        _judge(ranks, key, own, subjects, patience_s)
    else:
        _answer(ranks, key, own, subjects, patience_s)


def told_to_all(ranks: StartStore, problem: str) -> str:
    """Notifies all ranks, whatever step of the start they have reached, why this rank cannot start.

    Returns the line that all ranks print, or the problem itself if rank 0 does not answer in time.
    """
    if ranks.launch.world_size == 1:
        return problem
    report = Report(_origin(ranks), {}, problem)
    try:
        if ranks.launch.rank > 0:
            ranks.store.set(_objection_key(ranks.launch.rank), report.to_json())
            return ranks.read(REFUSAL, time.monotonic() + LINGER_S / 2).decode()
        line = problem if ranks.nodes == 1 else disagreement({0: report})  # names the node only if there are several
        ranks.refuse(line)
        return line
    except (dist.DistError, RanksMissing):
        return problem


_here: ContextVar[StartStore | None] = ContextVar("ranks", default=None)


def compare_for_good(topic: str, subjects: Mapping[str, Subject], *, patience_s: float) -> None:
    """The last comparison of a start; does nothing outside :func:`consistent_ranks`."""
    ranks = _here.get()
    if ranks is not None:
        compare(ranks, topic, subjects, patience_s=patience_s)
        ranks.agreed = True


@contextmanager
def consistent_ranks(ranks: StartStore, path: Path) -> Iterator[None]:
    """While entered, wrong input on one rank ends all ranks, until the last comparison of the start has passed.

    A ValueError from inside becomes a StartRefused, since a launcher might otherwise restart the ranks.
    """
    token = _here.set(ranks)
    try:
        yield
    except StartRefused:
        raise
    except ValueError as error:
        alone = ranks.launch.world_size == 1 and "TORCHELASTIC_RUN_ID" not in environ
        if ranks.agreed or alone:
            raise
        raise StartRefused(told_to_all(ranks, located(error, path))) from error
    finally:
        _here.reset(token)


def _answer(ranks: StartStore, key: str, own: Report, subjects: Mapping[str, Subject], patience_s: float) -> None:
    """Sends rank 0 the report of this rank, and its values if requested; raises the refusal, if any."""
    rank, until = ranks.launch.rank, time.monotonic() + 2 * patience_s
    while True:
        try:
            ranks.store.set(f"{key}/{rank}", own.to_json())
            answer = json.loads(ranks.read(f"{key}/answer", until))
            break
        except dist.DistNetworkError as error:  # the store belonged to a stage that has just ended
            if time.monotonic() > until:
                raise RanksMissing(SILENT) from error
            ranks.reconnect()
            time.sleep(PAUSE_S)
    if "missing" in answer:
        raise RanksMissing(answer["missing"])
    if not answer["refused"]:
        return
    if rank in answer["asked"]:
        values = {name: subjects[name].values for name in answer["differs"]}
        ranks.store.set(f"{key}/values/{rank}", json.dumps(values, default=str))
    raise StartRefused(ranks.read(REFUSAL, until).decode())


def _judge(ranks: StartStore, key: str, own: Report, subjects: Mapping[str, Subject], patience_s: float) -> None:
    """On rank 0, reads the reports, answers them, and raises the refusal, if any."""
    reports = {0: own, **_reports(ranks, key, patience_s)}
    groups = differing(reports, subjects)
    refused = bool(groups) or any(report.objection is not None for report in reports.values())
    examined = sorted({equal[0] for members in groups.values() for equal in members})
    ranks.store.set(f"{key}/answer", json.dumps({"refused": refused, "differs": [*groups], "asked": examined}))
    if not refused:
        return
    values: dict[int, Any] = {0: {name: subject.values for name, subject in subjects.items()}}
    until = time.monotonic() + LINGER_S
    values |= {rank: json.loads(ranks.read(f"{key}/values/{rank}", until)) for rank in examined if rank}
    objection = next((report.objection for _, report in sorted(reports.items()) if report.objection is not None), None)
    if groups or objection is None or ranks.nodes > 1:
        line = disagreement(reports, groups, values, {name: subject.remedy for name, subject in subjects.items()})
    else:
        line = objection
    ranks.refuse(line)
    raise StartRefused(line)


def _reports(ranks: StartStore, key: str, patience_s: float) -> dict[int, Report]:
    """Waits for the reports of the other ranks; once one objects, returns those present, as the rest may never come."""
    waiting, reports = set(range(1, ranks.launch.world_size)), {}
    last = reminded = time.monotonic()
    while waiting:
        came = {rank: text for rank in sorted(waiting) if (text := _report(ranks, key, rank)) is not None}
        reports |= {rank: Report.from_json(text) for rank, text in came.items()}
        waiting -= reports.keys()
        now = time.monotonic()
        last = now if came else last
        if not waiting or (now > last + GRACE_S and any(report.objection for report in reports.values())):
            break
        if now > last + patience_s:
            place = missing(waiting, ranks.launch.local_world_size)
            line = f"{place} did not come within {patience_s:g} s; look at what they wrote, and start all nodes again"
            ranks.store.set(f"{key}/answer", json.dumps({"missing": line}))
            time.sleep(4 * MOST_PAUSE_S)  # the ranks present read the answer
            ranks.store.delete_key(f"{key}/answer")  # the store may outlive a restart of the ranks
            raise RanksMissing(line)
        if now > max(reminded, last) + REMINDER_S:
            reminded = now
            print(f"waits for {missing(waiting, ranks.launch.local_world_size)}", file=sys.stderr, flush=True)
        time.sleep(PAUSE_S)
    return reports


def _report(ranks: StartStore, key: str, rank: int) -> bytes | None:
    return ranks.seen(f"{key}/{rank}") or ranks.seen(_objection_key(rank))


def _objection_key(rank: int) -> str:
    return f"start/objection/{rank}"


def _origin(ranks: StartStore) -> Origin:
    return Origin(ranks.node, gethostname(), ranks.leads)


def _digest(values: Mapping[str, Any] | None) -> str | None:
    if values is None:
        return None
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]
