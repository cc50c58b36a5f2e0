"""The command for GPUs without one: it says so, and its comparisons hold between the CPU and itself."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.forked import ROOT
from tests.gpu import correct
from tests.gpu.measure import Measure

SHORT = ("mlp, ZeRO 1", "dit, sparse_ot, capped")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_card_it_says_so_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.gpu", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
    assert "no GPU" in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_cpu_equals_itself(tmp_path: Path) -> None:
    found = list(correct.measures(tmp_path, SHORT, [correct.ON_CPU, correct.ON_CPU]))
    assert [one.name.partition(":")[0] for one in found[:2]] == [*SHORT]
    assert {one.value for one in found if one.unit} == {0.0}


def test_a_gradient_of_float64_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.gpu import networks

    made = networks.diffusion_transformer
    monkeypatch.setattr(networks, "diffusion_transformer", lambda **sizes: made(**{**sizes, "hidden": 64, "layers": 1}))
    error = correct.gradient_error(torch.device("cpu"))
    assert 1e-4 < error < 3e-2, "as large as the rounding of bf16"


def test_measures_keep_to_their_bounds() -> None:
    assert Measure("share", 0.5, "", 0.4, "at least").met
    assert not Measure("time", 0.7, "ms", 0.6).met
    assert Measure("ceiling", 900.0, "TFLOP/s").met
    assert "MISSED" in Measure("time", 0.7, "ms", 0.6).line()
