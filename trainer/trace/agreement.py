"""Checks that the records of all ranks of a trace agree, one rank after the other.

Between ranks only two 64-bit numbers per operation and group are kept. A disagreement is located by reading the records
again.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moe.collective_trace import CollectiveRecord
from netsim.foundation.refusal import Refusal
from trainer.trace.columns import Codes, Columns, mixed, word_code

Ranks = tuple[int, ...]


def canonical_names(groups: Iterable[tuple[str, Ranks]]) -> dict[tuple[str, Ranks], str]:
    """Names for (meaning, ranks), ordered by meaning, then by ascending global ranks.

    A meaning with one set of ranks keeps its name (data); one with several is numbered (expert_0, expert_1, ...).
    Groups of the same meaning and ranks are one group.
    """
    by_meaning: dict[str, set[Ranks]] = {}
    for meaning, ranks in groups:
        by_meaning.setdefault(meaning, set()).add(ranks)
    return {
        (meaning, ranks): meaning if len(by_meaning[meaning]) == 1 else f"{meaning}_{index}"
        for meaning in sorted(by_meaning)
        for index, ranks in enumerate(sorted(by_meaning[meaning]))
    }


REMEDY = "record the step again on every rank"
_OPS = {
    op: word_code(op.encode())
    for op in ("all_reduce", "all_gather", "broadcast", "reduce_scatter", "all_to_all", "send", "recv")
}
_ZERO = np.uint64(0)
Channel = tuple[str, int, int, int]
"""Group, sender, receiver and tag."""


@dataclass
class _Group:
    """What is kept of a group's records.

    Attributes:
        counts: operations of each member read so far.
        story: a hash per operation of the fields that all members must share; empty once all members are read.
        balance: bytes sent minus bytes received per operation; empty once all members are read.
        differs: index of the first operation that disagrees.
    """

    ranks: Ranks
    counts: dict[int, int] = field(default_factory=dict)
    hashes: Codes = field(default_factory=lambda: np.zeros(0, np.uint64))
    balance: Codes = field(default_factory=lambda: np.zeros(0, np.uint64))
    differs: int | None = None

    def hear(self, rank: int, hashes: Codes, balance: Codes) -> None:
        if not self.counts:
            self.hashes, self.balance = hashes, balance
        else:
            common = min(len(hashes), len(self.hashes))
            self._note(np.nonzero(hashes[:common] != self.hashes[:common])[0])
            self.balance = self.balance[:common] + balance[:common]
            self.hashes = self.hashes[:common]
        self.counts[rank] = len(hashes)
        if len(self.counts) == len(self.ranks):
            self._note(np.nonzero(self.balance)[0])
            self.hashes = self.balance = np.zeros(0, np.uint64)

    def _note(self, places: NDArray[np.int64]) -> None:
        if len(places):
            self.differs = int(places[0]) if self.differs is None else min(self.differs, int(places[0]))


class Agreement:
    """Takes the records of one rank after the other, and refuses records that cannot have come from one run.

    A group's members must have issued the same operations with sizes that fit, and every send needs its recv.
    """

    def __init__(self, groups: Mapping[str, Ranks]) -> None:
        self._groups = {name: _Group(ranks) for name, ranks in groups.items()}
        self._foreign: tuple[int, int] | None = None
        self._one_sided: dict[Channel, Codes] = {}
        self._at_odds: list[Channel] = []

    def hear(self, rank: int, columns: Columns) -> None:
        """Takes the records of one rank; ranks must come in ascending order."""
        (foreign,) = np.nonzero(columns.rank != np.uint64(rank))
        if len(foreign) and self._foreign is None:
            self._foreign = rank, int(foreign[0])
        to_one = (columns.op == _OPS["send"]) | (columns.op == _OPS["recv"])
        for name, group in self._groups.items():
            if rank not in group.ranks:
                continue
            of_group = columns.group == word_code(name.encode())
            (rows,) = np.nonzero(of_group & ~to_one)
            first = not group.counts
            group.hear(rank, _hashes(columns, rows), _balance(columns, rows, group.ranks, rank, first))
            (rows,) = np.nonzero(of_group & to_one)
            if len(rows):
                self._hear_channels(name, rank, columns, rows)

    def _hear_channels(self, group: str, rank: int, columns: Columns, rows: NDArray[np.int64]) -> None:
        """Compares a rank's sends and recvs with those of its peers; keeps them until the peer is read."""
        sends = columns.op[rows] == _OPS["send"]
        ends = np.stack([sends.astype(np.uint64), columns.peer[rows], columns.tag[rows]])
        channels, which = np.unique(ends, axis=1, return_inverse=True)
        sizes = np.where(sends, columns.bytes_in[rows], columns.bytes_out[rows])
        hashes = mixed(columns.step[rows], sizes)
        for index, (is_send, peer, tag) in enumerate(channels.T.tolist()):
            channel = (group, rank, peer, tag) if is_send else (group, peer, rank, tag)
            own = hashes[which.reshape(-1) == index]
            if channel not in self._one_sided:
                self._one_sided[channel] = own
            elif not np.array_equal(self._one_sided.pop(channel), own):
                self._at_odds.append(channel)

    def refuse(self, paths: Sequence[Path], records_of: Callable[[int], Iterable[CollectiveRecord]]) -> None:
        """Raises Refusal for the first disagreement, once all ranks are read; `records_of` rereads a rank's records."""
        if self._foreign is not None:
            rank, place = self._foreign
            record = next(islice(records_of(rank), place, None))
            raise Refusal(paths[rank], place_of(record, "rank"), f"must be {rank} ({record.rank})", REMEDY)
        for name, group in self._groups.items():
            if len(set(group.counts.values())) > 1:
                _refuse_extra(paths, name, group, records_of)
            if group.differs is not None:
                _refuse_misfit(paths, [_nth(records_of(rank), name, group.differs) for rank in group.ranks])
        for channel in (*self._at_odds, *self._one_sided):
            _refuse_channel(paths, channel, records_of)


