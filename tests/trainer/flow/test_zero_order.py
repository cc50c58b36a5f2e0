"""Zero-order inversion: on affine flows everything that it does has a closed form."""

import math

import pytest
import torch
from torch import Tensor

from tests.each import each
from tests.trainer.flow.test_sampler import KEYS, STRAIGHT, grid, known
from trainer.flow import sampler
from trainer.flow.inversion import Reverse, ZeroOrder, contraction_bound, zero_order

MEANS, DEVIATIONS = torch.tensor([0.5, -1.0, 0.0]).double(), torch.tensor([0.3, 0.8, 1.5]).double()
STEPS = 10


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """Carries N(0, 1) to N(mean, deviation^2) along straight paths, value by value."""
    t = t[:, None]
    slope = (t * DEVIATIONS**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * DEVIATIONS**2)
    return MEANS + slope * (x - t * MEANS)


def flow(z: Tensor) -> Tensor:
    return sampler.Euler().sample(known(velocity), z, grid(STEPS)).final


def slopes() -> Tensor:
    """The Jacobian of :func:`flow`, which is diagonal: the product of 1 + h (slope of the velocity) over the steps."""
    t = grid(STEPS)[:-1, None]
    return (1 + (t * DEVIATIONS**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * DEVIATIONS**2) / STEPS).prod(0)


LARGEST = 2 / float(slopes().max())
"""The exact bound on the step size."""


