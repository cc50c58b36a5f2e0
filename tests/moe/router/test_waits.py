"""What a forward pass asks of a device: how many operations, and whether the host waits in between."""

from itertools import product
from typing import Any

import torch
from torch import Tensor

from moe.config import ExpertChoiceRouterConfig, SinkhornRouterConfig, SparseOTRouterConfig, TopKRouterConfig
from tests.each import each
from tests.moe.dispatch.counted import Counted
from tests.moe.router.routers import build_router, skewed_tokens

KINDS: dict[str, Any] = {
    "top_k": TopKRouterConfig(z_loss=0.01),
    "top_k, capacity": TopKRouterConfig(capacity_factor=1.25),
    "top_k, last tokens dropped": TopKRouterConfig(capacity_factor=1.25, drop_policy="position", aux_loss=0),
    "top_k, bias": TopKRouterConfig(score="sigmoid", bias_rate=0.1, aux_loss=0),
    "sinkhorn": SinkhornRouterConfig(),
    "expert_choice": ExpertChoiceRouterConfig(),
    "sparse_ot": SparseOTRouterConfig(),
    "sparse_ot, plan": SparseOTRouterConfig(gate="plan", gamma=1.0, candidates=4),
    "sparse_ot, straight through": SparseOTRouterConfig(gate="straight_through"),
    "sparse_ot, global": SparseOTRouterConfig(potentials="global", hop_cost=0.1),
}
MOST = 116
"""Operations of the sparse-OT router in training, its report included."""


def step(router: Any, tokens: Tensor, padding: Tensor | None) -> Counted:
    with Counted() as counted:
        probs, _ = router(tokens, padding)
        router.report()
        probs.sum().backward()
        router.update_bias()
    return counted


@each("name, padded", product(KINDS, [False, True]))
def test_the_host_never_waits_in_training(name: str, padded: bool) -> None:
    router = build_router(KINDS[name], top_k=2)
    tokens = skewed_tokens(64)
    padding = torch.arange(64)[:, None] % 7 == 0 if padded else None
    step(router, tokens, padding)  # Megatron makes the scale of its losses once
    counted = step(router, tokens, padding)
    assert not counted.waits
    assert not counted.copies


def test_the_host_never_waits_for_sparse_transport_at_inference() -> None:
    for factor in (None, 1.25):
        router = build_router(SparseOTRouterConfig(inference_capacity_factor=factor), top_k=2).eval()
        with torch.no_grad(), Counted() as counted:
            router(skewed_tokens(64))
        assert not counted.waits
        assert not counted.copies


@each("tokens", [128, 1000])
def test_sparse_transport_takes_few_operations_whatever_the_tokens_are(tokens: int) -> None:
    router = build_router(SparseOTRouterConfig(), experts=64, top_k=2)
    found = []
    for seed in range(3):
        given = skewed_tokens(tokens, seed)
        with Counted() as counted:
            router(given)
            router.report()
        found.append(counted.operations)
        router.update_bias()
    assert 0 < sum(found[0].values()) <= MOST
    assert all(other == found[0] for other in found)
