"""A refused step leaves the engine as if its micro batches had never been."""

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.ranks import run_ranks
from tests.selected import selected
from trainer.config.run import RunConfig
from trainer.flow import UNCONDITIONAL

ACCUMULATION = 2
REFUSED, POISONED = 2, 3
ENGINES = [
    pytest.param(("dense", 0, "fp32"), marks=pytest.mark.slow),
    pytest.param(("dense", 1, "fp32"), marks=pytest.mark.slow),
    pytest.param(("dense", 2, "fp32"), marks=pytest.mark.slow),
    pytest.param(("dense", 3, "fp32"), marks=pytest.mark.slow),
    ("dense", 1, "bf16"),
    ("dense", 3, "bf16"),
    ("experts", 0, "fp32"),
    ("experts", 1, "fp32"),
    pytest.param(("experts", 2, "fp32"), marks=pytest.mark.slow),
    ("experts", 2, "bf16"),
]
"""The suite has every stage, both networks, and those that differ with the precision in bf16."""
Case = tuple[str, int, str]


def configuration(network: str, zero_stage: int, precision: str) -> RunConfig:
    experts = {"moe": {"num_experts": 4, "expert_hidden": 24}, "parallel": {"expert": 2}}
    return RunConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "model": {"hidden": 16, "num_layers": 2, "num_heads": 4},
            "optim": {"steps": 1, "global_batch": 8 * ACCUMULATION, "micro_batch": 4, "clip_norm": 0.5},
            "engine": {"zero_stage": zero_stage, "precision": precision},
            **(experts if network == "experts" else {}),
        }
    )


def steps(config: RunConfig, numbers: list[int]) -> dict[str, Any]:
    """Takes the numbered steps; the second is refused, and the third is NaN on the last rank."""
    from trainer.config.rules.plan import plan_layout
    from trainer.distributed.engine.deepspeed import DeepSpeedEngine
    from trainer.model.build import build_model

    layout = plan_layout(config, 2)
    module = build_model(config, layout)
    for index, parameter in enumerate(module.parameters()):
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(index))
    engine = DeepSpeedEngine(module, config, layout, torch.device("cpu"))
    outcomes = []
    for step in numbers:
        for local in range(ACCUMULATION):
            generator = torch.Generator().manual_seed(100 * step + 10 * dist.get_rank() + local)
            x_t = torch.randn(4, 1, 8, 8, generator=generator)
            loss = (engine.model(x_t, torch.full((4,), 0.5), UNCONDITIONAL) - x_t).square().mean()
            if step == POISONED and dist.get_rank() == 1 and local == 0:
                loss = loss * math.nan
            engine.backward(loss)
        outcomes.append(engine.step(1e-2, lambda _, step=step: "it is refused" if step == REFUSED else None))
    held = {shard.name: shard.tensor.clone() for shard in engine.shards()}
    return {"outcomes": [(outcome.norm, outcome.taken) for outcome in outcomes], "held": held}


def two_ranks(_rank: int, _world_size: int, cases: list[Case]) -> dict[Case, Any]:
    from megatron.core import parallel_state

    found = {}
    for expert_parallel in (1, 2):
        parallel_state.initialize_model_parallel(expert_model_parallel_size=expert_parallel)
        for case in cases:
            config = configuration(*case)
            if config.parallel.expert == expert_parallel:
                found[case] = steps(config, [1, 2, 3, 4]), steps(config, [1, 4])
        parallel_state.destroy_model_parallel()
    return found


@pytest.fixture(scope="module")
def ranks(request: pytest.FixtureRequest) -> list[dict[Case, Any]]:
    return run_ranks(two_ranks, 2, selected(request, "case"))


@pytest.mark.parametrize("case", ENGINES, ids=str)
def test_a_refused_step_changes_nothing(ranks: list[dict[Case, Any]], case: Case) -> None:
    for rank in ranks:
        guarded, undisturbed = rank[case]
        assert [taken for _, taken in guarded["outcomes"]] == [True, False, False, True]
        taken = [outcome for outcome in guarded["outcomes"] if outcome[1]]
        assert taken == undisturbed["outcomes"], "norms of the steps that were taken"
        assert math.isfinite(guarded["outcomes"][1][0]), "a refused norm is told as it was"
        assert not math.isfinite(guarded["outcomes"][2][0])
        for name, values in undisturbed["held"].items():
            assert torch.equal(guarded["held"][name], values), name


@pytest.mark.parametrize("case", ENGINES, ids=str)
def test_ranks_agree_on_the_norm(ranks: list[dict[Case, Any]], case: Case) -> None:
    norms = [[norm for norm, _ in rank[case][0]["outcomes"]] for rank in ranks]
    assert norms[0][:2] == norms[1][:2]
    assert norms[0][3] == norms[1][3]
