"""Runs of adjoint matching: one rank as two, killed as undisturbed, with adapters, experts and every engine."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.forked import ROOT, command
from tests.trainer.runs import assert_equal_folders, timeless
from trainer.config.file import load_config

pytestmark = pytest.mark.slow
BASE = (
    str(ROOT / "configs" / "runs" / "toy.yaml"),
    "model.hidden=16",
    "model.num_layers=1",
    "data.held_out=64",
    "optim.steps=40",
    "optim.warmup_steps=0",
    "optim.global_batch=64",
    "checkpoint.every=40",
    "evaluate.every=40",
    "sample.every=null",
    "observe.tensorboard=false",
)
TILT = """
task:
  {{kind: adjoint_matching, base: {base}, reward: {{kind: distance, target: [2, 2]}}, steps: 8, nodes: 4, at_once: 2}}
optim: {{steps: 6, global_batch: 32, micro_batch: 8, lr: 1.0e-3, warmup_steps: 0, ema_decay: 0.9}}
checkpoint: {{every: 2, keep: 9}}
evaluate: {{every: 2}}
sample: {{every: 6, num: 64}}
observe: {{log_every: 1, tensorboard: false}}
run: {{dir: {folder}, seed: 3}}
"""
LAST = Path("checkpoints/step_00000006")
EXPERTS = "moe={num_experts: 4, expert_hidden: 16, top_k: 2}"


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    for name, more in {"dense": (), "experts": (EXPERTS,)}.items():
        result = command("train", *BASE, *more, f"run.dir={folder / name}", ranks=1)
        assert result.returncode == 0, result.stderr
    return {name: folder / name for name in ("dense", "experts")}


def words(folder: Path, base: Path) -> tuple[str, ...]:
    path = folder.parent / f"{folder.name}.yaml"
    path.write_text(TILT.format(base=base, folder=folder), encoding="utf-8")
    return ("train", str(path))


def tilted(folder: Path, base: Path, *more: str, ranks: int = 1) -> Path:
    result = command(*words(folder, base), *more, ranks=ranks)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def undisturbed(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return {ranks: tilted(folder / f"{ranks}", bases["dense"], ranks=ranks) for ranks in (1, 2)}


def figures(folder: Path, name: str) -> list[float]:
    return [values[name] for _, values in timeless(folder / "metrics.jsonl") if name in values]


def test_two_ranks_tilt_as_one(undisturbed: dict[int, Path]) -> None:
    for name in ("loss", "reward", "path_kl", "held_out_reward", "reward_calls", "network_calls"):
        one, two = (figures(undisturbed[ranks], name) for ranks in (1, 2))
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-6)
    alone, shared = (load_file(undisturbed[ranks] / LAST / "ema.safetensors") for ranks in (1, 2))
    for name, value in alone.items():
        torch.testing.assert_close(shared[name], value, rtol=0, atol=1e-5)
    assert figures(undisturbed[2], "reward_calls")[-1] == 6 * 32
    assert figures(undisturbed[2], "network_calls")[-1] == 6 * 32 * (8 + 8 + 4)
    assert (undisturbed[1] / "samples" / "step_00000006.png").exists()


@pytest.mark.parametrize("step", [3, 4])
def test_killed_it_ends_as_undisturbed(
    bases: dict[str, Path], undisturbed: dict[int, Path], step: int, tmp_path: Path
) -> None:
    program = ROOT / "tests" / "trainer" / "training" / "killed_run.py"
    asked = words(tmp_path / "1", bases["dense"])
    killed = command(*asked, ranks=1, program=program, KILL_RANK="0", KILL_STEP=f"{step}")
    assert killed.returncode != 0
    tilted(tmp_path / "1", bases["dense"])
    assert_equal_folders(undisturbed[1] / "checkpoints", tmp_path / "1" / "checkpoints")
    assert timeless(undisturbed[1] / "metrics.jsonl") == timeless(tmp_path / "1" / "metrics.jsonl")


def test_the_base_stays_as_it_is_and_is_where_the_run_begins(
    bases: dict[str, Path], undisturbed: dict[int, Path]
) -> None:
    config = load_config(undisturbed[1] / "config.yaml")
    assert config.model.init_from == bases["dense"]
    assert figures(undisturbed[1], "path_kl")[0] == pytest.approx(0, abs=1e-9)
    assert figures(undisturbed[1], "path_kl")[-1] > 1e-6


@pytest.mark.parametrize(
    "engine", ["{kind: deepspeed, zero_stage: 2}", "{kind: deepspeed, zero_stage: 3}", "{kind: fsdp}"]
)
def test_every_engine_tilts_alike(
    bases: dict[str, Path], undisturbed: dict[int, Path], engine: str, tmp_path: Path
) -> None:
    run = tilted(tmp_path / "run", bases["dense"], f"engine={engine}", "sample.every=null", ranks=2)
    for name in ("loss", "reward", "path_kl"):
        np.testing.assert_allclose(figures(run, name), figures(undisturbed[1], name), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "engine", ["{kind: deepspeed, zero_stage: 1}", "{kind: deepspeed, zero_stage: 3}", "{kind: fsdp}"]
)
def test_adapters_ask_their_own_network_without_them(bases: dict[str, Path], engine: str, tmp_path: Path) -> None:
    """As a copy of the base would answer: the first step, whose adapters are 0, has no divergence."""
    adapters = "model.adapters={kind: low_rank, rank: 2}"
    run = tilted(tmp_path / "run", bases["dense"], adapters, f"engine={engine}", ranks=2)
    assert figures(run, "path_kl")[0] == pytest.approx(0, abs=1e-9)
    assert figures(run, "path_kl")[-1] > 1e-8
    assert np.isfinite(figures(run, "loss")).all()


def test_a_mixture_is_tilted_on_two_ranks_as_on_one(bases: dict[str, Path], tmp_path: Path) -> None:
    """Routers that draw by top k choose the same experts whatever the micro batch."""
    one, two = (tilted(tmp_path / f"{ranks}", bases["experts"], "sample.every=null", ranks=ranks) for ranks in (1, 2))
    for name in ("loss", "reward", "path_kl"):
        np.testing.assert_allclose(figures(two, name), figures(one, name), rtol=1e-4, atol=1e-5)
