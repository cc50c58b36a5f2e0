"""What every kind of router promises, found by listing the union of their configurations."""

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from moe.config import (
    BaseAssignmentRouterConfig,
    ExpertChoiceRouterConfig,
    MoEConfig,
    RouterConfig,
    SinkhornRouterConfig,
    SparseOTRouterConfig,
    TopKRouterConfig,
)
from tests.each import each
from tests.moe.router.routers import EXPERTS, WIDTH, build_router, skewed_tokens

UNION = get_args(get_args(RouterConfig)[0])
VARIANTS: dict[str, Any] = {
    **{kind.model_fields["kind"].default: kind() for kind in UNION},
    "top_k, capacity": TopKRouterConfig(capacity_factor=1.25, z_loss=0.01),
    "top_k, last tokens dropped": TopKRouterConfig(capacity_factor=1.25, drop_policy="position", aux_loss=0),
    "top_k, bias": TopKRouterConfig(score="sigmoid", bias_rate=0.1, aux_loss=0),
    "sparse_ot, plan": SparseOTRouterConfig(gate="plan", gamma=1.0, candidates=3),
    "sparse_ot, straight through": SparseOTRouterConfig(gate="straight_through", z_loss=0.01),
    "sparse_ot, global": SparseOTRouterConfig(potentials="global", hop_cost=0.1),
    "sparse_ot, tight": SparseOTRouterConfig(capacity_factor=1.0, gamma=0.3),
}
CAPACITY = {TopKRouterConfig: None, SinkhornRouterConfig: None, BaseAssignmentRouterConfig: 1.0}
CAPACITY |= {ExpertChoiceRouterConfig: 1.0, SparseOTRouterConfig: 1.25}
"""Promised limit on the load over the mean, in training, where the configuration says nothing else."""
SERVES_ALL = {SinkhornRouterConfig, BaseAssignmentRouterConfig, SparseOTRouterConfig}
"""Kinds that never leave a token without an expert in training."""
LOOKS_AT_OTHERS = {ExpertChoiceRouterConfig}
"""Kinds where a token's experts depend on the others at inference."""

each_kind = each("name", VARIANTS)


def top_ks(name: str) -> list[int]:
    return [1] if isinstance(VARIANTS[name], BaseAssignmentRouterConfig) else [1, 2]


def limit(name: str, tokens: int, top_k: int) -> int:
    config = VARIANTS[name]
    factor = getattr(config, "capacity_factor", CAPACITY[type(config)])
    return tokens * top_k if factor is None else math.ceil(factor * tokens * top_k / EXPERTS)


def state(router: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in [*router.named_buffers(), *router.named_parameters()]}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def check(name: str, router: Any, probs: Tensor, chosen: Tensor, tokens: int, experts: int = EXPERTS) -> None:
    """What holds for any input in training."""
    config, top_k = VARIANTS[name], router.topk
    assert probs.shape == chosen.shape == (tokens, experts)
    assert chosen.dtype == torch.bool
    assert probs.dtype == torch.float32
    assert probs.isfinite().all()
    assert (probs[~chosen] == 0).all()
    assert (probs >= 0).all()
    most = MoEConfig(num_experts=experts, top_k=top_k, expert_hidden=8, router=config).most_choices
    assert int(chosen.sum(dim=1).max()) <= most
    if experts == EXPERTS:
        assert int(chosen.sum(dim=0).max()) <= limit(name, tokens, top_k)
    capacity = router.capacity(tokens)
    assert capacity is None or int(chosen.sum(dim=0).max()) <= capacity
    if type(config) in SERVES_ALL or getattr(config, "capacity_factor", 1) is None:
        assert chosen.any(dim=1).all()


def test_every_kind_says_what_it_promises() -> None:
    assert set(CAPACITY) == set(UNION)


@each_kind
def test_capacity_is_the_limit_of_one_rank(name: str) -> None:
    """No more than there are tokens, no fewer for more tokens, and what the configuration says without a router."""
    for top_k in top_ks(name):
        router = build_router(VARIANTS[name], top_k=top_k)
        config = MoEConfig(num_experts=EXPERTS, top_k=top_k, expert_hidden=8, router=VARIANTS[name])
        found = [router.capacity(tokens) for tokens in range(40)]
        assert found == [config.capacity(tokens) for tokens in range(40)]
        limits = [limit(name, tokens, top_k) for tokens in range(40)]
        if limits == [tokens * top_k for tokens in range(40)] or name == "sparse_ot, global":
            assert found == [None] * 40
        else:
            assert found == [min(most, tokens) for tokens, most in enumerate(limits)] == sorted(found)
    assert {type(config) for config in VARIANTS.values()} == set(UNION)


