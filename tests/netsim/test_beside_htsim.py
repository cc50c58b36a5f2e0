"""Answers of uet-htsim that ours must give, as numbers; tests/benchmarks/htsim compares with a build."""

from pathlib import Path

import pytest

from netsim import simulate
from netsim.workload.flows import MatrixConfig, MatrixWorkload
from tests.benchmarks import roce
from tests.benchmarks.htsim import cases
from tests.benchmarks.htsim.__main__ import scenario
from tests.each import each
from tests.netsim.foreign import laid_out

ANSWERS = {"one flow": (cases.one(2_000_000), 176.2), "outcast and incast": (cases.outcast_incast(2_000_000), 1637.9)}
"""htsim_uec -sender_cc_only with NSCC, seed 1: when the last sender knows that its flow is done, in microseconds."""


@each("name", ANSWERS)
def test_the_last_flow_ends_when_it_does_in_htsim(name, tmp_path):
    case, expected_us = ANSWERS[name]
    cases.write_topology(case, tmp_path / "x.topo")
    cases.write_matrix(case, 1, tmp_path / "x.cm")
    (run,) = simulate(scenario(case, tmp_path, 1)).runs
    known_us = (run.completion_ps + 6 * cases.DELAY_PS) / 1e6
    assert known_us == pytest.approx(expected_us, rel=5e-4)


def test_roce_with_pfc_takes_as_long_as_in_htsim_on_the_same_paths():
    """Three of ten seeds of `tests.benchmarks.roce`, with its bar for their mean."""
    seeds = [1, 2, 3]
    ours = [roce.last_us(roce.on_the_same_paths(seed)) for seed in seeds]
    theirs = [roce.ANSWERS[seed].last_us for seed in seeds]
    assert sum(ours) == pytest.approx(sum(theirs), rel=roce.BAR)
    assert max(range(3), key=ours.__getitem__) == max(range(3), key=theirs.__getitem__)


def test_queues_have_the_size_that_htsim_gives_them_by_itself():
    assert cases.queue_bytes() == 178_450


@each(
    "case, flows, waiting",
    [(cases.permutation(16, 1000), 16, 0), (cases.incast(16, 1000), 15, 0), (cases.ring(4, 1000), 12, 8)],
    ids=["permutation", "incast", "ring"],
)
def test_generated_matrices_are_sound(case, flows, waiting, tmp_path):
    path = Path(tmp_path) / "x.cm"
    assert cases.write_matrix(case, 3, path) == flows
    made = laid_out(MatrixWorkload(MatrixConfig(kind="matrix", path=str(path))), case.hosts)
    moves = [task for task in made.tasks if task.bytes]
    assert len(moves) == flows
    assert sum(bool(task.after) for task in moves) == waiting
    assert all(task.src != task.dst for task in moves)


def test_only_fat_trees_have_a_topology(tmp_path):
    with pytest.raises(ValueError, match="100 hosts are no fat tree"):
        cases.write_topology(cases.incast(100, 1000), tmp_path / "x.topo")
