"""The attention cost of networks that ranks share, between the steps of their training, against one rank."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ranks import run_ranks
from trainer.config.run import RunConfig
from trainer.flow import Condition
from trainer.flow.control.protocol import ControlInputs, CostGradient, CostGradientConfig
from trainer.sampling.flow import FlowParts

EXPERTS = {"num_experts": 4, "top_k": 2, "expert_hidden": 16}
SPARSE = {**EXPERTS, "router": {"kind": "sparse_ot"}}
CASES: dict[str, dict[str, Any]] = {
    "dense": {},
    "dense, ZeRO 1": {"engine": {"zero_stage": 1}},
    "dense, ZeRO 3": {"engine": {"zero_stage": 3}},
    "dense, FSDP2": {"engine": {"kind": "fsdp"}},
    "dense, FSDP2, computed twice": {"engine": {"kind": "fsdp", "activation_checkpointing": True}},
    "dense, compiled": {"engine": {"compile": True}},
    "dense, tensor 2": {"parallel": {"tensor": 2}},
    "experts": {"moe": EXPERTS},
    "experts, expert 2": {"moe": EXPERTS, "parallel": {"expert": 2}},
    "sparse": {"moe": SPARSE},
    "sparse, expert 2": {"moe": {**SPARSE, "dispatch": "copies"}, "parallel": {"expert": 2}},
}
CONTROL = {"cost": {"kind": "attention", "subjects": [[0, 1], [2, 3]]}, "strength": 50.0, "limit": None}


def configuration(name: str) -> RunConfig:
    return RunConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "model": {"hidden": 16, "num_layers": 2, "num_heads": 4, "patch_size": 4},
            "optim": {"steps": 4, "global_batch": 8},
            **CASES[name],
        }
    )


def trained(config: RunConfig, world_size: int, *, controlled: bool) -> tuple[list[Tensor], list[float]]:
    """What the control subtracts after each of three steps, and the losses of these steps."""
    from trainer.config.rules.plan import plan_layout
    from trainer.distributed.engine import build_engine
    from trainer.distributed.groups import divide_ranks, unite_ranks
    from trainer.model.build import build_model

    layout = plan_layout(config, world_size)
    divide_ranks(layout.expert_parallel, layout.tensor_parallel)
    engine = build_engine(build_model(config, layout), config, layout, torch.device("cpu"))
    generator, found, losses = torch.Generator().manual_seed(0), [], []
    for _ in range(3):  # every rank has the same examples
        x = torch.randn(4, 1, 8, 8, generator=generator)
        t, condition = torch.rand(4, generator=generator), Condition(torch.arange(4))
        loss = (engine.model(x, t, condition) - x).square().mean()
        engine.backward(loss)
        losses.append(float(loss.detach()))
        engine.step(2e-2, lambda _norm: None)
        if controlled:
            with torch.no_grad(), engine.evaluating():
                parts = FlowParts(config)
                field = parts.field(engine.module, condition, 1.0)
                inputs = ControlInputs(parts.path, condition, engine.module)
                changed = CostGradient(CostGradientConfig.model_validate(CONTROL), inputs).over(field)
                found.append(field(x, t) - changed(x, t))
    unite_ranks()
    return found, losses


def train_all(_rank: int, world_size: int, names: list[str]) -> dict[str, Any]:
    return {
        name: [trained(configuration(name), world_size, controlled=controlled) for controlled in (True, False)]
        for name in names
    }


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return run_ranks(train_all, 1, ["dense", "experts", "sparse"])[0]


@pytest.fixture(scope="module")
def divided() -> list[dict[str, Any]]:
    return run_ranks(train_all, 2, [name for name in CASES if "," in name])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if "," in name])
def test_ranks_together_compute_the_gradient_of_one(
    alone: dict[str, Any], divided: list[dict[str, Any]], name: str
) -> None:
    expected, _ = alone[name.partition(",")[0]][0]
    assert min(float(control.abs().max()) for control in expected) > 1e-2
    for rank in divided:
        found, losses = rank[name][0]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)
        assert losses == rank[name][1][1], "the control leaves training as it is"
