"""Bytes that ranks send to each other, without a trace.

Shape legend: W all ranks, N ranks of a group, G groups of one meaning.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from trainer.trace.formula.protocol import Collective
from trainer.trace.formula.sampling import Sampling
from trainer.trace.formula.trace import TraceSpec

Bytes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SentBytes:
    """Bytes that leave the rank on which they were, if every message went straight to its reader.

    A sum over ranks is counted as two such exchanges: each rank adds up an equal share for all, and sends it to all.
    Rings send as much, but cross between nodes less often. `rank` is the rank that sends most; `crossnode` goes to
    other nodes.
    """

    rank: int
    total: int
    crossnode: int


@dataclass(frozen=True, slots=True)
class SamplingBytes:
    """Bytes of a drawing: of its first call, than which no other sends more, and of all calls and the collection."""

    call: SentBytes
    whole: SentBytes
    calls: int


def sampling_bytes(spec: TraceSpec) -> SamplingBytes:
    """Adds up the bytes of a drawing."""
    program = spec.program
    assert isinstance(program, Sampling)
    count = _Count(spec)
    alike = Counter(program.passages)
    sums = {passage: count.sum(collective for _, collective in passage.forward()) for passage in alike}
    whole_W, whole_crossnode = count.sum([program.collected])
    for passage, (by_rank_W, crossnode) in sums.items():
        whole_W, whole_crossnode = whole_W + alike[passage] * by_rank_W, whole_crossnode + alike[passage] * crossnode
    call = sums[program.passages[0]]
    return SamplingBytes(call=_sent(*call), whole=_sent(whole_W, whole_crossnode), calls=program.calls)


def _sent(by_rank_W: Bytes, crossnode: int) -> SentBytes:
    return SentBytes(rank=int(by_rank_W.max()), total=int(by_rank_W.sum()), crossnode=crossnode)


class _Count:
    """Adds up collectives of a division of ranks."""

    def __init__(self, spec: TraceSpec) -> None:
        self._spec = spec
        self._ranks_GN = cache(self._ranks_of)
        self._apart_NN = cache(self._groups_apart)

    def sum(self, collectives: Iterable[Collective]) -> tuple[Bytes, int]:
        """Bytes that each rank sends [W], and all bytes that cross between nodes."""
        by_rank_W, crossnode = np.zeros(self._spec.world_size, np.int64), 0
        for collective in collectives:
            # The parts of an expert-parallel group are blocks of the whole group's messages.
            meaning = collective.group if collective.exchange is None else "expert"
            ranks_GN = self._ranks_GN(meaning)
            sent_NN = _messages(collective, ranks_GN.shape[1])
            by_rank_W[ranks_GN] += sent_NN.sum(axis=1)
            crossnode += int((sent_NN * self._apart_NN(meaning)).sum())
        return by_rank_W, crossnode

    def _ranks_of(self, meaning: str) -> Bytes:
        """The ranks of every group of a meaning [G, N]."""
        groups = self._spec.groups[meaning]
        return np.array(sorted({groups.of(rank) for rank in range(self._spec.world_size)}), np.int64)

    def _groups_apart(self, meaning: str) -> Bytes:
        """In how many groups two members are on different nodes [N, N]."""
        nodes_GN = self._ranks_GN(meaning) // self._spec.ranks_per_node
        return (nodes_GN[:, :, None] != nodes_GN[:, None]).sum(axis=0)


def _messages(collective: Collective, num_ranks: int) -> Bytes:
    """Bytes from each member of a group to each other [N, N]."""
    if collective.exchange is not None:
        messages_NN = collective.exchange.volume.copy()
    elif collective.op == "all_gather":
        messages_NN = np.full((num_ranks, num_ranks), collective.bytes_in)
    else:
        assert collective.op == "all_reduce"
        messages_NN = np.full((num_ranks, num_ranks), 2 * collective.bytes_in // num_ranks)
    np.fill_diagonal(messages_NN, 0)
    return messages_NN
