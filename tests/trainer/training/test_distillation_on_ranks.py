"""Distillation under each engine and with experts: two ranks train as one, a resumed run is the straight one."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ranks import run_ranks
from tests.trainer.training.on_ranks import Found, assert_resumed_bit_by_bit, straight_and_resumed, train
from trainer.checkpoint.pretrained import pinned
from trainer.config.file import resolve
from trainer.config.run import RunConfig

STEPS, SAVED = 4, 2
MLP: dict[str, Any] = {
    "model": {"kind": "mlp", "hidden": 16, "num_layers": 1, "dropout": 0.1},
    "data": {"kind": "toy", "num_examples": 17, "held_out": 5, "classes": True},
    "sample": {"every": STEPS, "num": 6, "guidance": 1.0, "sampler": {"kind": "renoise", "steps": 2}},
}
EXPERTS: dict[str, Any] = {
    "model": {"kind": "dit", "hidden": 16, "num_heads": 2, "num_layers": 2, "patch_size": 4, "dropout": 0.1},
    "data": {"kind": "digits", "held_out": 1700},
    "moe": {"num_experts": 4, "expert_hidden": 16, "router": {"kind": "top_k", "score": "sigmoid", "bias_rate": 0.1}},
    "sample": {"every": STEPS, "per_class": 1, "guidance": 1.0, "sampler": {"kind": "euler", "steps": 1}},
    "trace": {"steps": [1]},
}
RUNS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    **{f"ZeRO {stage}": (MLP, {"zero_stage": stage}) for stage in (0, 2, 3)},
    "FSDP2": (MLP, {"kind": "fsdp", "activation_checkpointing": True}),
    "experts": (EXPERTS, {"zero_stage": 1, "activation_checkpointing": True}),
}
"""What each run trains, and its engine; ZeRO 1 is that of the experts."""
OBJECTIVE: dict[str, Any] = {"kind": "velocity_distillation", "step": 0.1, "guidance": [2.0, 1.0]}
RESUMED = ("FSDP2", "experts")


def config(folder: Path, name: str, run: str, ranks: int, *, teaches: bool = False) -> RunConfig:
    sections, engine = RUNS[name]
    teacher = folder / (f"teacher of {ranks}" if "moe" in sections else "teacher")
    steps = 2 if teaches else STEPS
    document: dict[str, Any] = {
        "run": {"dir": teacher if teaches else folder / run, "seed": int(teaches)},
        **sections,
        "flow": {} if teaches else {"objective": {**OBJECTIVE, "teacher": {"run": teacher}}},
        "optim": {"steps": steps, "global_batch": 8, "micro_batch": 2, "lr": 1e-2, "ema_decay": 0.5},
        "engine": engine,
        "parallel": {"expert": ranks if "moe" in sections else 1},
        "checkpoint": {"every": SAVED, "keep": 9},
        "observe": {"log_every": 1, "tensorboard": False},
        "evaluate": {"every": STEPS},
    }
    return pinned(RunConfig.model_validate(resolve(document).document))


def train_all(rank: int, world_size: int, folder: str, names: Sequence[str], teachers: Sequence[str]) -> Found:
    """Teachers, then students, straight and then from a checkpoint of that run on."""
    found: Found = {}
    for name in teachers:
        train(rank, world_size, config(Path(folder), name, "", world_size, teaches=True), None)
        torch.distributed.barrier()
    for name in names:
        configured = partial(config, Path(folder), name, ranks=world_size)
        found |= straight_and_resumed(rank, world_size, name, configured, SAVED if name in RESUMED else None)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def alone(folder: Path) -> Found:
    return run_ranks(train_all, 1, str(folder), ("FSDP2", "experts"), ("FSDP2", "experts"))[0]


@pytest.fixture(scope="module")
def divided(folder: Path, alone: Found) -> list[Found]:
    assert alone, "its dense teacher is asked here too"
    return run_ranks(train_all, 2, str(folder), tuple(RUNS), ("experts",))


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_distil_as_one(alone: Found, divided: list[Found], name: str) -> None:
    expected, weights = alone[name if name in alone else "FSDP2"]
    assert len(expected) == STEPS
    assert "held_out_loss" in expected[-1]
    for rank in divided:
        figures, found = rank[name]
        for values, truth in zip(figures, expected, strict=True):
            compared = values.keys() - {key for key in values if "load" in key or "token" in key}
            assert {key: values[key] for key in compared} == pytest.approx({k: truth[k] for k in compared}, rel=1e-3)
        for parameter, value in found.items():
            torch.testing.assert_close(value, weights[parameter], rtol=1e-3, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_distillation_is_the_straight_one_bit_by_bit(divided: list[Found], folder: Path, name: str) -> None:
    assert_resumed_bit_by_bit(divided, folder, name)
