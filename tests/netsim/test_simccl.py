"""Flows of SimCCL as a workload, against closed forms."""

from pathlib import Path

from tests.netsim.foreign import FILES, INSIDE, SERVICE, laid_out, opened, run

GOLDEN = FILES / "simccl.csv"
HEADER = GOLDEN.read_text(encoding="utf-8").splitlines()[0]


def written(folder: Path, *lines: str) -> Path:
    path = folder / "x.csv"
    path.write_text("\n".join((HEADER, *lines)), encoding="utf-8")
    return path


def line(identity: int, src: int, dst: int, size: int, parents: str = "") -> str:
    return f"TP_0_0_0_3_1,3,1,1,2,0,{identity},{src},{dst},{size},0,1,RING,{parents},"


def test_flows_wait_for_their_parents_and_collectives_for_those_before():
    """A reduce-scatter of two rounds of 8 kB, then an all-to-all of 4 kB to each of two others."""
    made = laid_out(opened("simccl", GOLDEN), 3)
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
    assert run(laid_out(opened("simccl", path), 4), 4).completion_ps == 3 * SERVICE + INSIDE + SERVICE + INSIDE