@each_kind
@each("dtype", [torch.float32, torch.bfloat16])
def test_gates_map_and_limits_hold_at_every_step_of_training(name: str, dtype: torch.dtype) -> None:
    for top_k in top_ks(name):
        router = build_router(VARIANTS[name], top_k=top_k)
        for step in range(4):
            tokens = skewed_tokens(128, step).to(dtype)
            probs, chosen = router(tokens)
            check(name, router, probs, chosen, 128)
            router.weight.grad = None
            (probs.double().cos() * torch.arange(EXPERTS)).sum().backward()
            assert router.weight.grad is not None
            assert router.weight.grad.isfinite().all()
            assert router.weight.grad.abs().max() > 0
            with torch.no_grad():
                router.weight -= 0.01 * router.weight.grad
            router.update_bias()


@each_kind
def test_the_report_is_that_of_the_map(name: str) -> None:
    for top_k in top_ks(name):
        router = build_router(VARIANTS[name], top_k=top_k)
        tokens = skewed_tokens(96)
        _, chosen = router(tokens)
        report = router.report()
        assert not any(value.requires_grad for value in report.values())
        assert report["expert_tokens"].tolist() == chosen.sum(dim=0).tolist()
        assert report["due_choices"].item() == 96 * top_k
        kept = chosen.sum(dim=1)
        decides = isinstance(VARIANTS[name], ExpertChoiceRouterConfig | SparseOTRouterConfig)
        dropped = (top_k * (kept == 0)).sum() if decides else (top_k - kept).sum()
        assert report["dropped_choices"].item() == dropped
        for field in ("expert_tokens", "due_choices", "dropped_choices"):
            assert report[field].dtype == torch.int64
        logits = tokens[:, 0].double() @ router.weight.detach().double().T
        gate = logits.sigmoid() if getattr(VARIANTS[name], "score", "") == "sigmoid" else logits.exp()
        gate = gate / gate.sum(dim=1, keepdim=True)
        assert report["entropy"].item() == pytest.approx(-(gate * gate.log()).sum(dim=1).mean().item(), rel=1e-4)


@each_kind
def test_the_same_pass_again_routes_alike(name: str) -> None:
    router, other = build_router(VARIANTS[name]), build_router(VARIANTS[name])
    for step in range(3):
        tokens = skewed_tokens(64, step)
        first = router(tokens)
        with torch.no_grad():  # the first of the two passes of activation checkpointing
            again = router(tokens)
        elsewhere = other(tokens)
        for values in (again, elsewhere):
            assert torch.equal(values[0], first[0])
            assert torch.equal(values[1], first[1])
        router.update_bias()
        other.update_bias()
    assert same(state(router), state(other))


@each_kind
@each("tokens", [1, 3, 7])
def test_fewer_tokens_than_experts(name: str, tokens: int) -> None:
    for top_k in top_ks(name):
        router = build_router(VARIANTS[name], top_k=top_k)
        probs, chosen = router(skewed_tokens(tokens))
        check(name, router, probs, chosen, tokens)


@each_kind
def test_one_expert_takes_everything(name: str) -> None:
    router = build_router(VARIANTS[name], experts=1)
    probs, chosen = router(skewed_tokens(12))
    check(name, router, probs, chosen, 12, experts=1)
    assert chosen.all()
    probs.sum().backward()
    router.update_bias()
    assert router.report()["entropy"].item() == 0


@each_kind
@each("value", [0.0, 1.0])
def test_identical_tokens_are_within_the_limits_too(name: str, value: float) -> None:
    router = build_router(VARIANTS[name])
    probs, chosen = router(torch.full((64, 1, WIDTH), value))
    check(name, router, probs, chosen, 64)
    probs.sum().backward()
    assert router.weight.grad.isfinite().all()


@each_kind
def test_inference_changes_no_state_and_sees_no_other_token(name: str) -> None:
    router = build_router(VARIANTS[name])
    for step in range(2):
        router(skewed_tokens(64, step))
        router.update_bias()
    before = state(router)
    router.eval()
    tokens = skewed_tokens(64, 9)
    with torch.no_grad():
        probs, chosen = router(tokens)
        if type(VARIANTS[name]) not in LOOKS_AT_OTHERS and "capacity" not in name and "last" not in name:
            assert chosen.any(dim=1).all()
            half_probs, half_chosen = router(tokens[:32])
            torch.testing.assert_close(half_probs, probs[:32])
            assert torch.equal(half_chosen, chosen[:32])
    router.update_bias()
    assert same(state(router), before)


