"""Fields whose solutions are known, and fine solutions of them."""

import torch
from torch import Tensor

from trainer.flow.sampler import Field
from trainer.flow.target import Quantity
from trainer.sampling.fine_grid import FineSolution, fine_solution


class VelocityAlone(Field):
    """A field that nothing but its velocity is asked of."""

    def estimate(self, x: Tensor, t: Tensor, *quantities: Quantity) -> tuple[Tensor, ...]:  # noqa: ARG002
        """See `Field.estimate`."""
        raise AssertionError(f"asked for {quantities}")


class Bent(VelocityAlone):
    """v = a x + b t^2, componentwise, for a number of dimensions: paths bend, so that grids differ."""

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
        """See `Field`."""
        rates = torch.linspace(-3.0, 1.0, x.shape[1], dtype=x.dtype)
        return rates * x + 6.0 * t[:, None] ** 2


class Constant(VelocityAlone):
    """One velocity everywhere."""

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:  # noqa: ARG002
        """See `Field`."""
        return torch.tensor([2.0, -0.5]).expand_as(x)


class Jumping(VelocityAlone):
    """A velocity that is another in each of several segments of time; it must be asked within one."""

    def __init__(self, segments: int) -> None:
        """Names the segments."""
        self.segments, self.entered = segments, list[int]()

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:  # noqa: ARG002
        """See `Field`; the field of all times is asked for nothing."""
        raise AssertionError("asked outside of a segment")

    def within(self, segment: int, /) -> Field:
        """See `Field.within`."""
        self.entered.append(segment)
        return _Part(segment, self.segments)


class _Part(VelocityAlone):
    def __init__(self, number: int, segments: int) -> None:
        self.number, self.segments = number, segments

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
        begin, end = self.number / self.segments, (self.number + 1) / self.segments
        assert bool(((t > begin - 1e-6) & (t < end + 1e-6)).all()), "outside of its segment"
        return (-1.0) ** self.number * 4 * x + t[:, None]


def solutions(field: Field, *, nodes: int, num: int = 40, seed: int = 0, segments: int = 1) -> list[FineSolution]:
    """Fine solutions from normal noises in the plane, in two batches."""
    noises = torch.randn(num, 2, generator=torch.Generator().manual_seed(seed))
    return [fine_solution(field, part, nodes=nodes, segments=segments) for part in noises.split(num // 2 + 1)]
