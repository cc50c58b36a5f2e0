"""Pairs of a whole step: those of one problem, whatever the number of ranks. Equal weights change nothing."""

from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.ranks import run_ranks
from trainer.config.run import RunConfig
from trainer.data import Batch
from trainer.flow import UNCONDITIONAL, coupling
from trainer.task import FlowTask
from trainer.training.generators import micro_batch_generator
from trainer.training.weighting import relative_weights

MICRO_BATCHES, SIZE = 4, 6
COUPLINGS: dict[str, dict[str, Any]] = {
    "assignment": {"kind": "assignment", "scope": "global_batch"},
    "exact": {"kind": "minibatch_ot", "scope": "global_batch"},
    "sinkhorn": {"kind": "minibatch_ot", "solver": "sinkhorn", "scope": "global_batch"},
    "unbalanced": {"kind": "minibatch_ot", "solver": "unbalanced", "scope": "global_batch"},
    "weights": {"kind": "gibbs_weighted"},
}
Draws = dict[str, list[tuple[torch.Tensor, ...]]]
"""For each coupling, of each micro batch: x_0, x_1, labels, x_t and, where there are, log weights."""


def task(settings: dict[str, Any]) -> FlowTask:
    document = {"run": {"dir": "unused"}, "model": {"kind": "mlp"}, "data": {"kind": "toy", "classes": True}}
    return FlowTask(
        RunConfig.model_validate(
            {**document, "optim": {"steps": 1, "global_batch": 1}, "flow": {"coupling": settings, "data_scale": 2.0}}
        )
    )


def micro_batch(number: int) -> Batch:
    x_1 = torch.randn(SIZE, 2, generator=torch.Generator().manual_seed(number))
    return Batch(x_1=x_1, labels=torch.full((SIZE,), number % 2), ids=torch.arange(SIZE))


def draw(own: range, ranks: dist.ProcessGroup | None) -> Draws:
    found: Draws = {}
    for name, settings in COUPLINGS.items():
        generators = [micro_batch_generator(7, "train", 3, number) for number in own]
        drawn = task(settings).draw([micro_batch(number) for number in own], generators, ranks)
        found[name] = [
            (
                points.sample.x_0,
                points.sample.x_1,
                points.condition.label if points.condition.label is not None else torch.empty(0),
                points.sample.x_t,
                *([] if points.log_weight is None else [points.log_weight]),
            )
            for points in drawn
        ]
    return found


def on_ranks(rank: int, world_size: int) -> tuple[Draws, bool]:
    share = MICRO_BATCHES // world_size
    found = draw(range(rank * share, (rank + 1) * share), dist.group.WORLD)
    return found, infinite_epsilon_is_independent(rank)


def infinite_epsilon_is_independent(rank: int) -> bool:
    """Whether losses and gradients with weights that are all equal are those without weights, to the last bit."""
    gradients = []
    for settings in ({"kind": "independent"}, {"kind": "gibbs_weighted", "epsilon": float("inf")}):
        flow = task(settings)
        torch.manual_seed(0)
        network = torch.nn.Linear(2, 2)
        (drawn,) = flow.draw([micro_batch(rank)], [micro_batch_generator(7, "train", 3, rank)])
        (weight,) = relative_weights([drawn.log_weight])
        losses = flow.loss(lambda x, *_, network=network: network(x), drawn).per_example
        loss = (losses if weight is None else losses * weight).mean()
        loss.backward()
        gradients.append([loss.detach(), *(parameter.grad for parameter in network.parameters())])
    return all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.fixture(scope="module")
def alone() -> Draws:
    return draw(range(MICRO_BATCHES), None)


@pytest.mark.parametrize("world_size", [2, 4])
def test_pairs_of_a_step_do_not_depend_on_the_number_of_ranks(world_size: int, alone: Draws) -> None:
    of_ranks = run_ranks(on_ranks, world_size)
    for name in COUPLINGS:
        together = [pairs for found, _ in of_ranks for pairs in found[name]]
        assert len(together) == MICRO_BATCHES
        for one, other in zip(together, alone[name], strict=True):
            assert len(one) == len(other)
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert all(unweighted for _, unweighted in of_ranks)


def test_a_step_is_one_problem_and_data_keep_their_labels_and_places(alone: Draws) -> None:
    every_1 = torch.cat([2 * micro_batch(number).x_1 for number in range(MICRO_BATCHES)])
    sources = [
        coupling.Independent().draw(micro_batch(number).x_1, UNCONDITIONAL, generator=used(number)).x_0
        for number in range(MICRO_BATCHES)
    ]
    for name in ("assignment", "exact"):
        x_0, x_1, labels = (torch.cat([pairs[part] for pairs in alone[name]]) for part in range(3))
        assert torch.equal(x_1, every_1)
        shown = labels != 2  # 2 stands for a hidden label
        assert torch.equal(labels[shown], (torch.arange(len(x_1)) // SIZE % 2)[shown])
        cost = "l2" if name == "assignment" else "sqeuclidean"
        source = coupling.Permutation(cost)(torch.cat(sources), every_1, torch.Generator()).source_index
        assert torch.equal(x_0, torch.cat(sources)[source])


def used(number: int) -> torch.Generator:
    """The generator of a micro batch after the draw that hides labels."""
    generator = micro_batch_generator(7, "train", 3, number)
    torch.rand(SIZE, generator=generator)
    return generator
