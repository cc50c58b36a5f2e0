"""What is asked of the averaged weights between steps does not change the steps."""

import os
from typing import Any

import pytest
import torch

from tests.ranks import run_ranks
from trainer.config.run import RunConfig
from trainer.flow import UNCONDITIONAL

ENGINES: dict[str, dict[str, Any]] = {"ZeRO 1": {}, "ZeRO 3": {"zero_stage": 3}, "FSDP2": {"kind": "fsdp"}}
STEPS = 4


def losses(engine_settings: dict[str, Any], world_size: int, *, examined: bool) -> list[float]:
    """Losses of a few steps, with or without an evaluation of the averaged weights after each."""
    from trainer.config.constraints.plan import plan_layout
    from trainer.distributed.engine.build import build_engine
    from trainer.distributed.engine.ema import MovingAverage
    from trainer.distributed.groups import divide_ranks, unite_ranks
    from trainer.model.build import build_model

    config = RunConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "model": {"kind": "mlp", "hidden": 16, "num_layers": 2},
            "data": {"kind": "toy"},
            "optim": {"steps": STEPS, "global_batch": 4 * world_size, "micro_batch": 4},
            "engine": engine_settings,
        }
    )
    layout = plan_layout(config, world_size)
    divide_ranks(1, 1)
    engine = build_engine(build_model(config, layout), config, layout, torch.device("cpu"))
    average, generator, found = MovingAverage(engine, 0.9), torch.Generator().manual_seed(0), []
    for step in range(1, STEPS + 1):
        x, t = torch.randn(4, 2, generator=generator), torch.rand(4, generator=generator)
        loss = (engine.model(x, t, UNCONDITIONAL) - x).square().mean()
        engine.backward(loss)
        engine.step(0.1, lambda _: None)
        average.update(step)
        found.append(float(loss.detach()))
        if examined:
            with torch.no_grad(), average.in_place():
                engine.module(x, t, UNCONDITIONAL)
    unite_ranks()
    return found


def both(rank: int, world_size: int) -> dict[str, tuple[list[float], list[float]]]:
    """Losses without and with evaluations, by engine."""
    os.environ["LOCAL_RANK"] = str(rank)
    return {
        name: (losses(engine, world_size, examined=False), losses(engine, world_size, examined=True))
        for name, engine in ENGINES.items()
    }


@pytest.fixture(scope="module")
def found() -> list[dict[str, tuple[list[float], list[float]]]]:
    return run_ranks(both, 2)


@pytest.mark.parametrize("name", ENGINES)
def test_an_evaluation_of_the_average_changes_no_step(
    found: list[dict[str, tuple[list[float], list[float]]]], name: str
) -> None:
    for rank in found:
        undisturbed, examined = rank[name]
        assert examined == undisturbed
        assert len(set(undisturbed)) == STEPS
