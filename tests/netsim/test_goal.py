"""GOAL schedules as a workload, against closed forms and a plain simulation of their rules."""

from functools import partial
from pathlib import Path

import pytest

from netsim.foundation.refusal import Refusal
from netsim.workload.goal import GoalConfig, GoalWorkload
from netsim.workload.goal_text import read_goal
from tests.netsim.foreign import FILES, INSIDE, SERVICE, damaged, laid_out, refused_or_sound, run

NS = 1000
ONCE = SERVICE + INSIDE


def goal(path: Path, send_ends: str = "arrived") -> GoalWorkload:
    return GoalWorkload(GoalConfig.model_validate({"kind": "goal", "path": str(path), "send_ends": send_ends}))


def written(folder: Path, text: str) -> Path:
    path = folder / "x.goal"
    path.write_text(text, encoding="utf-8")
    return path


def completion_ps(folder: Path, *ranks: str, send_ends: str = "arrived") -> int:
    text = f"num_ranks {len(ranks)}\n" + "\n".join(f"rank {n} {{\n{body}\n}}" for n, body in enumerate(ranks))
    made = laid_out(goal(written(folder, text), send_ends), len(ranks))
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


@pytest.mark.parametrize(("send_ends", "expected"), [("arrived", ONCE + 300 * NS), ("started", ONCE)])
def test_a_send_ends_when_the_scenario_says(tmp_path, send_ends, expected):
    sends = "a: send 4000b to 1; b: calc 300; b requires a"
    assert completion_ps(tmp_path, sends, "recv 4000b from 0", send_ends=send_ends) == expected


def test_ranks_may_depend_on_each_other_and_on_starts(tmp_path):
    """The first receive ends only because a send that needs nothing but its start has gone out."""
    first = "a: recv 4000b from 1; b: send 4000b to 1; b irequires a"
    second = "a: recv 4000b from 0; b: send 4000b to 0; b requires a"
    assert completion_ps(tmp_path, first, second) == 2 * ONCE


def test_the_golden_schedule_takes_what_its_ring_takes():
    made = laid_out(goal(FILES / "schedule.goal"), 3)
    both = 2 * SERVICE + INSIDE
    assert run(made, 4).completion_ps == both + 2500 * NS + both


def test_comments_of_both_kinds_are_skipped(tmp_path):
    text = "/* a\nb { } */ num_ranks 1 // rank 7 {\nrank 0 { // }\n /* x */ calc 5 /* y */ /* z\n*/ }\n"
    assert [operation.amount for operation in read_goal(written(tmp_path, text)).ranks[0].operations] == [5]


