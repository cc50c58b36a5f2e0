"""Routers on the workloads of the imbalance benchmark: the busiest expert is what a closed form says."""

from fractions import Fraction
from math import ceil

import torch

from moe.config import (
    BaseAssignmentRouterConfig,
    ExpertChoiceRouterConfig,
    RouterConfig,
    SparseOTRouterConfig,
    TopKRouterConfig,
)
from tests.benchmarks.imbalance.workloads import LOADS, Shape, synthetic
from tests.each import each
from tests.moe.router.routers import EXPERTS, WIDTH, build_router

SHAPE = Shape(ranks=1, tokens=48, experts=EXPERTS, top_k=2)


def loads(router: RouterConfig, name: str, shape: Shape) -> torch.Tensor:
    """Choices of each expert in the first batch of a workload, by a gate that passes the logits on."""
    built = build_router(router, top_k=shape.top_k)
    with torch.no_grad():
        built.weight.copy_(torch.eye(EXPERTS, WIDTH))
    (logits,) = synthetic(name, shape, 1, seed=4)
    tokens = torch.nn.functional.pad(torch.from_numpy(logits[0]), (0, WIDTH - EXPERTS))
    return built(tokens[:, None])[1].sum(dim=0)


@each("name", LOADS)
def test_plain_top_k_takes_the_stated_loads(name: str) -> None:
    for router in (TopKRouterConfig(aux_loss=0.0), TopKRouterConfig(score="sigmoid", aux_loss=0.0, bias_rate=0.01)):
        assert loads(router, name, SHAPE).tolist() == LOADS[name](SHAPE, 0).tolist()


@each("name", LOADS)
def test_a_capacity_cuts_the_stated_loads(name: str) -> None:
    slots = ceil(Fraction(5, 4) * SHAPE.choices / SHAPE.experts)
    expected = [min(load, slots) for load in LOADS[name](SHAPE, 0).tolist()]
    assert loads(TopKRouterConfig(aux_loss=0.0, capacity_factor=1.25), name, SHAPE).tolist() == expected


@each("name", LOADS)
def test_balanced_routers_are_even_on_every_workload(name: str) -> None:
    assert set(loads(ExpertChoiceRouterConfig(), name, SHAPE).tolist()) == {SHAPE.choices // EXPERTS}
    one = Shape(ranks=1, tokens=48, experts=EXPERTS, top_k=1)
    assert set(loads(BaseAssignmentRouterConfig(), name, one).tolist()) == {one.choices // EXPERTS}
    taken = loads(SparseOTRouterConfig(capacity_factor=1.25), name, SHAPE)
    assert taken.max() <= ceil(1.25 * SHAPE.choices / EXPERTS)
    # A token with one of its two experts may come by that same one when the free slots are given out.
    assert taken.sum() >= 0.98 * SHAPE.choices
