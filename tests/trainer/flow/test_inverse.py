"""Inverse problems: fixed points, posteriors in closed form, the weight, agreement, the same bits in any batch."""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.each import each
from tests.trainer.flow.gaussian_prior import Beside, Gaussian, beside_posterior, smooth_prior
from trainer.config.document import load_request
from trainer.flow.context import BoxesConfig
from trainer.flow.inverse import (
    DecodedConsistency,
    ExactConsistency,
    Flair,
    FlairConfig,
    agreeing,
    calibrated,
    calibration_errors,
    calibration_levels,
    constant,
    ramp,
)
from trainer.flow.operator import AveragePool, BlurConfig, Identity, MaskConfig
from trainer.flow.path import LinearConfig, OneSidedInterpolantConfig, TrigonometricConfig, VariancePreservingConfig
from trainer.flow.path import Path as FlowPath
from trainer.flow.sampler import Field
from trainer.flow.target import Quantity
from trainer.sampling.restore_request import RestoreRequest

SHAPE = (1, 4, 4)
PATHS: list[Any] = [LinearConfig(), LinearConfig(sigma_min=0.05), TrigonometricConfig(), VariancePreservingConfig()]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def solved(path: FlowPath, field: Field, agreement: Any, num: int, scale: float = 0.5, **settings: Any) -> Tensor:
    keys = torch.arange(num)
    weight = settings.pop("weight", None) or ramp(scale)
    return Flair(path, weight, FlairConfig(**settings)).solve(field, agreement, keys=keys).states


@each("config", PATHS, ids=str)
def test_a_prior_of_one_point_does_not_move_it(config: Any) -> None:
    path = config.build()
    point = drawn(16)
    field = Gaussian(path, point, torch.zeros(16, dtype=torch.float64))
    observed = point.reshape(1, *SHAPE).expand(3, *SHAPE)
    operator = Identity().build(SHAPE, torch.arange(3))
    soft = ExactConsistency(operator, observed, share=0.1)
    torch.testing.assert_close(solved(path, field, soft, 3), observed, atol=1e-9, rtol=0)


def test_the_identity_returns_what_was_observed() -> None:
    path = LinearConfig().build()
    field = smooth_prior(path)
    observed = drawn(3, *SHAPE)
    operator = Identity().build(SHAPE, torch.arange(3))
    torch.testing.assert_close(solved(path, field, ExactConsistency(operator, observed), 3), observed)


@pytest.mark.parametrize("operator", [MaskConfig(), AveragePool()], ids=str)
def test_the_posterior_request_has_mean_and_variance_of_the_posterior_and_the_default_has_not(operator: Any) -> None:
    field = smooth_prior(LinearConfig().build())
    request = load_request(Path("flair_posterior"), [], RestoreRequest).method

    def beside(method: FlairConfig) -> Beside:
        return beside_posterior(field, method, operator, SHAPE, seed=0, num=60)

    exact, default = beside(request), beside(FlairConfig())
    fresh = beside(request.model_copy(update={"trajectory_adjustment": False}))
    assert max(exact.off, fresh.off) < 0.1
    assert 0.85 < exact.variance < 1.15
    assert max(exact.residual, fresh.residual, default.residual) < 1e-24
    assert default.off > exact.off
    assert default.variance < 0.25
    assert fresh.variance < 0.6


def test_without_adjustment_the_noise_is_fresh_in_every_step() -> None:
    path = LinearConfig().build()
    field = smooth_prior(path)
    operator = MaskConfig().build(SHAPE, torch.arange(4))
    agreement = ExactConsistency(operator, operator.apply(drawn(4, *SHAPE)))
    seen: list[Tensor] = []

    class Watched(Gaussian):
        def estimate(self, x: Tensor, t: Tensor, *quantities: Quantity) -> tuple[Tensor, ...]:
            data, noise = super().estimate(x, t, *quantities)
            seen.append(noise)
            return data, noise + 100  # which a solver that does not ask for it must not feel

    watched = Watched(path, field.mean, field.variances, field.directions)
    without = solved(path, watched, agreement, 4, trajectory_adjustment=False)
    assert torch.equal(without, solved(path, field, agreement, 4, trajectory_adjustment=False))
    assert not torch.allclose(solved(path, watched, agreement, 4), solved(path, field, agreement, 4))
    assert len(seen) == 100


