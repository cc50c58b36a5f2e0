"""The first use of netsim: small runs compile nothing and have equal results, and answers come before engines load."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import numpy as np
import pytest
from numba import njit

import netsim
from netsim import simulate
from netsim.engines import MOST_WORK, is_small, packet_hops, watching_compilation
from netsim.prepare import prepare
from netsim.report.terminal import PlainLines
from netsim.results import Run, RunEvent
from netsim.scenario import read_scenario

FIRST: dict[str, Any] = {
    "format": "flowfabric.scenario/1",
    "topology": {"kind": "leaf_spine", "leaves": 4, "spines": 2, "hosts_per_leaf": 2},
    "workload": {"kind": "collective", "op": "all_to_all", "bytes_per_rank": "100KB"},
    "transports": ["ecmp", "spray_random", {"kind": "ethereal", "order": "staggered"}, "ideal"],
    "seeds": [0, 1],
}
SLOW = {**FIRST["topology"], "failures": [{"link": "leaf0-spine1", "rate": "10Gbps", "at": "2us"}]}
SCENARIOS = {
    "as in the README": {},
    "a slow link": {"topology": SLOW},
    "unequal spines": {"topology": {**FIRST["topology"], "fabric_rate": ["100Gbps", "30Gbps"]}},
    "tasks that wait": {"workload": {"kind": "collective", "op": "all_reduce", "bytes_per_rank": "64KB"}},
    "ranks of one host": {"topology": {**FIRST["topology"], "ranks_per_host": 2, "leaves": 2}},
    "congestion control": {"congestion": {"kind": "dctcp"}, "transports": ["ecmp", "reps"]},
}


def same(one: Run, other: Run) -> bool:
    """Whether everything that two runs found is equal to the last bit."""
    figures = "completion_ps", "bound_ps", "packets", "packet_hops", "control_hops", "losses", "collectives"
    return all(getattr(one, name) == getattr(other, name) for name in figures) and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("flows", "links")
    )


@pytest.mark.parametrize("name", SCENARIOS)
def test_small_runs_without_compiling_equal_the_others(name, monkeypatch):
    compiled = simulate(FIRST | SCENARIOS[name]).runs
    monkeypatch.setattr("netsim.compare.is_compiled", lambda _: False)
    events: list[object] = []
    with watching_compilation(events.append):
        plain = simulate(FIRST | SCENARIOS[name]).runs
    assert {run.engine for run in plain} <= {"simpy", "fluid"}
    assert not events
    for one, other in zip(compiled, plain, strict=True):
        assert same(one, other), one.transport


def test_a_scenario_with_an_engine_of_its_choice_keeps_it(monkeypatch):
    monkeypatch.setattr("netsim.compare.is_compiled", lambda _: False)
    assert {run.engine for run in simulate({**FIRST, "engine": "exact", "transports": ["ecmp"]}).runs} == {"exact"}


def test_compilation_is_counted_and_said():
    functions: list[int] = []
    with watching_compilation(functions.append):
        assert njit(lambda number: number + 1)(1) == 2
    assert functions == [1]
    said = io.StringIO()
    lines = PlainLines(said)
    lines(RunEvent("ecmp", 0, 1, None))
    lines._next_s["ecmp", 0] = 0.0
    lines(RunEvent("ecmp", 0, 1, None, compiling=1))
    assert said.getvalue() == "netsim compare: ecmp, seed 0: compiling its engine, 1 functions so far\n"


def test_work_is_known_before_the_run():
    scenario = read_scenario(FIRST)
    scene = prepare(scenario, "scenario").scene
    assert {run.packet_hops for run in simulate(FIRST).runs} == {packet_hops(scene), 0}
    assert is_small(scene, scenario.transports, seeds=2)
    assert not is_small(scene, scenario.transports, seeds=MOST_WORK // packet_hops(scene))


def alone(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Python on a copy of the package in which nothing has been compiled."""
    copytree(Path(netsim.__file__).parent, tmp_path / "netsim", ignore=ignore_patterns("__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    return subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )


def test_the_first_comparison_compiles_nothing(tmp_path):
    (tmp_path / "first.yaml").write_text(
        json.dumps(FIRST | {"transports": ["ecmp", "ideal"], "seeds": [0]}), encoding="utf-8"
    )
    done = alone(tmp_path, "-m", "netsim", "compare", "first.yaml", "--out", "runs/first")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert not [*tmp_path.rglob("*.nbi")]


_ANSWERS = """
import io, sys
from contextlib import redirect_stderr, redirect_stdout
from netsim.__main__ import main
with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
    codes = [main(words.split()) for words in sys.argv[1:]]
print(codes, [name for name in ("numba", "llvmlite", "matplotlib") if name in sys.modules], said.getvalue())
"""


def test_help_and_refusals_do_not_load_the_engines(tmp_path):
    (tmp_path / "s.yaml").write_text(json.dumps(FIRST), encoding="utf-8")
    refused = (
        *("compare s.yaml topology.spins=3", "compare none.yaml", "compare s.yaml topology.queue=3KB"),
        *("compare s.yaml topology.failures=[{link:leaf0-spine9}]", "compare s.yaml rank_order=[5]"),
    )
    words = ["--help", "compare --help", "sweep --help", *(f"{line} --out out" for line in refused)]
    done = subprocess.run(
        [sys.executable, "-c", _ANSWERS, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith(f"{[0] * 3 + [2] * len(refused)} []"), done.stdout + done.stderr
