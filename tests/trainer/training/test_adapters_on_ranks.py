"""Adapters under each engine: two ranks train as one, a resumed run is the straight one, checkpoints hold no more."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.ranks import run_ranks
from tests.trainer.training.on_ranks import Found, assert_resumed_bit_by_bit, straight_and_resumed
from tests.trainer.untrained import untrained_run
from trainer.checkpoint.pretrained import pinned
from trainer.config.file import load_config, resolve
from trainer.config.run import RunConfig
from trainer.model.build import frozen_parameters, parameter_shapes

STEPS, SAVED = 4, 2
NETWORK: dict[str, Any] = {
    "kind": "dit",
    "hidden": 16,
    "num_heads": 2,
    "num_layers": 2,
    "patch_size": 4,
    "dropout": 0.1,
}
ENGINES: dict[str, dict[str, Any]] = {
    **{f"ZeRO {stage}": {"zero_stage": stage} for stage in (0, 1, 2, 3)},
    "FSDP2": {"kind": "fsdp"},
    "ZeRO 1, computed twice": {"zero_stage": 1, "activation_checkpointing": True},
    "ZeRO 3, computed twice": {"zero_stage": 3, "activation_checkpointing": True},
    "FSDP2, computed twice": {"kind": "fsdp", "activation_checkpointing": True},
    "ZeRO 1, bf16": {"zero_stage": 1, "precision": "bf16"},
    "ZeRO 3, bf16": {"zero_stage": 3, "precision": "bf16"},
    "FSDP2, bf16": {"kind": "fsdp", "precision": "bf16"},
}


def config(folder: Path, engine: str, run: str) -> RunConfig:
    document: dict[str, Any] = {
        "run": {"dir": folder / run},
        "model": {**NETWORK, "adapters": {"kind": "low_rank", "base": folder / "base", "rank": 2, "alpha": 6}},
        "data": {"kind": "digits", "held_out": 1700, "rotate": 90},
        "optim": {"steps": STEPS, "global_batch": 8, "micro_batch": 2, "lr": 1e-2, "ema_decay": 0.5},
        "engine": ENGINES[engine],
        "checkpoint": {"every": SAVED, "keep": 9},
        "observe": {"log_every": 1, "tensorboard": False},
        "evaluate": {"every": STEPS},
        "sample": {"every": STEPS, "per_class": 1, "guidance": 1.0, "sampler": {"kind": "euler", "steps": 1}},
    }
    return pinned(RunConfig.model_validate(resolve(document).document))


def train_all(rank: int, world_size: int, folder: str, engines: Sequence[str]) -> Found:
    """A run under each engine, straight and then from a checkpoint of that run on."""
    found: Found = {}
    for name in engines:
        found |= straight_and_resumed(rank, world_size, name, partial(config, Path(folder), name), SAVED)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    untrained_run(folder / "base", {"model": NETWORK, "data": {"kind": "digits"}})
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> Found:
    return run_ranks(train_all, 1, str(folder), ("FSDP2", "ZeRO 1, bf16"))[0]


@pytest.fixture(scope="module")
def divided(folder: Path, alone: Found) -> list[Found]:
    assert alone, "process groups are made one after the other"
    return run_ranks(train_all, 2, str(folder), tuple(ENGINES))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_two_ranks_train_adapters_as_one(alone: Found, divided: list[Found], engine: str) -> None:
    rounded = engine.endswith("bf16")
    expected, weights = alone["ZeRO 1, bf16" if rounded else "FSDP2"]
    assert expected[0]["grad_norm"] > 0
    relative, absolute = (0.05, 5e-3) if rounded else (1e-4, 1e-5)
    for rank in divided:
        figures, found = rank[engine]
        for values, truth in zip(figures, expected, strict=True):
            for name in ("loss", "grad_norm", *(["held_out_loss"] if "held_out_loss" in truth else [])):
                assert values[name] == pytest.approx(truth[name], rel=relative), name
        assert found.keys() == weights.keys()
        for name, value in found.items():
            assert value.abs().max() > 0, f"{name} has learned"
            torch.testing.assert_close(value, weights[name], rtol=relative, atol=absolute if not rounded else 2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_resumed_adapters_are_the_straight_ones_bit_by_bit(divided: list[Found], folder: Path, engine: str) -> None:
    assert_resumed_bit_by_bit(divided, folder, engine)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_checkpoints_hold_weights_moments_and_averages_of_adapters_alone(
    divided: list[Found], folder: Path, engine: str
) -> None:
    assert divided
    run = folder / f"2 {engine}"
    checkpoint = run / "checkpoints" / f"step_{STEPS:08d}"
    own = load_config(checkpoint / "config.yaml")
    trained = sum(map(math.prod, parameter_shapes(own).values()))
    assert frozen_parameters(own) > 5 * trained
    values = [tensor for file in (checkpoint / "state").glob("*.safetensors") for tensor in load_file(file).values()]
    assert trained * 4 <= sum(tensor.numel() for tensor in values) <= trained * 4 + 64