@pytest.mark.parametrize("config", PATHS[2:], ids=str)
def test_a_restoration_is_the_same_on_every_path(config: Any) -> None:
    straight, other = LinearConfig().build(), config.build()
    operator = AveragePool().build(SHAPE, torch.arange(5))
    agreement = ExactConsistency(operator, operator.apply(drawn(5, *SHAPE)))
    one, two = (solved(path, smooth_prior(path), agreement, 5) for path in (straight, other))
    torch.testing.assert_close(one, two, atol=1e-7, rtol=0)


@each("config", [LinearConfig(), VariancePreservingConfig()], ids=str)
@each("kind", ["exact", "decoded"])
def test_any_batch_gives_the_same_bits(config: Any, kind: str) -> None:
    path, num = config.build(), 6
    field = Gaussian(path, torch.zeros(16), torch.full((16,), 0.3))
    keys, x = torch.arange(num) + 40, drawn(num, *SHAPE).float()
    solver = Flair(path, ramp(0.5))

    def restored(rows: slice) -> Tensor:
        operator = MaskConfig(mask=BoxesConfig()).build(SHAPE, torch.arange(num)[rows], seed=2)
        observed = operator.apply(x[rows])
        agreement = (
            ExactConsistency(operator, observed)
            if kind == "exact"
            else DecodedConsistency(operator, observed, torch.tanh, observed, iterations=2)
        )
        return solver.solve(field, agreement, keys=keys[rows]).states

    whole = restored(slice(0, num))
    for size in (1, 4):
        parts = [restored(slice(first, first + size)) for first in range(0, num, size)]
        assert torch.equal(torch.cat(parts), whole)


def test_an_example_follows_its_key() -> None:
    path = LinearConfig().build()
    field = smooth_prior(path)
    operator = MaskConfig().build(SHAPE, torch.arange(2))
    observed = operator.apply(drawn(1, *SHAPE)).expand(2, *SHAPE)
    solver = Flair(path, ramp(0.5))
    solution = solver.solve(field, ExactConsistency(operator, observed), keys=torch.tensor([3, 4]))
    assert not torch.allclose(solution.states[0], solution.states[1])
    assert solution.calls == field.calls == 50


@pytest.mark.parametrize(("variance", "largest"), [(0.05, 1.35), (0.3, 0.80)])
def test_the_calibrated_weight_of_independent_values_is_the_one_in_closed_form(variance: float, largest: float) -> None:
    path = LinearConfig().build()
    field = Gaussian(path, torch.zeros(64, dtype=torch.float64), torch.full((64,), variance, dtype=torch.float64))
    states = math.sqrt(variance) * drawn(256, 64)
    errors = calibration_errors(field, states, path, torch.arange(256))
    levels = calibration_levels()
    expected = variance / ((1 - levels) ** 2 * variance + levels**2)
    torch.testing.assert_close(errors.mean(0), expected, atol=0, rtol=0.05)
    weight = calibrated(errors, 0.5)
    assert not weight.vanished
    assert float(weight.values.min()) == 0.0
    assert float(weight.at(torch.tensor([variance / (1 + variance)], dtype=torch.float64))) < 0.02
    assert Flair(path, weight).largest_ratio == pytest.approx(largest, rel=0.06)
    torch.testing.assert_close(calibrated(errors, 1.5).values, 3 * weight.values)


