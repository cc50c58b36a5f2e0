"""Points and autoencoders on two ranks, against the same runs on one; transformers are in test_tensor_parallel."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.ranks import run_ranks
from tests.trainer.parallel_runs import Division, train

STEPS = 3
KINDS = ("mlp", "transition_mlp", "causal_transition", "autoencoder")
ENGINES: dict[str, dict[str, Any]] = {
    "ZeRO 1": {"zero_stage": 1},
    "ZeRO 3": {"zero_stage": 3},
    "FSDP2": {"kind": "fsdp"},
}
CASES = ("mlp, ZeRO 1", "transition_mlp, FSDP2", "causal_transition, ZeRO 3", "autoencoder, FSDP2")
"""Every network and every engine; parts of networks that are called by themselves, and convolutions, are divided."""


def train_all(rank: int, world_size: int, folder: str, names: tuple[str, ...]) -> dict[str, Any]:
    found = {}
    for name in names:
        kind, _, engine = name.partition(", ")
        division = Division(kind, engine=ENGINES[engine])
        found[name] = train(rank, world_size, division.config(Path(folder) / f"{world_size} {name}", STEPS))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def alone(folder: str) -> dict[str, Any]:
    return run_ranks(train_all, 1, folder, tuple(f"{kind}, ZeRO 1" for kind in KINDS))[0]


@pytest.fixture(scope="module")
def divided(folder: str) -> list[dict[str, Any]]:
    return run_ranks(train_all, 2, folder, CASES)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_train_and_draw_as_one(
    alone: dict[str, Any], divided: list[dict[str, Any]], folder: str, name: str
) -> None:
    kind = name.partition(", ")[0]
    figures, weights = alone[f"{kind}, ZeRO 1"]
    assert len(figures) == STEPS
    assert "held_out_loss" in figures[-1]
    for rank in divided:
        found, found_weights = rank[name]
        for values, expected in zip(found, figures, strict=True):
            assert values == pytest.approx(expected, rel=1e-4)
        assert found_weights.keys() == weights.keys()
        for parameter, value in found_weights.items():
            torch.testing.assert_close(value, weights[parameter], rtol=1e-3, atol=1e-4)
    assert ("reconstruction_error" in figures[0]) == (kind == "autoencoder"), "what a loss is made of is told"
    one, two = (
        np.asarray(Image.open(Path(folder) / run / "samples" / f"step_{STEPS:08d}.png")).astype(int)
        for run in (f"1 {kind}, ZeRO 1", f"2 {name}")
    )
    assert one.std() > 10, "there is something to see"
    assert one.shape == two.shape
    assert np.abs(one - two).mean() < 0.5
