"""RF-Inversion and OTIP as functions of time beside the steps of their algorithms, written out."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.benchmarks.methods.plain_loop import PlainNetwork
from tests.each import each
from tests.trainer.flow.test_sampler import STRAIGHT, gaussian, known
from trainer.flow import Condition, sampler
from trainer.flow.control import Pull, PullConfig, Transport, TransportConfig, controlled

NUM, VALUES, STEPS = 5, 8, 28
EULER, GRID = sampler.Euler(), torch.linspace(0, 1, STEPS + 1, dtype=torch.float64)


def draws(seed: int) -> Tensor:
    return torch.randn(NUM, VALUES, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


NOISE, PICTURE = draws(0), draws(1)
SHARES = torch.arange(VALUES, dtype=torch.float64) / VALUES
"""A mask of all shares."""
NETWORK = PlainNetwork(VALUES, hidden=16, layers=2, seed=0).double()


@torch.no_grad()
def velocity(x: Tensor, t: Tensor) -> Tensor:
    return NETWORK(x, t, Condition())


@torch.no_grad()
def by_steps(
    start: Tensor,
    *,
    eta: float = 0.0,
    first: float = 0.0,
    stop: float = 0.0,
    power: float = 0.0,
    base: float = 0.0,
    phase: float = 0.3,
    mask: Tensor | None = None,
    respect: bool = False,
    longest: float = 10.0,
) -> Tensor:
    """The loop over steps of the published methods, from noise to data, a row at a time, in numpy."""
    x = start.numpy().copy()
    masked = np.ones_like(x) if mask is None else mask.expand_as(start).numpy()
    for i in range(STEPS):
        share = i / STEPS
        v = velocity(torch.from_numpy(x), torch.full((NUM,), share, dtype=torch.float64)).numpy()
        straight = (PICTURE.numpy() - x) / (1 - share)
        if share < phase:
            d = straight.copy()
            for row in d:
                norm = np.linalg.norm(row)
                if norm > longest:
                    row *= longest / norm
            strength = base * 0.5 * (1 + math.cos(math.pi * min(share / phase, 1))) * min(1, share / 0.05)
            c = strength * masked * (d - v)
            if respect:
                c *= np.linalg.norm(v, axis=1, keepdims=True) / (np.linalg.norm(d, axis=1, keepdims=True) + 1e-8)
            v = v + c
        pull = eta * (1 - share) ** power if first * STEPS <= i < stop * STEPS else 0.0
        x = x + (v + pull * (straight - v)) / STEPS
    return torch.from_numpy(x)


def inverted(gamma: float) -> Tensor:
    """From the picture to noise by Euler's steps against the time, pulled to `NOISE`."""
    pull = Pull(PullConfig(strength=gamma, stop=1, end="source"), NOISE, STRAIGHT)
    return EULER.sample(controlled(known(velocity), [pull]), PICTURE, GRID.flip(0)).final


def edited(start: Tensor, *controls: Pull | Transport) -> Tensor:
    return EULER.sample(controlled(known(velocity), controls), start, GRID).final


def pull(**settings: Any) -> Pull:
    return Pull(PullConfig(**settings), PICTURE, STRAIGHT)


def transport(mask: Tensor | None = None, **settings: Any) -> Transport:
    return Transport(TransportConfig(**settings), PICTURE, STRAIGHT, mask)


