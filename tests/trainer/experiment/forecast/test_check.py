"""What the check verb prints of the memory of a run."""

import re
from pathlib import Path

import pytest
import yaml

from tests.forked import command
from tests.trainer.experiment.forecast.cases import document


@pytest.fixture
def run(tmp_path: Path) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document("mlp", "zero 1", "bf16")))
    return str(path)


def test_memory_by_part_and_a_proposal(run: str) -> None:
    checked = command("check", run, "--world-size", "4", "--fit", "40MB")
    assert checked.returncode == 0, checked.stderr
    assert "memory of a rank, by formula" in checked.stdout
    for part in ("parameters", "gradients", "optimizer", "average", "activations", "buffers"):
        assert part in checked.stdout
    told = re.search(r"fits 40.0 MB with ([0-9.]+) MB", checked.stdout)
    assert told is not None
    assert float(told[1]) <= 40
    overrides = checked.stdout.splitlines()[-1].replace("'", "")
    again = command("check", run, *re.split(r" (?=[a-z_.]+=)", overrides), "--world-size", "4")
    assert f"a rank needs {told[1]} MB at most" in again.stdout


@pytest.mark.parametrize("size", ["80", "much", "1KB"])
def test_wrong_or_impossible_sizes_end_with_one_line(run: str, size: str) -> None:
    checked = command("check", run, "--world-size", "4", "--fit", size)
    assert checked.returncode == 2
    assert checked.stderr.strip().count("\n") == 0
    assert "--fit" in checked.stderr


def test_a_loss_that_needs_values_has_no_known_memory() -> None:
    checked = command("check", "configs/methods/monge_map.yaml", "--world-size", "2")
    assert checked.returncode == 0, checked.stderr
    assert "memory: not known" in checked.stdout
