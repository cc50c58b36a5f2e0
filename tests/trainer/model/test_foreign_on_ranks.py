"""Runs that start from imported weights, divided over ranks, against the same runs on one rank."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.ranks import run_ranks
from tests.trainer.model.foreign_networks import write
from tests.trainer.parallel_runs import CLIP_NORM, GLOBAL_BATCH, MICRO_BATCH, STEPS, train
from trainer.__main__ import main
from trainer.config.file import load_config
from trainer.config.run import RunConfig

pytestmark = pytest.mark.slow

KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "tied llama": {"tie_word_embeddings": True},
    "gpt-neox": {},
    "diffusers": {"num_attention_heads": 4, "attention_head_dim": 8},
}
DIVISIONS: dict[str, tuple[int, dict[str, Any]]] = {
    "tensor 2, ZeRO 1": (2, {"zero_stage": 1}),
    "ZeRO 3": (1, {"zero_stage": 3}),
    "tensor 2, FSDP2": (2, {"kind": "fsdp"}),
    "FSDP2, computed twice": (1, {"kind": "fsdp", "activation_checkpointing": True}),
}
RANKS = 4


def configuration(folder: Path, kind: str, name: str, tensor: int, engine: dict[str, Any]) -> RunConfig:
    imported = load_config(folder / kind / "config.yaml")
    document = imported.model_dump(mode="json")
    return RunConfig.model_validate(
        {
            **document,
            "run": {"dir": folder / f"{name}, {kind}"},
            "data": {"context": 12} if imported.model.kind == "gpt" else document["data"],
            "optim": {
                "steps": STEPS,
                "global_batch": GLOBAL_BATCH,
                "micro_batch": MICRO_BATCH,
                "lr": 1e-3,
                "clip_norm": CLIP_NORM,
                "ema_decay": 0.0,
            },
            "engine": engine,
            "parallel": {"tensor": tensor},
            "sample": {},
            "observe": {"log_every": 1, "tensorboard": False},
            "evaluate": {"every": STEPS},
        }
    )


def train_all(rank: int, world_size: int, folder: str, divisions: dict[str, tuple[int, dict[str, Any]]]) -> Any:
    found = {}
    for name, (tensor, engine) in divisions.items():
        for kind in KINDS:
            if "twice" not in name or kind == "diffusers":
                config = configuration(Path(folder), kind, f"{world_size} {name}", tensor, engine)
                found[f"{name}, {kind}"] = train(rank, world_size, config)
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[dict[str, Any]]]:
    """The folder, what one rank found and what each of several found."""
    folder = tmp_path_factory.mktemp("runs")
    for kind, changes in KINDS.items():
        write(folder / "theirs" / kind, kind.removeprefix("tied "), **changes)
        assert main(["import-weights", str(folder / "theirs" / kind), "--out", str(folder / kind)]) == 0
    alone = run_ranks(train_all, 1, str(folder), {"ZeRO 1": (1, {"zero_stage": 1})})[0]
    return folder, alone, run_ranks(train_all, RANKS, str(folder), DIVISIONS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DIVISIONS)
def test_divided_runs_from_imported_weights_equal_those_of_one_rank(
    runs: tuple[Path, dict[str, Any], list[dict[str, Any]]], name: str, kind: str
) -> None:
    folder, alone, divided = runs
    if f"{name}, {kind}" not in divided[0]:
        pytest.skip("computed twice is for a network whose blocks take more than tokens")
    figures, weights = alone[f"ZeRO 1, {kind}"]
    start = load_file(folder / kind / "model.safetensors")
    moved = max(float((weights[parameter] - value).abs().max()) for parameter, value in start.items())
    assert 1e-4 < moved < 2e-2, "the run began with the weights, and learned"
    for rank in divided:
        found, found_weights = rank[f"{name}, {kind}"]
        for values, expected in zip(found, figures, strict=True):
            assert values == pytest.approx(expected, rel=1e-3)
        assert found_weights.keys() == weights.keys() == start.keys()
        for parameter, value in found_weights.items():
            torch.testing.assert_close(value, weights[parameter], rtol=1e-3, atol=1e-4)
