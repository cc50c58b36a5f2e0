"""What the check verb prints of the memory of a run."""

import re
from pathlib import Path

import pytest
import yaml

from tests.trainer.commands import refused
from tests.trainer.experiment.forecast.cases import document
from trainer.__main__ import main


@pytest.fixture
def run(tmp_path: Path) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document("mlp", "zero 1", "bf16")))
    return str(path)


def test_memory_by_part_and_a_proposal(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", run, "--world-size", "4", "--fit", "40MB"]) == 0
    checked = capsys.readouterr().out
    assert "memory of a rank, by formula" in checked
    for part in ("parameters", "gradients", "optimizer", "average", "activations", "buffers"):
        assert part in checked
    told = re.search(r"fits 40.0 MB with ([0-9.]+) MB", checked)
    assert told is not None
    assert float(told[1]) <= 40
    overrides = checked.splitlines()[-1].replace("'", "")
    assert main(["check", run, *re.split(r" (?=[a-z_.]+=)", overrides), "--world-size", "4"]) == 0
    assert f"a rank needs {told[1]} MB at most" in capsys.readouterr().out


def test_a_wrong_size_ends_with_one_line(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "check", run, "--world-size", "4", "--fit", "80").startswith("--fit: ")


def test_a_loss_that_needs_values_has_no_known_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "configs/methods/monge_map.yaml", "--world-size", "2"]) == 0
    assert "memory: not known" in capsys.readouterr().out
