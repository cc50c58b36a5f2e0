"""Answers of uet-htsim that ours must give, as numbers; tests/benchmarks/htsim compares with a build."""

import pytest

from netsim import simulate
from tests.benchmarks import roce
from tests.benchmarks.htsim import cases
from tests.benchmarks.htsim.__main__ import scenario
from tests.each import each

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
