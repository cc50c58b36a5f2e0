"""What DeepSpeed makes of a step, on one rank and on several that share experts and hold copies of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.each import each
from tests.ranks import run_ranks
from tests.trainer.training.migration.migrated import Run
from tests.trainer.training.migration.migrated import configuration as migrated_configuration
from trainer.config.run import RunConfig
from trainer.distributed.engine.protocol import StepOutcome
from trainer.flow import Condition

STAGES = (0, 1, 2)


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


def gradient_norms() -> dict[tuple[int, float, int], float]:
    """The norm after the same micro batch one, two or three times."""
    from trainer.config.rules.plan import plan_layout
    from trainer.distributed.engine.deepspeed import DeepSpeedEngine
    from trainer.model.build import build_model

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
                    engine.backward((engine.model(x_t, torch.full((4,), 0.5), Condition()) - x_t).square().mean())
                norms[zero_stage, aux_loss, accumulation] = engine.step(1e-3, lambda _: None).norm
    return norms


def trajectory(world_size: int, zero_stage: int) -> dict[str, Any]:
    """Losses and norms of four clipped AdamW steps over the same four micro batches, and the weights at their end."""
    config = migrated_configuration(
        expert_parallel=min(world_size, 2), zero_stage=zero_stage, clip_norm=0.5, micro_batch=4
    )
    run = Run(config, world_size)
    losses, norms = [], []
    for step in range(1, 5):
        losses.append(run.step(step))
        norms.append(run.norm)
    return {"losses": losses, "norms": norms, "weights": {s.name: s.tensor.clone() for s in run.engine.shards()}}


def unaided(world_size: int) -> dict[str, Any]:
    """What DeepSpeed does without our workarounds."""
    from deepspeed.runtime.utils import clip_grad_norm_

    from trainer.distributed.engine.deepspeed import DeepSpeedEngine
    from trainer.distributed.engine.deepspeed_module import MegatronGroups

    found: dict[str, Any] = {}
    clipped = Run(migrated_configuration(zero_stage=0), world_size)
    engine = clipped.engine
    assert isinstance(engine, DeepSpeedEngine)
    step = engine.step

    def step_after_deepspeed_clips(lr: float, objection: Callable[[float], str | None]) -> StepOutcome:
        for named in engine._named:
            if named.stack is not None:  # in the first step the experts' gradients are zero
                assert named.parameter.grad is not None
                named.parameter.grad.fill_(0.01)
        found["norm by DeepSpeed"] = float(
            clip_grad_norm_(engine.module.parameters(), max_norm=1e9, mpu=MegatronGroups())
        )
        return step(lr, objection)

    engine.step = step_after_deepspeed_clips
    clipped.step(1)
    found["norm"], found["norm reported"] = clipped.norm, engine._engine.get_global_grad_norm()
    return found


def coherent_step() -> dict[str, Any]:
    """A step of a network whose tokens stay with their experts."""
    from moe.coherent_layer import CoherentMoELayer
    from trainer.config.rules.plan import plan_layout
    from trainer.distributed.engine.deepspeed import DeepSpeedEngine
    from trainer.model.build import build_model

    config = RunConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "model": {"kind": "gpt", "hidden": 16, "num_layers": 2, "num_heads": 2, "context": 8},
            "data": {"context": 8},
            "moe": {"num_experts": 4, "expert_hidden": 8, "dispatch": "coherent"},
            "optim": {"steps": 1, "global_batch": 3},
        }
    )
    layout = plan_layout(config, 1)
    module = build_model(config, layout)
    engine = DeepSpeedEngine(module, config, layout, torch.device("cpu"))
    tokens = torch.randint(256, (3, 9), generator=torch.Generator().manual_seed(0))
    engine.backward(engine.model(tokens[:, :-1], tokens[:, 1:]).mean())
    kinds = [isinstance(block.feed_forward, CoherentMoELayer) for block in module.blocks]
    experts = sum(shard.expert is not None for shard in engine.shards())
    return {"coherent": kinds, "norm": engine.step(1e-3, lambda _: None).norm, "expert parameters": experts}


def one_rank(_rank: int, world_size: int) -> dict[str, Any]:
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel()
    trajectories = {f"ZeRO {stage}": trajectory(world_size, stage) for stage in STAGES}
    return {"norms": gradient_norms(), "coherent": coherent_step(), **trajectories}


def four_ranks(_rank: int, world_size: int) -> dict[str, Any]:
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(expert_model_parallel_size=2)
    return {"unaided": unaided(world_size), **{f"ZeRO {stage}": trajectory(world_size, stage) for stage in STAGES}}


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return run_ranks(one_rank, 1)[0]


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return run_ranks(four_ranks, 4)


@each("zero_stage", [0, 1])
@each("aux_loss", [0.0, 10.0])
def test_the_same_micro_batch_again_changes_nothing(alone: dict[str, Any], zero_stage: int, aux_loss: float) -> None:
    norms = alone["norms"]
    once = norms[zero_stage, aux_loss, 1]
    for accumulation in (2, 3):
        assert norms[zero_stage, aux_loss, accumulation] == pytest.approx(once, rel=1e-5)


@pytest.mark.parametrize("zero_stage", [0, 1])
def test_the_load_balancing_loss_reaches_the_gradient(alone: dict[str, Any], zero_stage: int) -> None:
    assert alone["norms"][zero_stage, 10.0, 1] > 1.01 * alone["norms"][zero_stage, 0.0, 1]


@pytest.mark.parametrize("zero_stage", STAGES)
def test_four_ranks_that_share_and_copy_experts_train_as_one(
    alone: dict[str, Any], ranks: list[dict[str, Any]], zero_stage: int
) -> None:
    name = f"ZeRO {zero_stage}"
    expected = alone[name]
    assert min(expected["norms"]) > 0.5, "the gradient was never clipped"
    losses = np.mean([rank[name]["losses"] for rank in ranks], axis=0)
    np.testing.assert_allclose(losses, expected["losses"], rtol=1e-5)
    held = set()
    for rank in ranks:
        np.testing.assert_allclose(rank[name]["norms"], expected["norms"], rtol=1e-4)
        for parameter, value in rank[name]["weights"].items():
            torch.testing.assert_close(value, expected["weights"][parameter], rtol=1e-3, atol=1e-4)
        held |= rank[name]["weights"].keys()
    assert held == expected["weights"].keys()


def test_every_zero_stage_takes_the_same_steps(alone: dict[str, Any]) -> None:
    for stage in STAGES[1:]:
        np.testing.assert_allclose(alone[f"ZeRO {stage}"]["losses"], alone["ZeRO 0"]["losses"], rtol=1e-5)


def test_a_layer_that_deepspeed_recognises_dispatches_as_before(alone: dict[str, Any]) -> None:
    assert alone["coherent"]["coherent"] == [True, True]
    assert alone["coherent"]["norm"] > 0
    assert alone["coherent"]["expert parameters"] == 2 * 4 * 2


def test_deepspeed_still_clips_experts_by_a_wrong_norm_without_zero(ranks: list[dict[str, Any]]) -> None:
    """If this fails, DeepSpeed was mended, and `DeepSpeedEngine._gradients` can go."""
    for found in (rank["unaided"] for rank in ranks):
        assert found["norm reported"] is None
        assert abs(found["norm by DeepSpeed"] / found["norm"] - 1) > 0.001
