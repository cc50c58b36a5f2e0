"""Recorded beside simulated: what the table and the page say, against sums of the profiles and the rules of causes."""

import pytest

from netsim.__main__ import main
from netsim.simulation.recorded import Move, compare_recorded
from netsim.workload.kineto.convert import import_kineto
from tests.each import each
from tests.netsim.kineto_profiles import ProfileWriter, expert_profile

pytestmark = pytest.mark.usefixtures("blank_pictures")

FABRIC = "format: flowfabric.scenario/1\ntopology: {kind: leaf_spine, leaves: 4, spines: 2, hosts_per_leaf: 4}\n"
SIZES = ("--tokens", "64", "--hidden", "128", "--experts", "32", "--top-k", "2")


def test_times_of_kernels_waiting_and_exposure_are_those_of_the_profile(tmp_path, capsys):
    expert_profile().write(tmp_path / "rank0.json")
    (tmp_path / "fabric.yaml").write_text(f"{FABRIC}transports: [ecmp, ideal]\nseeds: [3, 4]\n", encoding="utf-8")
    arguments = ["kineto", str(tmp_path / "rank0.json"), "--out", str(tmp_path / "trace.jsonl"), *SIZES]
    assert main(["import", *arguments, "--compare", str(tmp_path / "fabric.yaml")]) == 0
    said = capsys.readouterr().out
    assert "400 µs recorded" in said
    rows = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    assert "100 µs" in rows["dispatch"]
    assert "40.0 µs" in rows["dispatch"]
    assert "95.0 µs" in rows["combine"]
    assert "Recorded beside simulated" in (tmp_path / "trace.html").read_text(encoding="utf-8")


def test_the_rank_that_comes_last_waits_for_nobody(tmp_path):
    """Three collectives in which rank 1 comes 30, 0 and 0 us after rank 0, which comes 0, 20 and 0 us after it."""
    for rank, late in ((0, (0, 20, 0)), (1, (30, 0, 0))):
        writer = ProfileWriter(rank, 2, {"0": [0, 1]})
        writer.event("ProfilerStep#0", "user_annotation", 0, 400)
        for place, (own, begin) in enumerate(zip(late, (100, 200, 300), strict=True)):
            writer.call("allreduce", (2000, 2000), 1 + place, (begin + own, 80 - own))
        writer.write(tmp_path / "profiles" / f"{rank}.json")
    (tmp_path / "fabric.yaml").write_text(
        "kind: leaf_spine\nleaves: 1\nspines: 1\nhosts_per_leaf: 2\n", encoding="utf-8"
    )
    converted = import_kineto(tmp_path / "profiles", tmp_path / "trace.jsonl")
    found = compare_recorded(converted, tmp_path / "trace.jsonl", tmp_path / "fabric.yaml")
    assert [(move.moving_us, move.waiting_us) for move in found.moves] == [(50, 30), (60, 0), (80, 0)]
    assert (found.whole_us, found.exposed_us, found.waiting_us) == (380, 220, 30)
    assert (found.late_us, found.cause) == (30, "unexplained")
    assert found.simulated_us == pytest.approx(160 + found.simulated_exposed_us)
    assert {(move.kind, move.ranks, move.bytes) for move in found.moves} == {("all_reduce", 2, 8000)}


@each(
    "moving, waiting, beside, simulated, late, cause",
    [
        (100, 40, 0.9, 140, 40, ""),
        (100, 90, 0.9, 140, 40, "skew"),
        (200, 40, 0.5, 140, 40, "SMs shared"),
        (200, None, 0.4, 140, 40, "unexplained"),
        (100, 0, 0.9, 81, 0, ""),
        (100, None, 0.9, 130, 0, ""),
        (100, 40, 0.9, 100, 0, "skew"),
        (200, 40, 0.5, 100, 0, "skew and SMs shared"),
        (200, None, 0.4, 100, 0, "unexplained"),
        (21, 0, 0.9, 1, 0, "launch bound"),
        (100, 0, 0.9, 200, 0, "link bound"),
    ],
)
def test_a_cause_is_named_by_the_rules(moving, waiting, beside, simulated, late, cause):
    assert Move("x", 2, 1, moving, waiting, beside, simulated, late).cause == cause


@each(
    "fabric, expected",
    [
        ("dgx_h100_33", "cannot be read"),
        ("kind: leaf_spine\nleaves: 1\nspines: 1\nhosts_per_leaf: 2\n", "rank 15 has no host (2 ranks fit)"),
        (FABRIC, "transports: "),
        ("[1]", "holds no topology of its own"),
    ],
)
def test_a_fabric_that_does_not_fit_is_refused_in_one_line(fabric, expected, tmp_path, capsys):
    expert_profile().write(tmp_path / "rank0.json")
    path = tmp_path / "fabric.yaml"
    path.write_text(fabric, encoding="utf-8")
    named = fabric if fabric.startswith("dgx") else str(path)
    arguments = ["kineto", str(tmp_path / "rank0.json"), "--out", str(tmp_path / "trace.jsonl"), *SIZES]
    assert main(["import", *arguments, "--compare", named]) == 2
    (said,) = [
        line for line in capsys.readouterr().err.splitlines() if "have a profile" not in line and "count" not in line
    ]
    assert expected in said
    assert not (tmp_path / "trace.html").exists()