@each_kind
def test_padding_is_as_if_it_were_not_there(name: str) -> None:
    router = build_router(VARIANTS[name])
    tokens = skewed_tokens(48).view(24, 2, WIDTH)
    padding = torch.rand(24, 2, generator=torch.Generator().manual_seed(0)) < 0.3
    tokens[padding] = 1e3
    probs, chosen = router(tokens, padding)
    padded_report = router.report()
    probs.square().sum().backward()
    gradient, router.weight.grad = router.weight.grad, None
    alone_probs, alone_chosen = router(tokens[~padding][:, None])
    valid = ~padding.view(-1)
    torch.testing.assert_close(probs[valid], alone_probs)
    assert torch.equal(chosen[valid], alone_chosen)
    assert not chosen[~valid].any()
    assert not probs[~valid].any()
    assert padded_report.keys() == router.report().keys()
    for field, value in router.report().items():
        torch.testing.assert_close(padded_report[field], value, rtol=1e-4, atol=1e-4)
    alone_probs.square().sum().backward()
    torch.testing.assert_close(gradient, router.weight.grad, rtol=1e-4, atol=1e-5)


@each_kind
def test_nothing_but_padding_is_routed_nowhere(name: str) -> None:
    router = build_router(VARIANTS[name])
    probs, chosen = router(skewed_tokens(8), torch.ones(8, 1, dtype=torch.bool))
    assert not chosen.any()
    probs.sum().backward()
    assert torch.equal(router.weight.grad, torch.zeros_like(router.weight))
    before = state(router)
    router.update_bias()
    assert all(torch.equal(value, before[key]) for key, value in state(router).items() if key in router.state_dict())
    assert router.report()["due_choices"].item() == router.report()["entropy"].item() == 0


@each_kind
def test_what_it_learnt_survives_a_state_dict_and_a_cast(name: str) -> None:
    router = build_router(VARIANTS[name])
    for step in range(3):
        router(skewed_tokens(64, step))
        router.update_bias()
    router.bfloat16()
    assert all(buffer.dtype != torch.bfloat16 for buffer in router.buffers())
    resumed = build_router(VARIANTS[name]).bfloat16()
    resumed.load_state_dict(router.state_dict())
    for mode in (True, False):
        for step in (3, 4):
            results = [one.train(mode)(skewed_tokens(64, step).bfloat16()) for one in (router, resumed)]
            assert torch.equal(results[0][0], results[1][0])
            assert torch.equal(results[0][1], results[1][1])
            router.update_bias()
            resumed.update_bias()
    assert same(state(router), state(resumed))


@each_kind
@each("shared", [None, 12])
def test_the_layer_is_the_dense_mixture_given_the_map(name: str, shared: int | None) -> None:
    from moe.layer import PlacedMoELayer, transformer_config

    config = MoEConfig(num_experts=EXPERTS, expert_hidden=24, shared_expert_hidden=shared, router=VARIANTS[name])
    megatron = transformer_config(
        config, hidden=WIDTH, num_layers=1, num_heads=1, expert_parallel=1, dtype=torch.float64
    )
    layer = PlacedMoELayer(config, megatron, layer=0, seed=7, slot_to_expert=np.arange(EXPERTS)[::-1].copy())
    generator = torch.Generator().manual_seed(5)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    tokens = skewed_tokens(40).double()

    def feed_forward(weights: dict[str, Tensor]) -> Tensor:
        inner = torch.nn.functional.gelu(tokens[:, 0] @ weights["linear_fc1.weight"].T)
        return inner @ weights["linear_fc2.weight"].T

    output = layer(tokens)
    probs, chosen = layer.router(tokens)  # pyright: ignore[reportCallIssue]
    experts = layer.expert_parameters()
    outputs = torch.stack([feed_forward(dict(experts[expert])) for expert in range(EXPERTS)], dim=1)
    expected = (probs[..., None] * outputs).sum(dim=1)
    assert not (probs * ~chosen).any()
    if shared is not None:
        assert layer.shared_experts is not None
        expected = expected + feed_forward(dict(layer.shared_experts.named_parameters()))
    torch.testing.assert_close(output[:, 0], expected, rtol=1e-10, atol=1e-10)
    weights = list(layer.parameters())
    gradients = [
        torch.autograd.grad(values.sin().sum(), weights, allow_unused=True) for values in (output[:, 0], expected)
    ]
    for parameter, own, reference in zip(weights, *gradients, strict=True):
        zeros = torch.zeros_like(parameter)
        own, reference = zeros if own is None else own, zeros if reference is None else reference
        torch.testing.assert_close(own, reference, rtol=1e-9, atol=1e-9)