def test_calibration_is_the_same_on_every_path_and_in_any_batch() -> None:
    states, keys = drawn(6, 16), torch.arange(6)
    found = []
    for config in (LinearConfig(), VariancePreservingConfig(), TrigonometricConfig()):
        path = config.build()
        field = smooth_prior(path)
        errors = calibration_errors(field, states, path, keys)
        parts = [calibration_errors(field, states[row : row + 1], path, keys[row : row + 1]) for row in range(6)]
        torch.testing.assert_close(torch.cat(parts), errors)
        found.append(errors)
    torch.testing.assert_close(found[0], found[2], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found[0][:, 1:-1], found[1][:, 1:-1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("variance", [1.0, 4.0])
def test_a_weight_that_vanishes_is_replaced_by_one_that_does_not_diverge(variance: float) -> None:
    levels = calibration_levels()
    errors = variance / ((1 - levels) ** 2 * variance + levels**2)
    weight = calibrated(errors[None], 0.5)
    assert weight.vanished
    solver = Flair(LinearConfig().build(), weight)
    assert solver.vanished
    assert solver.largest_ratio == pytest.approx(0.5)


def test_weights_that_diverge_are_refused_and_the_scale_that_is_named_works() -> None:
    path = LinearConfig().build()
    config = FlairConfig(weight="constant", scale=0.5)
    with pytest.raises(
        ValueError, match=r"scale: 0.5 makes .* 2.55 x the noise level at 0.2, .* below 0.392"
    ) as caught:
        config.build(path=path)
    assert "\n" not in str(caught.value)
    assert config.model_copy(update={"scale": 0.391}).build(path=path).largest_ratio < 2


def test_a_network_that_returns_no_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weight: .* not finite; use another checkpoint"):
        calibrated(torch.full((2, 100), math.nan), 0.5)


def test_two_is_the_border_of_divergence() -> None:
    """With a prior of one point a step multiplies the distance to it by 1 - ratio."""
    path = LinearConfig().build()
    field = Gaussian(path, torch.zeros(16, dtype=torch.float64), torch.zeros(16, dtype=torch.float64))
    operator = Identity().build(SHAPE, torch.arange(2))
    agreement = ExactConsistency(operator, drawn(2, *SHAPE), share=1e-12)
    start = agreement.initial()
    for ratio in (0.5, 1.5, 1.9):
        states = solved(path, field, agreement, 2, weight=ramp(ratio), steps=20)
        torch.testing.assert_close(states, start * (1 - ratio) ** 20, atol=1e-9, rtol=1e-9)


def test_paths_with_noise_of_their_own_are_refused() -> None:
    path = OneSidedInterpolantConfig().build()
    with pytest.raises(ValueError, match="path: inverse problems need"):
        Flair(path, constant(0.1))


def linear_decoder(condition: float) -> Tensor:
    """A matrix [16, 6] with singular values from 1 to 1 / condition."""
    left, right = torch.linalg.qr(drawn(16, 6, seed=5)).Q, torch.linalg.qr(drawn(6, 6, seed=6)).Q
    return left * torch.logspace(0, -math.log10(condition), 6, dtype=torch.float64) @ right


@pytest.mark.parametrize("config", [MaskConfig(), AveragePool(), BlurConfig()], ids=str)
def test_with_a_linear_decoder_the_nearest_states_that_agree_are_found(config: Any) -> None:
    decoder = linear_decoder(10.0)
    operator = config.build(SHAPE, torch.arange(4))
    decode = lambda states: (states @ decoder.T).reshape(-1, *SHAPE)  # noqa: E731
    observed = operator.apply(decode(drawn(4, 6, seed=7)))
    states = drawn(4, 6, seed=8)
    agreement = DecodedConsistency(operator, observed, decode, states, iterations=40, tolerance=1e-16)
    found = agreement.enforced(states, 1.0)
    whole = operator.apply(decode(torch.eye(6, dtype=torch.float64))).flatten(1).T
    missing = observed.flatten(1) - states @ whole.T
    expected = states + missing @ torch.linalg.pinv(whole, rtol=1e-5).T
    assert float(agreement.residual(found).max()) < 1e-9
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_latents_with_a_linear_decoder_are_restored_like_pixels() -> None:
    """An orthogonal decoder turns the exact agreement of pixels into that of latents."""
    path = LinearConfig().build()
    field = smooth_prior(path)
    assert field.directions is not None
    turn = field.directions
    latent = Gaussian(path, field.mean @ turn, field.variances)
    operator = AveragePool().build(SHAPE, torch.arange(5))
    observed = operator.apply(drawn(5, *SHAPE))
    decode = lambda states: (states @ turn.T).reshape(-1, *SHAPE)  # noqa: E731
    initial = operator.pseudo_inverse(observed).flatten(1) @ turn
    decoded = DecodedConsistency(operator, observed, decode, initial, iterations=4, tolerance=0.0)
    exact = ExactConsistency(operator, (observed.flatten(1)).reshape(observed.shape))

    @dataclass
    class InPixels(Gaussian):
        """The field of the latents, seen in pixels, so that the noise is the same in both."""

        def estimate(self, x: Tensor, t: Tensor, *quantities: Quantity) -> tuple[Tensor, ...]:
            found = super().estimate(x.flatten(1) @ turn, t, *quantities)
            return tuple(decode(value) for value in found)

    class Turned(ExactConsistency):
        """The exact agreement, for states that are latents."""

        def initial(self) -> Tensor:
            return initial

        def enforced(self, states: Tensor, weight: float, /) -> Tensor:
            return exact.enforced(decode(states), weight).flatten(1) @ turn

        def residual(self, states: Tensor, /) -> Tensor:
            return exact.residual(decode(states))

    one = solved(path, latent, decoded, 5)
    two = solved(path, latent, Turned(operator, observed), 5)
    torch.testing.assert_close(one, two, atol=1e-5, rtol=0)


@pytest.mark.parametrize("gain", [1e-3, 1.0, 1e3])
def test_steps_through_a_decoder_never_lead_away(gain: float) -> None:
    decoder = linear_decoder(100.0)
    operator = MaskConfig().build(SHAPE, torch.arange(8))
    decode = lambda states: torch.sin(gain * states @ decoder.T).reshape(-1, *SHAPE)  # noqa: E731
    observed = operator.apply(decode(drawn(8, 6, seed=1)))
    make = partial(DecodedConsistency, operator, observed, decode, drawn(8, 6, seed=2), tolerance=0.0)
    before = make(iterations=1).residual(drawn(8, 6, seed=2))
    last = before
    for iterations in (1, 2, 4, 8):
        agreement = make(iterations=iterations)
        now = agreement.residual(agreement.enforced(agreement.initial(), 1.0))
        assert bool((now <= last).all())
        last = now
    assert float(last.mean()) < 0.6 * float(before.mean())


def test_an_example_rests_once_it_is_near_enough() -> None:
    operator = MaskConfig().build(SHAPE, torch.arange(2))
    decode = lambda states: states.reshape(-1, *SHAPE)  # noqa: E731
    states = drawn(2, 16)
    observed = operator.apply(decode(states)) + torch.tensor([0.001, 1.0], dtype=torch.float64).reshape(2, 1, 1, 1)
    found = DecodedConsistency(operator, observed, decode, states, tolerance=1e-4).enforced(states, 1.0)
    assert torch.equal(found[0], states[0])
    assert not torch.allclose(found[1], states[1])


def test_decoders_keep_no_gradient() -> None:
    decoder = torch.nn.Linear(6, 16).double()
    operator = MaskConfig().build(SHAPE, torch.arange(2))
    decode = lambda states: decoder(states).reshape(-1, *SHAPE)  # noqa: E731
    agreement = DecodedConsistency(operator, torch.zeros(2, *SHAPE).double(), decode, drawn(2, 6))
    assert not agreement.enforced(drawn(2, 6), 1.0).requires_grad
    assert all(parameter.grad is None for parameter in decoder.parameters())


def test_what_the_configuration_asks_for() -> None:
    operator = AveragePool().build(SHAPE, torch.arange(3))
    truth = drawn(3, *SHAPE)
    observed = operator.apply(truth)
    states = 2 * drawn(3, *SHAPE, seed=1)
    hard, soft, gradient = (
        FlairConfig(consistency=kind).agreement(operator, observed, scale=2.0) for kind in ("hard", "soft", "gradient")
    )
    torch.testing.assert_close(hard.enforced(states, 1.0), 2 * agreeing(operator, observed, states / 2))
    torch.testing.assert_close(gradient.enforced(states, 1.0), hard.enforced(states, 1.0))
    moved = soft.enforced(states, 1.0) - states
    torch.testing.assert_close(moved, 0.1 * (hard.enforced(states, 1.0) - states))
    torch.testing.assert_close(hard.residual(hard.initial()), torch.zeros(3, dtype=torch.float64))
    latents = FlairConfig(consistency="soft").agreement(
        operator, observed, decode=lambda x: x / 2, initial=torch.zeros_like(states)
    )
    torch.testing.assert_close(latents.enforced(states, 1.0), soft.enforced(states, 1.0))
    assert torch.equal(latents.initial(), torch.zeros_like(states))
