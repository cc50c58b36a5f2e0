"""Bytes and predicted times of a collective trace, against sums done by hand."""

import pytest

from moe.collective_trace import CollectiveRecord, TraceHeader
from moe.placement.topology import LinkRates
from moe.price.price import rates_of
from moe.price.traffic import Traffic
from netsim.foundation.refusal import Refusal

ROWS = [[5, 10, 0, 30], [0, 5, 2, 0], [7, 0, 5, 1], [0, 0, 3, 5]]
"""Bytes from rank to rank; ranks 0 and 1 share a node, and so do 2 and 3."""
WITHIN, BETWEEN = 10 + 1 + 3, 30 + 2 + 7


def header(groups: dict[str, tuple[int, ...]] | None = None, steps: tuple[int, ...] = (1,)) -> TraceHeader:
    return TraceHeader("recorded", 4, 2, groups or {"expert": (0, 1, 2, 3)}, steps, None, None)


def record(
    rank: int, op: str, bytes_in: int, group: str = "expert", phase: str = "forward", **more
) -> CollectiveRecord:
    known = {"seq": 0, "step": 1, "micro": 0, "size1": False, "dtype": "float32", "bytes_out": 0}
    return CollectiveRecord(rank=rank, op=op, bytes_in=bytes_in, group=group, phase=phase, **{**known, **more})


def all_to_all(rows: list[list[int]], group: str = "expert", ranks: tuple[int, ...] = (0, 1, 2, 3), **more):
    return [
        record(rank, "all_to_all", sum(row), group, in_splits=tuple(row), out_splits=tuple(row), **more)
        for rank, row in zip(ranks, rows, strict=True)
    ]


def test_an_all_to_all_sends_its_splits_but_the_own_block() -> None:
    traffic = Traffic.of(header(), all_to_all(ROWS), 2)
    assert (traffic.rank_bytes, traffic.node_bytes) == (WITHIN + BETWEEN, BETWEEN)
    assert traffic.moved == (WITHIN + BETWEEN) / (WITHIN + BETWEEN + 20)
    assert traffic.predicted_s is None


def test_figures_are_of_one_step() -> None:
    twice = [*all_to_all(ROWS), *all_to_all(ROWS, step=2, seq=1)]
    assert Traffic.of(header(steps=(1, 2)), twice, 2) == Traffic.of(header(), all_to_all(ROWS), 2)


def test_gathers_and_scatters_send_to_every_other_rank() -> None:
    gathered = [record(rank, "all_gather", 100 + rank) for rank in range(4)]
    assert Traffic.of(header(), gathered, 2).rank_bytes == 3 * sum(range(100, 104))
    scattered = [record(rank, "reduce_scatter", 400) for rank in range(4)]
    traffic = Traffic.of(header(), scattered, 2)
    assert (traffic.rank_bytes, traffic.node_bytes) == (4 * 3 * 100, 4 * 2 * 100)


def test_other_groups_and_the_optimiser_are_left_out() -> None:
    groups = {"expert": (0, 1, 2, 3), "data": (0, 1, 2, 3), "expert_data": (0, 1, 2, 3)}
    other = [*all_to_all(ROWS, "data"), *all_to_all(ROWS, "expert_data"), *all_to_all(ROWS, phase="optimizer")]
    assert Traffic.of(header(groups), other, 2).rank_bytes == 0


def test_rails_and_nodes_of_two_level_dispatch_count() -> None:
    groups = {"expert_rail_0": (0, 2), "expert_node_1": (2, 3)}
    sent = [
        *all_to_all([[1, 20], [40, 1]], "expert_rail_0", (0, 2)),
        *all_to_all([[1, 300], [500, 1]], "expert_node_1", (2, 3)),
    ]
    traffic = Traffic.of(header(groups), sent, 2)
    assert (traffic.rank_bytes, traffic.node_bytes) == (860, 60)


def test_the_busiest_link_of_any_rank_sets_the_time() -> None:
    """Rank 0 has 30 bytes for the other node at 8 bit/s, and three messages to begin; nothing else takes that long."""
    rates = LinkRates(intra_bps=80.0, inter_bps=8.0, latency_s=0.5)
    traffic = Traffic.of(header(), [*all_to_all(ROWS), *all_to_all(ROWS, seq=1)], 2, rates)
    assert traffic.predicted_s == pytest.approx(2 * (30 + 3 * 0.5))


def test_groups_exchange_side_by_side() -> None:
    groups = {"expert_0": (0, 1), "expert_1": (2, 3)}
    pairs = [*all_to_all([[0, 10], [0, 0]], "expert_0", (0, 1)), *all_to_all([[0, 30], [0, 0]], "expert_1", (2, 3))]
    traffic = Traffic.of(header(groups), pairs, 2, LinkRates(8.0, 1.0))
    assert traffic.predicted_s == pytest.approx(30.0)


def test_a_rank_that_is_missing_is_refused() -> None:
    with pytest.raises(ValueError, match="records: all_to_all of rank 0 on expert has no partner"):
        Traffic.of(header(), all_to_all(ROWS)[:3], 2)


def test_rates_are_those_of_the_hosts(tmp_path) -> None:
    topology = {"host_rate": "100Gbps", "intra_host_rate": "3600Gbps", "link_delay": "500ns", "ranks_per_host": 4}
    rates = rates_of(tmp_path, topology)
    assert rates is not None
    assert (rates.intra_bps, rates.inter_bps, rates.latency_s) == pytest.approx((3.6e12, 25e9, 1e-6))
    assert rates_of(tmp_path, {"kind": "graph"}) is None
    with pytest.raises(Refusal, match=r"scenario\.topology: contains no rates"):
        rates_of(tmp_path, topology | {"host_rate": "fast"})
