from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from tests.each import each
from tests.trainer.flow.test_sampler import KEYS, STRAIGHT, grid, growth, known, rotation, states
from trainer.flow import sampler, target
from trainer.flow.field import NetworkField
from trainer.flow.target import Quantity

INNER = [
    sampler.Euler(steps=2),
    sampler.Heun(steps=2),
    sampler.Dopri5(),
    sampler.FirstOrder(steps=2),
    sampler.EulerMaruyama(steps=2),
    sampler.StochasticHeun(steps=2),
]
inner = each("within", INNER, ids=lambda config: config.kind)
M = 6


@dataclass(frozen=True)
class Recorded(NetworkField):
    """Writes down which segment each time was asked in; a network of blocks, each right in its own segment alone."""

    segment: int | None = None
    asked: list[tuple[int, float]] = field(default_factory=list)

    def within(self, segment: int, /) -> "Recorded":
        def block(x: Tensor, t: Tensor) -> Tensor:
            self.asked.append((segment, float(t[0])))
            return self.predict(x, t) + segment

        return Recorded(block, self.target, segment, self.asked)


def recorded() -> Recorded:
    return Recorded(rotation, target.Velocity().build(STRAIGHT))


@inner
@each("dtype", [torch.float32, torch.float64])
@each("direction", [1, -1])
def test_every_evaluation_lies_in_the_segment_that_it_was_asked_for(within, dtype, direction):
    times = sampler.Segmented(segments=M, within=within).grid().to(dtype)
    whole = recorded()
    built = sampler.Segmented(segments=M, within=within).build(STRAIGHT)
    built.sample(whole, states(), times if direction > 0 else times.flip(0), keys=KEYS)
    numbers = [segment for segment, _ in whole.asked]
    assert sorted(set(numbers)) == list(range(M))
    assert numbers == sorted(numbers, reverse=direction < 0)
    for segment, t in whole.asked:
        assert segment / M - 1e-6 <= t <= (segment + 1) / M + 1e-6


def test_an_edge_belongs_to_both_sides():
    """Heun's stages at an edge are asked in the segment of their own step: once as its end, once as its start."""
    whole = recorded()
    sampler.Segmented(segments=2, within=sampler.Heun()).sample(whole, states(), grid(2))
    assert whole.asked == [(0, 0.0), (0, 0.5), (1, 0.5), (1, 1.0)]


@inner
def test_a_grid_that_misses_the_edges_is_cut_there_and_reported_as_it_is(within):
    times = torch.tensor([0.0, 0.4, 0.5, 0.95, 1.0], dtype=torch.float64)
    whole = recorded()
    built = sampler.Segmented(segments=3, within=within).build(STRAIGHT)
    trajectory = built.sample(whole, states(), times, keys=KEYS)
    assert trajectory.x.shape == (5, 5, 2)
    assert torch.equal(trajectory.times, times)
    for segment, t in whole.asked:
        assert segment / 3 - 1e-6 <= t <= (segment + 1) / 3 + 1e-6


@pytest.mark.parametrize("within", INNER[:2] + INNER[3:4], ids=lambda config: config.kind)
def test_a_field_without_segments_is_followed_as_ever(within):
    """The grid of the segments holds the edges, so the inner sampler takes the very same steps."""
    config = sampler.Segmented(segments=M, within=within)
    built, plain = config.build(STRAIGHT), within.build(STRAIGHT)
    one = built.sample(known(growth), states(), config.grid())
    other = plain.sample(known(growth), states(), config.grid())
    assert torch.equal(one.x, other.x)
    assert one.calls == other.calls


def test_one_segment_is_the_inner_sampler():
    config = sampler.Segmented(segments=1, within=sampler.Euler(steps=8))
    times = config.grid()
    assert torch.equal(times, sampler.Euler(steps=8).grid())
    drawn = config.build(STRAIGHT).sample(known(growth), states(), times).x
    assert torch.equal(drawn, sampler.Euler().sample(growth, states(), times).x)


def test_a_jump_at_an_edge_is_not_smeared():
    """v = +1 before one half and -1 after it: Heun in segments is exact, across the edge it is not."""

    class Jumping(NetworkField):
        def within(self, segment: int, /) -> NetworkField:
            return known(lambda x, _: torch.ones_like(x) * (1 - 2 * segment))

    jumping = Jumping(
        lambda x, t: torch.where(t < 0.5, 1.0, -1.0)[:, None].expand_as(x), target.Velocity().build(STRAIGHT)
    )
    in_segments = sampler.Segmented(segments=2, within=sampler.Heun()).sample(jumping, states(), grid(2)).final
    torch.testing.assert_close(in_segments, states())
    across = sampler.Heun().sample(jumping, states(), grid(2)).final
    assert float((across - states()).abs().min()) > 0.2


def test_noise_differs_between_segments():
    config = sampler.Segmented(segments=2, within=sampler.EulerMaruyama(steps=2, diffusion=(1.0, 1.0)))

    class Still(sampler.Field):
        def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
            return torch.zeros_like(x) * t[:, None]

        def estimate(self, x: Tensor, t: Tensor, *quantities: Quantity) -> tuple[Tensor, ...]:
            return tuple(self(x, t) for _ in quantities)

    built = config.build(STRAIGHT)
    steps = built.sample(Still(), states(), config.grid().double(), keys=KEYS).x.diff(dim=0)
    assert not torch.allclose(steps[0], steps[2])
