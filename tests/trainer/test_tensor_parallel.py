"""Runs whose blocks are divided over ranks, against the same runs on one rank."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ranks import run_ranks
from tests.trainer.parallel_runs import Division, train

DIVISIONS = {
    "dit, tensor 2 x data 2, ZeRO 0": Division("dit", tensor=2, engine={"zero_stage": 0}),
    "dit, tensor 2 x data 2, ZeRO 1": Division("dit", tensor=2, engine={"zero_stage": 1}),
    "dit, tensor 2 x data 2, ZeRO 3": Division("dit", tensor=2, engine={"zero_stage": 3}),
    "dit, tensor 4, ZeRO 2": Division("dit", tensor=4, engine={"zero_stage": 2}),
    "gpt, tensor 2 x data 2, ZeRO 2": Division("gpt", tensor=2, engine={"zero_stage": 2}),
    "dit, tensor 2 x data 2, FSDP2": Division("dit", tensor=2, engine={"kind": "fsdp"}),
    "gpt, tensor 4, FSDP2": Division("gpt", tensor=4, engine={"kind": "fsdp"}),
    "gpt, tensor 4, ZeRO 0": Division("gpt", tensor=4, engine={"zero_stage": 0}),
}


def train_all(rank: int, world_size: int, folder: str, divisions: dict[str, Division]) -> dict[str, Any]:
    return {
        name: train(rank, world_size, division.config(Path(folder) / f"{world_size} {name}"))
        for name, division in divisions.items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def alone(folder: str) -> dict[str, Any]:
    return run_ranks(train_all, 1, folder, {kind: Division(kind) for kind in ("dit", "gpt")})[0]


@pytest.fixture(scope="module")
def divided(folder: str) -> list[dict[str, Any]]:
    return run_ranks(train_all, 4, folder, DIVISIONS)


@pytest.mark.parametrize("name", DIVISIONS)
def test_a_divided_run_equals_that_of_one_rank(alone: dict[str, Any], divided: list[dict[str, Any]], name: str) -> None:
    figures, weights = alone[DIVISIONS[name].kind]
    assert min(values["grad_norm"] for values in figures) > 0.5, "the gradient was never clipped"
    for rank in divided:
        found, found_weights = rank[name]
        for values, expected in zip(found, figures, strict=True):
            assert values == pytest.approx(expected, rel=1e-4)
        assert found_weights.keys() == weights.keys()
        for parameter, value in found_weights.items():
            torch.testing.assert_close(value, weights[parameter], rtol=1e-3, atol=1e-4)
