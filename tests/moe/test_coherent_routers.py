"""Every kind of router in context-coherent dispatch: at inference as in home-return dispatch, or refused."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from moe.config import MoEConfig, RouterConfig, SparseOTRouterConfig, TopKRouterConfig
from tests.each import each
from tests.ranks import run_ranks

TOKENS, WIDTH, EXPERTS = 9, 12, 8
KINDS = [kind() for kind in get_args(get_args(RouterConfig)[0])]
REFUSED = [
    next(router for router in KINDS if router.kind == "expert_choice"),
    TopKRouterConfig(capacity_factor=1.0),
    SparseOTRouterConfig(inference_capacity_factor=1.5),
]
ALLOWED = [router for router in KINDS if router.kind != "expert_choice"]


def normalise(rows: Tensor) -> Tensor:
    return rows / rows.square().mean(dim=-1, keepdim=True).sqrt()


def configuration(router: Any) -> MoEConfig:
    return MoEConfig(num_experts=EXPERTS, expert_hidden=20, router=router, shared_expert_hidden=16)


def layer_of(kind: type[Any], config: MoEConfig, world_size: int) -> Any:
    from moe.layer import transformer_config

    megatron = transformer_config(
        config, hidden=WIDTH, num_layers=1, num_heads=1, expert_parallel=world_size, dtype=torch.float32
    )
    layer = kind(config, megatron, 0, 7, np.random.default_rng(0).permutation(EXPERTS))
    generator = torch.Generator().manual_seed(1)
    for weight in layer.shared_experts.parameters():
        torch.nn.init.normal_(weight, std=0.2, generator=generator)
    return layer


def on_a_rank(rank: int, world_size: int) -> dict[str, dict[str, Any]]:
    from megatron.core import parallel_state

    from moe.coherent_layer import CoherentMoELayer
    from moe.dispatch.residency import Residency, return_home
    from moe.layer import PlacedMoELayer

    parallel_state.initialize_model_parallel(expert_model_parallel_size=world_size)
    tokens_TD = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(rank))
    found = {}
    for router in ALLOWED:
        config = configuration(router)
        home, coherent = (layer_of(kind, config, world_size) for kind in (PlacedMoELayer, CoherentMoELayer))
        residency = Residency.home(TOKENS, coherent.ep_group, tokens_TD.device)
        rows, fed, there = coherent(tokens_TD.clone().requires_grad_(), residency, normalise)
        (rows.sum() + fed.sin().sum()).backward()
        gradient = coherent.router.weight.grad
        home.eval()
        coherent.eval()
        with torch.no_grad():
            _, fed, there = coherent(tokens_TD, residency, normalise)
            at_home = home(normalise(tokens_TD)[None])[0]
            found[router.kind] = {"gradient": gradient, "home": at_home, "coherent": return_home(fed, there)}
    return found


@pytest.fixture(scope="module")
def results() -> list[dict[str, dict[str, Any]]]:
    return run_ranks(on_a_rank, 2)


@each("kind", [router.kind for router in ALLOWED])
def test_a_token_finds_the_same_experts_at_inference(results: list[dict[str, Any]], kind: str) -> None:
    for result in results:
        torch.testing.assert_close(result[kind]["coherent"], result[kind]["home"])


@each("kind", [router.kind for router in ALLOWED])
def test_the_gate_learns(results: list[dict[str, Any]], kind: str) -> None:
    for result in results:
        assert result[kind]["gradient"].isfinite().all()
        assert result[kind]["gradient"].abs().max() > 0


def refused(_rank: int, world_size: int) -> list[str]:
    from megatron.core import parallel_state

    from moe.coherent_layer import CoherentMoELayer

    parallel_state.initialize_model_parallel()
    lines = []
    for router in REFUSED:
        with pytest.raises(ValueError) as error:  # noqa: PT011
            layer_of(CoherentMoELayer, configuration(router), world_size)
        lines.append(str(error.value))
    return lines


def test_routers_that_drop_are_refused_with_a_remedy() -> None:
    (lines,) = run_ranks(refused, 1)
    beginnings = ("router.kind: expert_choice", "router.capacity_factor: 1.0", "router.inference_capacity_factor: 1.5")
    for line, beginning in zip(lines, beginnings, strict=True):
        assert line.startswith(beginning)
        assert "; use router top_k without capacity_factor" in line
