"""Labels of a transport plan: masses, limits in which other solvers agree, and an objective that never rises."""

import math
import warnings
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.each import each
from trainer.config.task.representation import PartialLabels, SemanticLabels, UnbalancedLabels, UniformLabels
from trainer.task.clustering import labelled, neighbours

NUM, CLUSTERS, WIDTH = 60, 5, 8


def drawn(seed: int = 0, *before: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(*before, NUM, CLUSTERS, generator=generator, dtype=torch.float64)
    return logits, torch.randn(*before, NUM, WIDTH, generator=generator, dtype=torch.float64)


@each("settings", [PartialLabels(), SemanticLabels(neighbours=4), SemanticLabels(gamma=0.3)])
@each("progress", [0.0, 0.5, 0.98])
def test_the_mass_is_that_of_the_schedule_and_no_example_counts_more_than_once(
    settings: PartialLabels, progress: float
) -> None:
    found = labelled(*drawn(0, 2), settings, progress)
    assert found.labels.shape == (2, NUM, CLUSTERS)
    mass = found.labels.sum((-2, -1)) / NUM
    torch.testing.assert_close(mass, torch.full_like(mass, settings.mass(progress)), rtol=0, atol=1e-12)
    assert found.labels.sum(-1).max() <= 1 + 1e-12
    assert (found.labels >= 0).all()


def test_the_schedule_begins_with_the_surest_and_ends_with_all() -> None:
    settings = PartialLabels(first_mass=0.2)
    assert settings.mass(0) == pytest.approx(0.2 + 0.8 * math.exp(-5))
    assert settings.mass(1) == 1
    few, all_of_them = (labelled(*drawn(), settings, progress).labels.sum(-1) for progress in (0.0, 1.0))
    entropy = -(drawn()[0].softmax(-1) * drawn()[0].log_softmax(-1)).sum(-1)
    assert entropy[few > few.median()].mean() < entropy[few <= few.median()].mean()
    torch.testing.assert_close(all_of_them, torch.ones(NUM, dtype=torch.float64))


def test_without_a_price_clusters_have_one_size_and_a_huge_price_is_the_same() -> None:
    logits, features = drawn()
    uniform = labelled(logits, features, UniformLabels(iterations=500), 0.0).labels
    torch.testing.assert_close(uniform.sum(0), torch.full((CLUSTERS,), NUM / CLUSTERS, dtype=torch.float64))
    partial = PartialLabels(gamma=1e9, iterations=500)
    sizes = labelled(logits, features, partial, 0.4).labels.sum(0)
    expected = torch.full_like(sizes, NUM * partial.mass(0.4) / CLUSTERS)
    torch.testing.assert_close(sizes, expected, rtol=1e-5, atol=0)


def test_all_mass_at_a_price_is_what_another_solver_finds() -> None:
    ot = pytest.importorskip("ot")
    logits, features = drawn()
    cost = -logits.log_softmax(-1).numpy()
    masses = [1 / NUM] * NUM, [1 / CLUSTERS] * CLUSTERS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = ot.unbalanced.sinkhorn_unbalanced(
            *masses, cost, 0.1, (math.inf, 1.0), reg_type="entropy", numItermax=5_000, stopThr=1e-14
        )
    found = labelled(logits, features, UnbalancedLabels(iterations=2000), 0.0)
    torch.testing.assert_close(found.labels / NUM, torch.from_numpy(expected), rtol=0, atol=1e-9)


def test_a_part_of_the_mass_costs_what_an_exact_solver_says() -> None:
    ot = pytest.importorskip("ot")
    logits, features = drawn()
    cost, settings = -logits.log_softmax(-1), PartialLabels(gamma=1e9, epsilon=1e-3, iterations=2000)
    mass = settings.mass(0.5)
    exact = ot.partial.partial_wasserstein([1 / NUM] * NUM, [mass / CLUSTERS] * CLUSTERS, cost.numpy(), m=mass)
    found = labelled(logits, features, settings, 0.5).labels / NUM
    assert float((found * cost).sum()) == pytest.approx(float((torch.from_numpy(exact) * cost).sum()), rel=0.02)


@pytest.mark.parametrize("attraction", [0.1, 1.0, 10.0])
def test_the_objective_never_rises_and_neighbours_come_together(attraction: float) -> None:
    logits, features = drawn(1)
    settings = [SemanticLabels(neighbours=6, attraction=attraction, rounds=rounds) for rounds in (1, 2, 4, 8, 16)]
    found = [labelled(logits, features, one, 0.3) for one in settings]
    objectives = [float(found[0].first_objective), *(float(one.objective) for one in found)]
    assert all(after <= before + 1e-12 for before, after in pairwise(objectives))
    graph = neighbours(features, 6)
    together = [float((graph * (labels @ labels.mT)).sum()) for labels in (found[0].labels, found[-1].labels)]
    assert together[1] >= together[0]


def test_the_objective_is_the_whole_one() -> None:
    """By its formula, written once more."""
    logits, features = drawn(2)
    settings = SemanticLabels(neighbours=6, attraction=0.2, gamma=0.7)
    found, mass = labelled(logits, features, settings, 0.4), settings.mass(0.4)
    plan = found.labels / NUM
    left, sizes, wanted = 1 / NUM - plan.sum(-1), plan.sum(0), mass / CLUSTERS
    directions = torch.nn.functional.normalize(features - features.mean(0), dim=-1)
    cosines = (directions @ directions.mT).fill_diagonal_(-1)
    graph = torch.where(cosines >= cosines.topk(6, -1).values[:, -1:], cosines, 0.0)
    expected = (
        (plan * -logits.log_softmax(-1)).sum()
        - 0.2 * NUM * (1 - mass) * (graph * (plan @ plan.mT)).sum()
        + 0.7 * (sizes * (sizes / wanted).log() - sizes + wanted).sum()
        + 0.1 * (torch.xlogy(plan, plan).sum() + torch.xlogy(left, left).sum())
    )
    torch.testing.assert_close(found.objective, expected)


def test_a_later_plan_may_start_where_an_earlier_one_ended() -> None:
    logits, features = drawn()
    settings = PartialLabels(iterations=3)
    cold = labelled(logits, features, settings.model_copy(update={"iterations": 2000}), 0.3)
    warm = labelled(logits, features, settings, 0.3, cold.potentials)
    torch.testing.assert_close(warm.labels, cold.labels, rtol=0, atol=1e-6)


def test_neighbours_are_about_the_mean_and_no_example_is_its_own() -> None:
    features = drawn()[1]
    graph = neighbours(features, 3)
    assert (graph.diagonal() == 0).all()
    assert ((graph > 0).sum(-1) <= 3).all()
    torch.testing.assert_close(neighbours(features + 7, 3), graph)