HEAD = "num_ranks 2\n"
BROKEN = {
    "empty": ("", "file: is empty"),
    "no operations": (HEAD, "file: lists no operations"),
    "outside": ("calc 5", "line 1: is outside of a rank ('calc 5')"),
    "no ranks": ("num_ranks 0", "line 1: num_ranks: is 0"),
    "too many ranks": ("num_ranks 5000000", "line 1: num_ranks: is too large (5000000)"),
    "twice": (HEAD + HEAD, "line 2: num_ranks: occurs twice"),
    "before": ("rank 0 {\n}", "line 1: rank: stands before num_ranks"),
    "unknown rank": (HEAD + "rank 2 {\n}", "line 2: rank: is not a rank (2, of 2)"),
    "rank twice": (HEAD + "rank 0 {\n}\nrank 0 {\n}", "line 4: rank: occurs twice (0)"),
    "rank in rank": (HEAD + "rank 0 {\nrank 1 {\n}", "line 3: has a { that opens no rank"),
    "closed twice": (HEAD + "rank 0 {\n}\n}", "line 4: has a } that closes no rank"),
    "cut off": (HEAD + "rank 0 {\ncalc 5\n", "line 4: rank 0, opened in line 2, is not closed"),
    "open comment": (HEAD + "/* a", "line 2: begins a comment that never ends"),
    "unknown word": (HEAD + "rank 0 {\ncompute 5\n}", "line 3: is no operation ('compute 5')"),
    "label alone": (HEAD + "rank 0 {\na:\n}", "line 3: is no operation ('')"),
    "no label": (HEAD + "rank 0 {\n1a: calc 5\n}", "line 3: is not a label ('1a')"),
    "label twice": (HEAD + "rank 0 {\na: calc 5\na: calc 6\n}", "line 4: label: occurs twice in rank 0 ('a')"),
    "unknown label": (HEAD + "rank 0 {\na: calc 5\na requires b\n}", "line 4: names no operation of rank 0 ('b')"),
    "label of another rank": (
        HEAD + "rank 0 {\na: calc 5\n}\nrank 1 {\nb: calc 5\nb requires a\n}",
        "line 7: names no operation of rank 1 ('a')",
    ),
    "no duration": (HEAD + "rank 0 {\ncalc\n}", "line 3: calc: has no duration"),
    "negative": (HEAD + "rank 0 {\ncalc -5\n}", "line 3: calc: is not a whole number ('-5')"),
    "too long": (HEAD + "rank 0 {\ncalc 4611686018427388\n}", "line 3: calc: is too large"),
    "too long together": (
        HEAD + "rank 0 {\ncalc 4611686018427386\ncalc 4611686018427386\n}",
        "file: all calc together are too large",
    ),
    "no unit": (HEAD + "rank 0 {\nsend 5 to 1\n}", "line 3: send: is cut off or malformed"),
    "send from": (HEAD + "rank 0 {\nsend 5b from 1\n}", "line 3: send: is cut off or malformed"),
    "to itself": (HEAD + "rank 0 {\nsend 5b to 0\n}", "line 3: to: is the rank itself (0)"),
    "to nobody": (HEAD + "rank 0 {\nsend 5b to 2\n}", "line 3: to: is not a rank (2, of 2)"),
    "from anybody": (HEAD + "rank 0 {\nrecv 5b from -1\n}", "line 3: from: is any rank (-1)"),
    "any tag": (HEAD + "rank 0 {\nrecv 5b from 1 tag -1\n}", "line 3: tag: is any tag (-1)"),
    "tag without value": (HEAD + "rank 0 {\nrecv 5b from 1 tag\n}", "line 3: tag: has no value"),
    "tag twice": (HEAD + "rank 0 {\nrecv 5b from 1 tag 1 tag 2\n}", "line 3: tag: occurs twice"),
    "unknown option": (HEAD + "rank 0 {\ncalc 5 gpu 1\n}", "line 3: has an unknown word ('gpu')"),
    "never received": (
        HEAD + "rank 0 {\nsend 5b to 1 tag 3\n}",
        "line 3: send: 5 B with tag 3 of rank 0: rank 1 never receives it",
    ),
    "never sent": (HEAD + "rank 0 {\nrecv 5b from 1 tag 3\n}", "line 3: recv: 5 B with tag 3 of rank 0: rank 1 sends"),
    "sizes": (
        HEAD + "rank 0 {\nsend 5b to 1\n}\nrank 1 {\nrecv 6b from 0\n}",
        "line 6: recv bytes: 6 received of 5 sent in line 3",
    ),
    "circle": (
        HEAD + "rank 0 {\na: calc 5\nb: calc 6\na requires b\nb irequires a\n}",
        "line 3: calc: rank 0 never gets through",
    ),
    "circle of ranks": (
        HEAD + "".join(
            f"rank {n} {{\na: recv 5b from {1 - n}\nb: send 5b to {1 - n}\nb requires a\n}}\n" for n in (0, 1)
        ),
        "line 3: recv: rank 0 never gets through",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_says_in_one_line_what_is_wrong_with_a_schedule(name, tmp_path):
    text, expected = BROKEN[name]
    path = written(tmp_path, text)
    with pytest.raises(Refusal) as error:
        laid_out(goal(path), 2)
    assert str(error.value).startswith(f"{path}: {expected}")
    assert "\n" not in str(error.value)


def test_a_schedule_says_how_it_fits_the_fabric(tmp_path):
    workload = goal(written(tmp_path, "num_ranks 2\nrank 0 {\nsend 0b to 1\n}\nrank 1 {\nrecv 0b from 0\n}"))
    assert workload.size(4) == 2
    assert [notice.partition(": ")[2] for notice in workload.notices] == [
        "2 ranks on a fabric of 4: the first 2 are used",
        "1 messages without bytes take no time",
    ]
    with pytest.raises(Refusal, match="num_ranks: there are 2, the job has 1 ranks"):
        workload.size(1)


def test_damaged_schedules_are_refused_or_still_sound(tmp_path):
    files = damaged((FILES / "schedule.goal").read_bytes(), 300)
    refused = [refused_or_sound(partial(goal, _file(tmp_path, content)), 64) for content in files]
    assert 60 < sum(refused) < 300, "both happen"


def _file(folder: Path, content: bytes) -> Path:
    path = folder / "damaged.goal"
    path.write_bytes(content)
    return path
