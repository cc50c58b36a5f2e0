"""Plans and predictions for the fabric of namespaces, against arithmetic; needs no root."""

from collections import Counter
from typing import get_args

import pytest

from tests.multinode.cases import HOSTS_PER_LEAF, LEAVES, SPINES, Sizes, cases
from tests.multinode.namespaces import Fabric
from tests.multinode.prediction import Routing, Scheduling, tcp_completion_s, udp_completion_s, udp_plan
from tests.multinode.traffic import TCP_HEADERS, TCP_PAYLOAD, UDP_HEADERS, UDP_PAYLOAD, Stream, Target

RATE_MBIT = 50
FRAME_S = 1514 * 8 / (RATE_MBIT * 1e6)
FABRIC = Fabric("none_", LEAVES, SPINES, HOSTS_PER_LEAF, RATE_MBIT)
HOSTS = LEAVES * HOSTS_PER_LEAF


def latin(src: int, dst: int, _crossed: int) -> int:
    return (src + dst) % SPINES


def one_spine(*_: int) -> int:
    return 0


def plan(packets: int, routing: Routing, scheduling: Scheduling) -> list[list[Target]]:
    return udp_plan(HOSTS, HOSTS_PER_LEAF, packets, routing, scheduling)


def test_frames_are_full():
    assert TCP_PAYLOAD + TCP_HEADERS == UDP_PAYLOAD + UDP_HEADERS == 1514


@pytest.mark.parametrize("scheduling", get_args(Scheduling))
def test_a_plan_is_an_all_to_all_in_its_order(scheduling):
    for src, targets in enumerate(plan(5, latin, scheduling)):
        assert Counter(target.dst for target in targets) == {dst: 5 for dst in range(HOSTS) if dst != src}
        assert all((target.spine is None) == (src // 2 == target.dst // 2) for target in targets)
        turns = [(target.dst - src) % HOSTS for target in targets]
        assert turns == ([1, 2, 3] * 5 if scheduling == "round_robin" else [1] * 5 + [2] * 5 + [3] * 5)


def test_spray_counts_what_leaves_the_leaf():
    targets = udp_plan(HOSTS, HOSTS_PER_LEAF, 8, lambda _src, _dst, crossed: crossed % SPINES, "round_robin")[0]
    assert [target.spine for target in targets if target.spine is not None] == [0, 1] * 8


def test_one_way_streams_take_their_frames_and_the_way_of_the_last_one():
    """1,000 full frames each; on one spine the link there is the bottleneck, its last frame has two links to go."""
    size = 1000 * TCP_PAYLOAD
    apart = [Stream(0, 2, size, 0, 0), Stream(1, 3, size, 1, 1)]
    together = [Stream(0, 2, size, 0, 0), Stream(1, 3, size, 0, 0)]
    assert tcp_completion_s(FABRIC, apart) == pytest.approx(1003 * FRAME_S, rel=1e-6)
    assert tcp_completion_s(FABRIC, together) == pytest.approx(2003 * FRAME_S, rel=1e-6)


def test_acknowledgements_of_the_other_way_cost_their_share_of_the_bytes():
    size = 10_000 * TCP_PAYLOAD
    both = [Stream(0, 2, size, 0, 0), Stream(2, 0, size, 0, 0)]
    share = TCP_HEADERS / 2 / (TCP_PAYLOAD + TCP_HEADERS)
    assert tcp_completion_s(FABRIC, both) == pytest.approx(10_000 * FRAME_S * (1 + share), rel=1e-3)


@pytest.mark.parametrize("scheduling", get_args(Scheduling))
def test_one_spine_carries_what_a_leaf_sends(scheduling):
    """Four pairs of a leaf meet at its link; when its last frame has passed it has at least two links to go."""
    predicted = udp_completion_s(FABRIC, plan(50, one_spine, scheduling), scheduling)
    assert 4 * 50 * FRAME_S < predicted < (4 * 50 + 60) * FRAME_S


@pytest.mark.parametrize("scheduling", get_args(Scheduling))
def test_no_plan_beats_the_hosts_own_links(scheduling):
    for routing in (latin, one_spine):
        predicted = udp_completion_s(FABRIC, plan(50, routing, scheduling), scheduling)
        assert predicted >= (HOSTS - 1) * 50 * FRAME_S


def test_where_a_hash_decides_every_outcome_is_enumerated():
    hashed = {case.name: case for case in cases(Sizes(RATE_MBIT, 100 * TCP_PAYLOAD, UDP_PAYLOAD))}
    outcomes = hashed["TCP in one direction, hashed"].outcomes_s(FABRIC)
    assert outcomes == pytest.approx([103 * FRAME_S, 203 * FRAME_S], abs=1e-3)
    assert len(hashed["TCP in one direction, spine each"].outcomes_s(FABRIC)) == 1