def noise(size: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(size, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


TARGET = flow(noise(seed=1))


def test_the_closed_form_jacobian_is_that_of_the_flow():
    (by_autograd,) = torch.autograd.functional.jacobian(lambda z: flow(z[None])[0], (noise()[0],))
    torch.testing.assert_close(by_autograd, slopes().diag())


@each("share", [0.1, 0.5, 0.95, 1.05])
def test_the_errors_are_those_of_the_closed_form_on_both_sides_of_the_bound(share):
    """The error of a value shrinks or grows by 1 - eta (its slope) in each iteration."""
    eta, numbers = share * LARGEST, torch.arange(31)[:, None, None]
    errors = zero_order(flow, TARGET, noise(), 30, eta).errors
    expected = ((flow(noise()) - TARGET) * (1 - eta * slopes()) ** numbers).square().mean(-1)
    torch.testing.assert_close(errors.double(), expected, rtol=1e-5, atol=1e-9)
    assert bool((errors.diff(dim=0) < 0).all()) == (share < 1)


def test_no_pair_tells_a_bound_below_the_exact_one_and_the_steepest_direction_tells_it():
    pairs = noise(500)
    bounds = contraction_bound(pairs, pairs * slopes(), pairs)
    assert bool((bounds >= LARGEST * (1 - 1e-12)).all())
    steepest = torch.eye(3, dtype=torch.float64)[slopes().argmax()][None]
    assert float(contraction_bound(steepest, steepest * slopes(), steepest)) == pytest.approx(LARGEST)


def test_a_run_beyond_the_bound_finds_the_exact_bound():
    found = zero_order(flow, TARGET, noise(), 60, 1.05 * LARGEST)
    torch.testing.assert_close(found.bound, torch.full((4,), LARGEST), rtol=2e-3, atol=0)


def test_the_bound_of_a_pair_is_where_it_stops_coming_nearer():
    dz, df = noise(200, seed=2), noise(200, seed=3)
    bounds = contraction_bound(dz, df, df)
    tells = bounds.isfinite()
    assert torch.equal(tells, (dz * df).sum(1) > 0)

    def grows(share: float) -> Tensor:
        return (dz - share * bounds[:, None] * df).norm(dim=1)[tells] > dz.norm(dim=1)[tells]

    assert not bool(grows(0.99).any())
    assert bool(grows(1.01).all())


def test_a_pair_that_does_not_move_tells_nothing():
    dz = noise(3)
    df = torch.stack([dz[0] * 0, dz[1], -dz[2]])
    assert contraction_bound(dz, df, dz).tolist() == [math.inf, pytest.approx(2.0), math.inf]
    assert contraction_bound(dz * 0, dz * 0, dz).tolist() == [math.inf] * 3
    assert contraction_bound(dz * 0, dz * 0, dz * 0).tolist() == [math.inf] * 3
    assert contraction_bound(dz * 1e-6, dz * 1e-6, dz).tolist() == [math.inf] * 3


def test_each_example_has_a_step_size_of_its_own():
    """Slopes 0.2 to 20, bounds 10 to 0.1: a step that all share is too long for some or too short for others."""
    slope = torch.tensor([0.2, 1.0, 5.0, 20.0]).double()[:, None]
    start, goal = noise(), noise(seed=1)
    own = zero_order(lambda z: slope * z, goal, start, 100)
    assert bool((own.errors[-1] < 1e-8 * own.errors[0]).all())
    torch.testing.assert_close(own.bound, (2 / slope[:, 0]).float(), rtol=1e-6, atol=0)
    for eta in (0.04, 0.4):
        shared = zero_order(lambda z: slope * z, goal, start, 100, eta)
        assert not bool((shared.errors[-1] < 1e-8 * shared.errors[0]).all())


def test_own_steps_converge_on_a_flow_of_unequal_slopes():
    errors = zero_order(flow, TARGET, noise(), 100).errors
    assert bool((errors[-1] < 1e-6 * errors[0]).all())


def test_the_best_iterate_of_each_example_is_returned():
    """The first two rows diverge from the start, the third converges, the fourth is not a number for a while."""
    slope = torch.tensor([3.0, 4.0, 1.0, 1.0]).double()[:, None]
    calls = 0

    def drawn(z: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        image = slope * z
        image[3] = torch.nan if calls > 3 else image[3]
        return image

    start = noise()
    found = zero_order(drawn, torch.zeros_like(start), start, 8, 0.9)
    assert calls == 9
    assert torch.equal(found.noise[:2], start[:2])
    torch.testing.assert_close(found.noise[2], start[2] * 0.1**8)
    torch.testing.assert_close(found.noise[3], start[3] * 0.1**2)
    torch.testing.assert_close(found.drawn, slope * found.noise)
    least = found.errors.nan_to_num(torch.inf).amin(0)
    torch.testing.assert_close(found.drawn.square().mean(1).float(), least, rtol=1e-6, atol=0)


@pytest.mark.parametrize("step_size", [None, 0.5])
def test_noise_that_leads_to_the_target_stays(step_size):
    found = zero_order(flow, flow(noise()), noise(), 5, step_size)
    assert torch.equal(found.noise, noise())
    assert not bool(found.errors.any())
    assert bool(found.bound.isinf().all())


def test_a_constant_sampler_yields_no_numbers_that_are_none():
    found = zero_order(torch.zeros_like, torch.ones(2, 3), torch.zeros(2, 3), 5)
    assert bool(found.noise.isfinite().all())
    assert bool((found.errors == 1).all())


def test_nothing_is_read_back_to_the_host_and_nothing_is_differentiated():
    """A tensor on the meta device has no values that could be read."""

    def drawn(z: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return 2 * z

    goal = torch.empty(4, 3, 8, 8, device="meta")
    found = zero_order(drawn, goal, torch.empty_like(goal, requires_grad=True), 3)
    assert found.noise.shape == goal.shape
    assert found.errors.shape == (4, 4)
    assert not found.noise.requires_grad


def test_updates_are_in_single_precision_whatever_the_sampler_returns():
    """Updates of half a thousandth of the noise would be lost in bfloat16."""
    start = torch.ones(1, 4, dtype=torch.bfloat16)
    last: list[Tensor] = []
    found = zero_order(
        lambda z: z.bfloat16(), start * 0.5, start, 3, 1e-3, watch=lambda _number, z, _image: last.append(z)
    )
    assert found.noise.dtype == found.drawn.dtype == torch.float32
    assert float(last[-1][0, 0]) == pytest.approx(1 - 3 * 0.5e-3, abs=1e-6)


def test_every_iterate_is_shown_and_its_distance_falls():
    """As for edits: the target is nothing that this flow is likely to draw, and the user stops where it looks right."""
    shown: list[tuple[int, Tensor, Tensor]] = []
    found = zero_order(flow, TARGET, noise(), 6, 0.4, watch=lambda *iterate: shown.append(iterate))
    assert [number for number, _, _ in shown] == list(range(7))
    distances = torch.stack([(image - TARGET).square().mean(1) for _, _, image in shown])
    torch.testing.assert_close(distances.float(), found.errors)
    assert bool((distances.diff(dim=0) < 0).all())
    torch.testing.assert_close(shown[-1][2], flow(shown[-1][1]))


def test_a_row_is_a_function_of_itself():
    def drawn(z: Tensor) -> Tensor:
        return z + 0.3 * z * z

    goal, start = torch.rand(6, 5), torch.rand(6, 5)
    whole = zero_order(drawn, goal, start, 10)
    for rows in (slice(0, 1), slice(1, 3), slice(3, 6)):
        alone = zero_order(drawn, goal[rows], start[rows], 10)
        assert torch.equal(alone.noise, whole.noise[rows])
        assert torch.equal(alone.errors, whole.errors[:, rows])
        assert torch.equal(alone.bound, whole.bound[rows])


def test_the_inversion_starts_from_another_and_improves_on_it():
    euler = sampler.Euler()
    first = Reverse().build(euler, STRAIGHT).invert(known(velocity), TARGET, grid(STEPS), keys=KEYS[:4])
    found = (
        ZeroOrder(initial=Reverse(), iterations=30)
        .build(euler, STRAIGHT)
        .invert(known(velocity), TARGET, grid(STEPS), keys=KEYS[:4])
    )
    assert found.errors is not None
    torch.testing.assert_close(found.errors[0].double(), (flow(first.noise) - TARGET).square().mean(1))
    torch.testing.assert_close((flow(found.noise) - TARGET).square().mean(1).float(), found.errors.amin(0))
    assert bool((found.errors[-1] < 1e-2 * found.errors[0]).all())
