"""Flows of SimCCL as a workload, against closed forms."""

from functools import partial
from pathlib import Path

import pytest

from netsim.foundation.refusal import Refusal
from netsim.workload.simccl import SimcclConfig, SimcclWorkload
from tests.netsim.foreign import FILES, INSIDE, SERVICE, damaged, laid_out, refused_or_sound, run

GOLDEN = FILES / "simccl.csv"
HEADER, *LINES = GOLDEN.read_text(encoding="utf-8").splitlines()


def simccl(path: Path) -> SimcclWorkload:
    return SimcclWorkload(SimcclConfig(kind="simccl", path=str(path)))


def written(folder: Path, *lines: str, header: str = HEADER) -> Path:
    path = folder / "x.csv"
    path.write_text("\n".join((header, *lines)), encoding="utf-8")
    return path


def line(identity: int, src: int, dst: int, size: int, parents: str = "", op: int = 3, kind: str = "RING") -> str:
    return f"TP_0_0_0_{op}_1,{op},1,1,2,0,{identity},{src},{dst},{size},0,1,{kind},{parents},"


def test_flows_wait_for_their_parents_and_collectives_for_those_before():
    """A reduce-scatter of two rounds of 8 kB, then an all-to-all of 4 kB to each of two others."""
    made = laid_out(simccl(GOLDEN), 3)
    ring = 2 * (2 * SERVICE + INSIDE)
    assert [(span.op, span.group, span.ranks, span.bytes) for span in made.spans] == [
        ("reduce_scatter", "DP_0_0_0_1_24000", 3, 48_000),
        ("all_to_all", "DP_0_1_0_4_12000", 3, 24_000),
    ]
    outcome = run(made, 4)
    ends = [span.times(outcome.task_end_ps.tolist()) for span in made.spans]
    assert (ends[0].start_ps, ends[0].end_ps) == (0, ring)
    assert ends[1].start_ps == ring
    assert ring + 2 * SERVICE + INSIDE <= ends[1].end_ps <= ring + 3 * SERVICE + INSIDE


def test_a_flow_may_join_several_and_stand_before_them(tmp_path):
    path = written(tmp_path, line(9, 2, 3, 4000, "1;2"), line(1, 0, 2, 4000), line(2, 1, 2, 8000))
    assert run(laid_out(simccl(path), 4), 4).completion_ps == 3 * SERVICE + INSIDE + SERVICE + INSIDE


BROKEN = {
    "no column": ((), HEADER.replace("flow_size,", ""), "line 1: column flow_size occurs 0 times"),
    "no flows": ((), HEADER, "file: lists no flows"),
    "cut off": ((LINES[0], LINES[1][:20]), HEADER, "line 3: has 3 cells instead of 15"),
    "no number": ((LINES[0].replace("8000", "8k"),), HEADER, "line 2: flow_size: is not a whole number ('8k')"),
    "to itself": ((line(1, 2, 2, 5),), HEADER, "line 2: dest: is the sender itself (2)"),
    "no rank": ((line(1, 2, 10**9, 5),), HEADER, "line 2: dest: is not a rank (1000000000)"),
    "beyond": ((line(1, 2, 8, 5),), HEADER, "line 2: dest: is not a rank (8, of 8)"),
    "twice": ((line(1, 2, 3, 5), line(1, 3, 2, 5)), HEADER, "line 3: flow_id: 1 occurs twice in a collective"),
    "no parent": ((line(1, 2, 3, 5, "7"),), HEADER, "line 2: parent_flow_ids: names flow 7, which is not"),
    "parent no number": ((line(1, 2, 3, 5, "1|2"),), HEADER, "line 2: parent_flow_ids: is not a whole number ('1|2')"),
    "circle": (
        (line(1, 2, 3, 5, "2"), line(2, 3, 2, 5, "1")),
        HEADER,
        "line 2: parent_flow_ids: flows wait for each other in a circle",
    ),
    "in the switch": ((line(1, 2, 3, 5, kind="NVLS"),), HEADER, "line 2: conn_type: reduces inside a switch"),
    "too much": ((line(1, 2, 3, 2**61), line(2, 2, 3, 2**61)), HEADER, "flow_size: is too large, all flows together"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_says_in_one_line_what_is_wrong_with_flows(name, tmp_path):
    lines, header, expected = BROKEN[name]
    path = written(tmp_path, *lines, header=header)
    with pytest.raises(Refusal) as error:
        laid_out(simccl(path), 8)
    assert str(error.value).startswith(f"{path}: {expected}")


def test_damaged_flows_are_refused_or_still_sound(tmp_path):
    refused = []
    for content in damaged(GOLDEN.read_bytes(), 300):
        (tmp_path / "damaged.csv").write_bytes(content)
        refused.append(refused_or_sound(partial(simccl, tmp_path / "damaged.csv"), 64))
    assert 60 < sum(refused) < 300, "both happen"
