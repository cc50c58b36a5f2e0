"""Processes that moe starts end with it."""

import json
from pathlib import Path

import pytest

from tests.netsim.test_processes import LONG, session, started, waited_for
from tests.netsim.traces import TraceWriter

_PRICED = """
from pathlib import Path
from moe.price.price import simulate

simulate(Path("trace.jsonl"), Path("s.yaml"), Path("out"))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are read from /proc")
def test_a_simulation_ends_with_the_price_that_started_it(tmp_path):
    trace = TraceWriter(2)
    trace.pair(0, 1, 10**10)
    trace.write(tmp_path / "trace.jsonl")
    (tmp_path / "s.yaml").write_text(json.dumps(LONG), encoding="utf-8")
    (tmp_path / "priced.py").write_text(_PRICED, encoding="utf-8")
    with started(["priced"], tmp_path) as process:
        assert waited_for(lambda: bool(session(process.pid)) or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        process.kill()
        assert waited_for(lambda: not session(process.pid)), session(process.pid)
