"""A rank whose start is refused ends the launcher that would start it again; a stage leaves that to its parent."""

import os
import signal
import subprocess
import sys

import pytest

from trainer.distributed.process.signals import STAGE

AGENT = """
import signal, subprocess, sys
told = []
signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
rank = "from trainer.distributed.process.signals import end_launcher; end_launcher(); raise SystemExit(2)"
code = subprocess.run([sys.executable, "-c", rank]).returncode
print(code, *told)
"""


@pytest.mark.parametrize(
    ("variables", "told"),
    [({"TORCHELASTIC_RUN_ID": "run"}, True), ({}, False), ({"TORCHELASTIC_RUN_ID": "run", STAGE: "teacher"}, False)],
)
def test_only_a_rank_of_torchrun_ends_its_agent(variables: dict[str, str], told: bool) -> None:
    inherited = {name: value for name, value in os.environ.items() if name not in ("TORCHELASTIC_RUN_ID", STAGE)}
    environment = {**inherited, **variables}
    agent = subprocess.run(
        [sys.executable, "-c", AGENT], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert agent.stdout.split() == ["2", *([str(int(signal.SIGTERM))] if told else [])]
