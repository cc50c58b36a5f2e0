"""GOAL schedules as a workload, against closed forms and a plain simulation of their rules."""

from pathlib import Path

import pytest

from netsim.foundation.refusal import Refusal
from netsim.workload.goal_text import read_goal
from tests.each import each
from tests.netsim.foreign import FILES, INSIDE, SERVICE, laid_out, opened, run

NS = 1000
ONCE = SERVICE + INSIDE


def written(folder: Path, text: str) -> Path:
    path = folder / "x.goal"
    path.write_text(text, encoding="utf-8")
    return path


def completion_ps(folder: Path, *ranks: str, send_ends: str = "arrived") -> int:
    text = f"num_ranks {len(ranks)}\n" + "\n".join(f"rank {n} {{\n{body}\n}}" for n, body in enumerate(ranks))
    made = laid_out(opened("goal", written(folder, text), send_ends=send_ends), len(ranks))
    return run(made, max(2, len(ranks))).completion_ps


def test_calculations_take_nanoseconds_one_after_the_other_only_where_required(tmp_path):
    assert completion_ps(tmp_path, "calc 700 cpu 3\ncalc 500") == 700 * NS
    assert completion_ps(tmp_path, "a: calc 700; b: calc 500; b requires a") == 1200 * NS


def test_irequires_waits_for_the_start_alone(tmp_path):
    chain = "a: calc 100; b: calc 700; b requires a; c: calc 500"
    assert completion_ps(tmp_path, f"{chain}; c irequires b") == 800 * NS
    assert completion_ps(tmp_path, f"{chain}; c requires b") == 1300 * NS
    assert completion_ps(tmp_path, f"{chain}; c irequires b; d: calc 400; d requires c") == 1000 * NS


def test_messages_leave_without_their_receiver_and_wait_where_they_arrive(tmp_path):
    sends = "a: send 4000b to {0}; b: recv 4000b from {0}; b requires a; c: calc 50; c requires b"
    assert completion_ps(tmp_path, sends.format(1), sends.format(0)) == ONCE + 50 * NS
    late = "a: calc 9000; b: recv 4000 b from 0 tag 7 nic 0 cpu 1; b requires a"
    assert completion_ps(tmp_path, "send 4000b to 1 tag 7", late) == 9000 * NS


def test_messages_meet_receives_in_order_by_tag(tmp_path):
    first = "a: send 4000b to 1 tag 1; b: calc 5000; c: send 8000b to 1 tag 2; c requires b"
    second = "x: recv 8000b from 0 tag 2; y: recv 4000b from 0 tag 1; z: calc 100; z requires y"
    assert completion_ps(tmp_path, first, second) == 5000 * NS + 2 * SERVICE + INSIDE
    together = "a: send 4000b to 1; b: send 4000b to 1"
    after_second = "x: recv 4000b from 0; y: recv 4000b from 0; z: calc 900; z requires y"
    assert completion_ps(tmp_path, together, after_second) == 2 * SERVICE + INSIDE + 900 * NS


@each("send_ends, expected", [("arrived", ONCE + 300 * NS), ("started", ONCE)])
def test_a_send_ends_when_the_scenario_says(tmp_path, send_ends, expected):
    sends = "a: send 4000b to 1; b: calc 300; b requires a"
    assert completion_ps(tmp_path, sends, "recv 4000b from 0", send_ends=send_ends) == expected


def test_ranks_may_depend_on_each_other_and_on_starts(tmp_path):
    """The first receive ends only because a send that needs nothing but its start has gone out."""
    first = "a: recv 4000b from 1; b: send 4000b to 1; b irequires a"
    second = "a: recv 4000b from 0; b: send 4000b to 0; b requires a"
    assert completion_ps(tmp_path, first, second) == 2 * ONCE


def test_the_golden_schedule_takes_what_its_ring_takes():
    made = laid_out(opened("goal", FILES / "schedule.goal"), 3)
    both = 2 * SERVICE + INSIDE
    assert run(made, 4).completion_ps == both + 2500 * NS + both


def test_comments_of_both_kinds_are_skipped(tmp_path):
    text = "/* a\nb { } */ num_ranks 1 // rank 7 {\nrank 0 { // }\n /* x */ calc 5 /* y */ /* z\n*/ }\n"
    assert [operation.amount for operation in read_goal(written(tmp_path, text)).ranks[0].operations] == [5]


def test_a_schedule_says_how_it_fits_the_fabric(tmp_path):
    workload = opened("goal", written(tmp_path, "num_ranks 2\nrank 0 {\nsend 0b to 1\n}\nrank 1 {\nrecv 0b from 0\n}"))
    assert workload.size(4) == 2
    assert [notice.partition(": ")[2] for notice in workload.notices] == [
        "2 ranks on a fabric of 4: the first 2 are used",
        "1 messages without bytes take no time",
    ]
    with pytest.raises(Refusal, match="num_ranks: there are 2, the job has 1 ranks"):
        workload.size(1)
