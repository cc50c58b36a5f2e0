"""What DeepSpeed makes of a step."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ranks import run_ranks
from trainer.config import RunConfig


def configuration(accumulation: int, aux_loss: float, zero_stage: int) -> RunConfig:
    return RunConfig.model_validate(
        {
            "run": {"dir": Path("unused")},
            "model": {"hidden": 16, "num_layers": 2, "num_heads": 4},
            "moe": {"num_experts": 4, "expert_hidden": 24, "router": {"kind": "top_k", "aux_loss": aux_loss}},
            "optim": {"steps": 1, "global_batch": 4 * accumulation, "micro_batch": 4, "clip_norm": None},
            "engine": {"zero_stage": zero_stage},
        }
    )


def gradient_norms(_rank: int, _world_size: int) -> dict[tuple[int, float, int], float]:
    """The norm after the same micro batch one, two or three times."""
    from megatron.core import parallel_state

    from trainer.engine.deepspeed import DeepSpeedEngine
    from trainer.layout import plan_layout
    from trainer.network import build_model

    parallel_state.initialize_model_parallel()
    norms = {}
    for zero_stage in (0, 1):
        for aux_loss in (0.0, 10.0):
            for accumulation in (1, 2, 3):
                config = configuration(accumulation, aux_loss, zero_stage)
                layout = plan_layout(config, 1)
                module = build_model(config, layout)
                generator = torch.Generator().manual_seed(2)
                for parameter in module.parameters():
                    torch.nn.init.normal_(parameter, std=0.1, generator=generator)
                engine = DeepSpeedEngine(module, config, layout, torch.device("cpu"))
                x_t = torch.randn(4, 1, 8, 8, generator=generator)
                for _ in range(accumulation):
                    engine.backward((engine.model(x_t, torch.full((4,), 0.5), None) - x_t).square().mean())
                norms[zero_stage, aux_loss, accumulation] = engine.step(1e-3)
    return norms


@pytest.fixture(scope="module")
def norms() -> dict[tuple[int, float, int], Any]:
    return run_ranks(gradient_norms, 1)[0]


@pytest.mark.parametrize("zero_stage", [0, 1])
@pytest.mark.parametrize("aux_loss", [0.0, 10.0])
def test_the_same_micro_batch_again_changes_nothing(norms: dict[Any, float], zero_stage: int, aux_loss: float) -> None:
    once = norms[zero_stage, aux_loss, 1]
    for accumulation in (2, 3):
        assert norms[zero_stage, aux_loss, accumulation] == pytest.approx(once, rel=1e-5)


@pytest.mark.parametrize("zero_stage", [0, 1])
def test_the_load_balancing_loss_reaches_the_gradient(norms: dict[Any, float], zero_stage: int) -> None:
    assert norms[zero_stage, 10.0, 1] > 1.01 * norms[zero_stage, 0.0, 1]
