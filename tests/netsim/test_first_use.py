"""The first use of netsim: runs without the compiled core, and answers before the engines load."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from netsim import simulate
from netsim.foundation.refusal import Refusal
from netsim.simulation.engines import packet_hops
from netsim.simulation.prepare import prepare
from netsim.simulation.results import Run
from netsim.simulation.scenario import read_scenario
from tests.each import each
from tests.netsim.documents import collective_of, scenario_of

FIRST: dict[str, Any] = scenario_of(
    4,
    2,
    2,
    collective_of("all_to_all", "100KB"),
    transports=["ecmp", "spray_random", {"kind": "ethereal", "order": "staggered"}, "ideal"],
    seeds=[0, 1],
)
SLOW = {**FIRST["topology"], "failures": [{"link": "leaf0-spine1", "rate": "10Gbps", "at": "2us"}]}
SCENARIOS = {
    "as in the README": {},
    "a slow link": {"topology": SLOW},
    "unequal spines": {"topology": {**FIRST["topology"], "fabric_rate": ["100Gbps", "30Gbps"]}},
    "tasks that wait": {"workload": collective_of("all_reduce", "64KB")},
    "ranks of one host": {"topology": {**FIRST["topology"], "ranks_per_host": 2, "leaves": 2}},
    "congestion control": {"congestion": {"kind": "dctcp"}, "transports": ["ecmp", "reps"]},
}


def same(one: Run, other: Run) -> bool:
    """Whether everything that two runs found is equal to the last bit."""
    figures = "completion_ps", "packets", "packet_hops", "control_hops", "losses", "collectives"
    return all(getattr(one, name) == getattr(other, name) for name in figures) and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("flows", "links")
    )


@pytest.fixture
def without_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if netsim had been installed without its compiled core."""
    for module in ("netsim.simulation.engines", "netsim.simulation.compare", "netsim.simulation.prepare"):
        monkeypatch.setattr(f"{module}.is_core_built", lambda: False, raising=False)


@pytest.mark.parametrize("name", SCENARIOS)
def test_runs_without_the_core_equal_the_others(name, request):
    packets = {"transports": [kind for kind in (FIRST | SCENARIOS[name])["transports"] if kind != "ideal"]}
    compiled = simulate(FIRST | SCENARIOS[name] | packets).runs
    request.getfixturevalue("without_core")
    plain = simulate(FIRST | SCENARIOS[name] | packets)
    assert {run.engine for run in plain.runs} == {"simpy"}
    assert sum("without its compiled core" in notice for notice in plain.notices) == 1
    for one, other in zip(compiled, plain.runs, strict=True):
        assert same(one, other), one.transport


@each("changes", [{"engine": "windowed", "transports": ["ecmp"]}, {"transports": ["ideal"]}])
def test_what_needs_the_core_is_refused_without_it(changes, without_core):  # noqa: ARG001
    with pytest.raises(Refusal, match=r"without its compiled core.*install a C\+\+20 compiler"):
        simulate(FIRST | changes)


def test_what_would_take_simpy_hours_is_refused_without_the_core(without_core):  # noqa: ARG001
    large = {"workload": {**FIRST["workload"], "bytes_per_rank": "1TB"}, "transports": ["ecmp"]}
    with pytest.raises(Refusal, match="hours"):
        simulate(FIRST | large)


def test_work_is_known_before_the_run():
    scene = prepare(read_scenario(FIRST), "scenario").scene
    assert {run.packet_hops for run in simulate(FIRST).runs} == {packet_hops(scene), 0}


_ANSWERS = """
import io, sys
from contextlib import redirect_stderr, redirect_stdout
from netsim.__main__ import main
with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
    codes = [main(words.split()) for words in sys.argv[1:]]
print(codes, [name for name in ("netsim.engine._core", "matplotlib") if name in sys.modules], said.getvalue())
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
