"""The part of the report about memory says what check says."""

from pathlib import Path

import pytest

from tests.trainer.commands import ALONE, DIGITS
from trainer import load_config
from trainer.__main__ import main

RUN = ("moe=null", "model={kind: dit, hidden: 16, num_layers: 1, num_heads: 2}", "optim.global_batch=16", *ALONE)


def test_the_page_shows_the_memory_that_check_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run", tmp_path / "index.html"
    run.mkdir()
    (run / "config.yaml").write_text(load_config(DIGITS, [*RUN, f"run.dir={run}"]).to_yaml())
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0, "lr": 0.1}\n')
    assert main(["check", str(run / "config.yaml")]) == 0
    told = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("a rank needs "))
    most = told.removeprefix("a rank needs ").partition(" at most")[0]
    assert main(["report", str(run), "--memory", "--out", str(out)]) == 0
    assert f"{most} at most" in " ".join(capsys.readouterr().out.split())
    page = out.read_text()
    assert most in page
    assert "activations" in page
    assert main(["report", str(run), "--out", str(out)]) == 0
    assert "activations" not in out.read_text()
