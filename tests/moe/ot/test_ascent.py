"""The batched ascent on functions whose peaks are known."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from moe.ot.ascent import Ascent, ascend


def bowls(num: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Concave quadratics: curvatures [num, width, width] and peaks [num, width]."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(num, width, width, generator=generator, dtype=torch.float64)
    scale = torch.logspace(0, 3, num, dtype=torch.float64)[:, None, None]
    curvature = scale * (root @ root.mT / width + 0.1 * torch.eye(width, dtype=torch.float64))
    return curvature, torch.randn(num, width, generator=generator, dtype=torch.float64)


def climb(curvature: Tensor, peak: Tensor, *, max_evaluations: int = 200, max_iterations: int = 200) -> Ascent:
    def evaluate(point: Tensor) -> tuple[Tensor, Tensor]:
        pull = (curvature @ (peak - point)[..., None])[..., 0]
        return -0.5 * ((peak - point) * pull).sum(-1), pull

    return ascend(
        evaluate,
        torch.zeros_like(peak),
        scale=torch.ones_like(peak[:, 0]),
        optimal=lambda gradient: gradient.abs().amax(-1) < 1e-6,
        max_iterations=max_iterations,
        max_evaluations=max_evaluations,
    )


def test_it_finds_the_peaks_of_problems_of_very_different_curvature() -> None:
    curvature, peak = bowls(4, 12, seed=0)
    end = climb(curvature, peak)
    assert end.converged.all()
    assert torch.allclose(end.point, peak, atol=1e-5)
    assert end.evaluations < 80


def test_company_does_not_change_the_path_of_a_problem() -> None:
    curvature, peak = bowls(4, 12, seed=1)
    together = climb(curvature, peak)
    for problem in range(4):
        alone = climb(curvature[problem : problem + 1], peak[problem : problem + 1])
        assert int(alone.iterations) == int(together.iterations[problem])
        assert torch.allclose(alone.point[0], together.point[problem], rtol=0, atol=1e-9)


def test_limits_hold_and_values_rise() -> None:
    curvature, peak = bowls(3, 12, seed=2)
    values = []
    for evaluations in (1, 5, 9, 20):
        end = climb(curvature, peak, max_evaluations=evaluations)
        assert end.evaluations <= evaluations
        values.append(end.value)
    assert all((later >= earlier).all() for earlier, later in itertools.pairwise(values))
    assert climb(curvature, peak, max_iterations=3).iterations.tolist() == [3, 3, 3]
    assert not climb(curvature, peak, max_iterations=3).converged.any()


def test_a_roof_with_a_ridge_ends_near_the_ridge() -> None:
    def evaluate(point: Tensor) -> tuple[Tensor, Tensor]:
        return -point.abs().sum(-1), -point.sign()

    end = ascend(
        evaluate,
        torch.tensor([[3.3, -1.7], [0.4, 0.9]]),
        scale=torch.ones(2),
        optimal=lambda gradient: torch.zeros(len(gradient), dtype=torch.bool),
        max_iterations=100,
        max_evaluations=100,
    )
    assert (end.value > -0.3).all()
    assert not end.converged.any()


def test_a_climb_onto_a_kink_ends_where_the_error_was_least() -> None:
    """The smallest of some planes has its peak on an edge, and a gradient that jumps there."""
    generator = torch.Generator().manual_seed(0)
    slopes = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    slopes, heights = slopes - slopes.mean(0), torch.rand(12, generator=generator, dtype=torch.float64)

    def evaluate(point: Tensor) -> tuple[Tensor, Tensor]:
        value, lowest = ((point[:, None] * slopes).sum(-1) + heights).min(-1)
        return value, slopes[lowest]

    def error(gradient: Tensor) -> Tensor:
        return gradient.abs().amax(-1)

    def end(start: Tensor, chosen: Callable[[Tensor], Tensor] | None) -> Ascent:
        return ascend(
            evaluate,
            start,
            scale=torch.full_like(start[:, 0], 0.3),
            optimal=lambda gradient: error(gradient) < 1e-9,
            max_iterations=100,
            max_evaluations=100,
            error=chosen,
        )

    starts = 3 * torch.randn(20, 3, generator=generator, dtype=torch.float64)
    last, least = end(starts, None), end(starts, error)
    assert not least.converged.any()
    assert (error(least.gradient) <= error(last.gradient)).all()
    assert (error(least.gradient) < error(last.gradient)).any()
    assert (last.value - least.value <= 1e-4 * (last.value - evaluate(starts)[0]) + 1e-12).all()
    value, gradient = evaluate(least.point)
    assert torch.equal(value, least.value)
    assert torch.equal(gradient, least.gradient)
    for number, start in enumerate(starts[:5]):
        assert torch.equal(end(start[None], error).point[0], least.point[number]), "its end depends on its company"