def _hashes(columns: Columns, rows: NDArray[np.int64]) -> Codes:
    """A hash of each operation's fields that all members of its group must share."""
    op = columns.op[rows]
    agreed = np.where((op == _OPS["all_reduce"]) | (op == _OPS["reduce_scatter"]), columns.bytes_in[rows], _ZERO)
    agreed = np.where((op == _OPS["all_gather"]) | (op == _OPS["broadcast"]), columns.bytes_out[rows], agreed)
    return mixed(op, *(getattr(columns, name)[rows] for name in ("step", "micro", "phase", "dtype", "root")), agreed)


def _balance(columns: Columns, rows: NDArray[np.int64], ranks: Ranks, rank: int, first: bool) -> Codes:
    """Bytes sent minus bytes received by a member, per operation, modulo 2^64; must sum to 0 over the members.

    Each all-to-all block is multiplied by a hash of its sender and receiver, so that different blocks cannot cancel.
    The other operations have one total for all members, which only the `first` member counts.
    """
    op, given, got = columns.op[rows], columns.bytes_in[rows], columns.bytes_out[rows]
    gathers = (op == _OPS["all_gather"]) | (op == _OPS["broadcast"])
    balance = np.where(gathers, given - got if first else given, _ZERO)
    scatters = op == _OPS["reduce_scatter"]
    balance = np.where(scatters, got - given if first else got, balance)
    (to_all,) = np.nonzero(op == _OPS["all_to_all"])
    if len(to_all):
        own = np.full(len(ranks), ranks.index(rank), np.uint64)
        others = np.arange(len(ranks), dtype=np.uint64)
        sent = columns.in_splits.of_rows(rows[to_all], len(ranks)) @ mixed(own, others)
        balance[to_all] = sent - columns.out_splits.of_rows(rows[to_all], len(ranks)) @ mixed(others, own)
    return balance


def _nth(records: Iterable[CollectiveRecord], group: str, place: int) -> CollectiveRecord:
    """The operation at index `place` among a rank's operations of a group, without sends and recvs."""
    return next(islice((item for item in records if item.group == group and item.peer is None), place, None))


def place_of(record: CollectiveRecord, name: str) -> str:
    return f"rank {record.rank} seq {record.seq}, {name}"


def _refuse_extra(
    paths: Sequence[Path], name: str, group: _Group, records_of: Callable[[int], Iterable[CollectiveRecord]]
) -> None:
    """Raises Refusal for the first operation that the rank with the fewest operations did not issue."""
    counts = {rank: group.counts[rank] for rank in group.ranks}
    fewest, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    extra = _nth(records_of(most), name, counts[fewest])
    problem = f"{extra.op} on group {name} is missing on rank {fewest} ({counts[most]} against {counts[fewest]})"
    raise Refusal(paths[most], place_of(extra, "op"), problem, REMEDY)


def _refuse_misfit(paths: Sequence[Path], together: Sequence[CollectiveRecord]) -> None:
    """Raises Refusal for the first field that disagrees in one operation; `together` has its records in group order."""

    def require(name: str, expected: Callable[[int, CollectiveRecord], object], meaning: str) -> None:
        for index, record in enumerate(together):
            value, wanted = getattr(record, name), expected(index, record)
            if value != wanted:
                raise Refusal(
                    paths[record.rank], place_of(record, name), f"must be {wanted}, {meaning} ({value})", REMEDY
                )

    first = together[0]
    for name in ("op", "step", "micro", "phase", "dtype", "root"):
        require(name, lambda _index, _record, name=name: getattr(first, name), f"as on rank {first.rank}")
    if first.op in ("all_reduce", "reduce_scatter"):
        require("bytes_in", lambda *_: first.bytes_in, f"as on rank {first.rank}")
    if first.op in ("all_gather", "broadcast"):
        total = sum(record.bytes_in for record in together)
        require("bytes_out", lambda *_: total, "what all members contribute")
    if first.op == "reduce_scatter":
        total = sum(record.bytes_out for record in together)
        require("bytes_in", lambda *_: total, "what all members hold afterwards")
    if first.op == "all_to_all":
        sent = [record.in_splits or () for record in together]
        require("out_splits", lambda index, _: tuple(row[index] for row in sent), "what the members send to this rank")
    raise AssertionError("an operation was found not to fit, and fits")


def _refuse_channel(
    paths: Sequence[Path], channel: Channel, records_of: Callable[[int], Iterable[CollectiveRecord]]
) -> None:
    """Raises Refusal for a channel's first send or recv without a partner, or with another step or size than it."""
    group, sender, receiver, tag = channel

    def of(rank: int, op: str, peer: int) -> list[CollectiveRecord]:
        wanted = (group, op, peer, tag)
        return [item for item in records_of(rank) if (item.group, item.op, item.peer, item.tag) == wanted]

    out, into = of(sender, "send", receiver), of(receiver, "recv", sender)
    if len(out) != len(into):
        alone = max(out, into, key=len)[min(len(out), len(into))]
        raise Refusal(
            paths[alone.rank], place_of(alone, "peer"), f"{alone.op} has no partner on rank {alone.peer}", REMEDY
        )
    for send, recv in zip(out, into, strict=True):
        for name, value, wanted in (("step", recv.step, send.step), ("bytes_out", recv.bytes_out, send.bytes_in)):
            if value != wanted:
                raise Refusal(paths[recv.rank], place_of(recv, name), f"must be {wanted}, as sent ({value})", REMEDY)