@each(
    ("controls", "steps"),
    [
        ([pull(strength=0.5)], {"eta": 0.5, "stop": 0.25}),
        ([pull(strength=0.9, start=0.1, stop=0.5, decay=2)], {"eta": 0.9, "first": 0.1, "stop": 0.5, "power": 2}),
        ([transport(strength=0.5)], {"base": 0.5}),
        ([transport(strength=0.5, longest=1), pull()], {"base": 0.5, "longest": 1, "eta": 0.9, "stop": 0.25}),
        ([transport(strength=1, stop=0.7, respect_prompt=True)], {"base": 1, "phase": 0.7, "respect": True}),
        ([transport(SHARES, strength=0.5)], {"base": 0.5, "mask": SHARES}),
    ],
)
def test_functions_of_time_are_the_steps_of_the_published_loops(controls, steps):
    start = inverted(0.5)
    torch.testing.assert_close(edited(start, *controls), by_steps(start, **steps), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_the_inversion_is_pulled_to_its_noise_step_by_step():
    x = PICTURE
    for i in range(STEPS, 0, -1):
        t = i / STEPS
        v = velocity(x, torch.full((NUM,), t, dtype=torch.float64))
        x = x - (v + 0.5 * ((x - NOISE) / t - v)) / STEPS
    torch.testing.assert_close(inverted(0.5), x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(inverted(1.0), NOISE, rtol=0, atol=1e-12)


@each("base", [0.1, 0.5, 1.0])
@each("eta", [0.0, 0.5, 0.9])
def test_transport_then_pull_is_a_stronger_pull(base, eta):
    """Where nothing is shortened: eta' = 1 - (1 - eta) (1 - s), at every state and time."""
    x, start = draws(3), inverted(0.5)
    both = [transport(strength=base, longest=1e3), pull(strength=eta, stop=0.25)]
    plain = known(velocity)
    for share in (0.0, 0.02, 0.1, 0.24, 0.25, 0.29, 0.3, 0.8):
        t = torch.full((NUM,), share, dtype=torch.float64)
        s = base * 0.5 * (1 + math.cos(math.pi * min(share / 0.3, 1))) * min(1, share / 0.05)
        stronger = 1 - (1 - (eta if share < 0.25 else 0)) * (1 - s)
        v = velocity(x, t)
        expected = v + stronger * ((PICTURE - x) / (1 - share) - v)
        torch.testing.assert_close(controlled(plain, both)(x, t), expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(controlled(plain, both[::-1])(x, t), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(edited(start, *both), edited(start, *both[::-1]), rtol=0, atol=1e-6)


@each("built", [EULER, sampler.FirstOrder().build(STRAIGHT), sampler.Renoise().build(STRAIGHT)])
@each("steps", [1, 7, 28])
def test_a_full_pull_to_the_end_gives_the_picture(built, steps):
    """Whatever the velocity, and from wherever it starts."""
    keys = torch.arange(NUM)
    for inner in (velocity, lambda x, _: 100 * x.sin()):
        over = controlled(known(inner), [pull(strength=1, stop=1)])
        drawn = built.sample(over, 5 * draws(4), torch.linspace(0, 1, steps + 1).double(), keys=keys).final
        torch.testing.assert_close(drawn, PICTURE, rtol=0, atol=1e-12)


def test_without_strength_it_is_the_way_back_and_forth():
    field = known(velocity)
    back = EULER.sample(field, PICTURE, GRID.flip(0)).final
    assert torch.equal(inverted(0.0), back)
    assert torch.equal(edited(back, transport(strength=0), pull(strength=0)), EULER.sample(field, back, GRID).final)
    assert torch.equal(edited(back, transport(strength=0), pull()), edited(back, pull()))


def test_a_mask_of_0_leaves_its_values_to_the_pull_alone():
    """A velocity of each value by itself, so that no value sees what became of the others."""
    field, held = known(gaussian(0.5, 0.7)), (torch.arange(VALUES) < 3).double()
    masked, whole, without = (
        EULER.sample(controlled(field, controls), NOISE, GRID).final
        for controls in (
            [transport(held, strength=0.8, longest=1e3), pull()],
            [transport(strength=0.8, longest=1e3), pull()],
            [pull()],
        )
    )
    assert torch.equal(masked[:, 3:], without[:, 3:])
    assert torch.equal(masked[:, :3], whole[:, :3])
    assert float((whole - without).abs().min()) > 1e-4


def test_a_masked_full_pull_holds_a_region_and_draws_the_rest():
    held = (torch.arange(VALUES) < 3).double()
    config = PullConfig(strength=1, stop=1)
    over = controlled(known(gaussian(0.5, 0.7)), [Pull(config, PICTURE, STRAIGHT, held)])
    drawn, plain = (EULER.sample(field, NOISE, GRID).final for field in (over, known(gaussian(0.5, 0.7))))
    torch.testing.assert_close(drawn[:, :3], PICTURE[:, :3], rtol=0, atol=1e-12)
    assert torch.equal(drawn[:, 3:], plain[:, 3:])


def test_the_norm_is_over_the_channels_of_a_pixel():
    picture = 3 * torch.randn(2, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    over = Transport(TransportConfig(longest=5), picture, STRAIGHT)
    x, t = torch.zeros_like(picture), torch.tensor([0.1, 0.2], dtype=torch.float64)
    found = over.velocity(x, t)
    for row, column, line in np.ndindex(2, 3, 3):
        straight = picture[row, :, column, line] / (1 - t[row])
        norm = float(straight.norm())
        torch.testing.assert_close(found[row, :, column, line], straight * min(1, 5 / norm))


def test_the_clip_rate_counts_places_that_were_too_long_while_it_acted():
    too_long, field = transport(strength=0.5, longest=3.5), known(velocity)
    trajectory = EULER.sample(controlled(field, [too_long]), NOISE, GRID)
    acted = [i for i in range(STEPS) if 0 < i / STEPS < 0.3]
    long = [
        float(((PICTURE[row] - trajectory.x[i, row]) / (1 - i / STEPS)).norm()) > 3.5
        for i in acted
        for row in range(NUM)
    ]
    assert 0 < sum(long) < len(long)
    assert float(too_long.clip_rate(trajectory)) == pytest.approx(sum(long) / len(long))
    assert float(transport(strength=0).clip_rate(trajectory)) == 0


def test_the_last_times_are_finite():
    x, t = draws(3), torch.tensor([0.0, 0.5, 0.999, 0.9999, 1.0], dtype=torch.float64)
    for end in ("data", "source"):
        over = controlled(known(velocity), [Pull(PullConfig(strength=1, stop=1, end=end), PICTURE, STRAIGHT)])
        assert bool(over(x, t).isfinite().all())
    assert torch.equal(controlled(known(velocity), [pull(strength=1, stop=1)])(x, t)[-1], velocity(x, t)[-1])
