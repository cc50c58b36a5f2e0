"""Classes of a user's for every part of a flow and for data, each a copy of a built-in part; and broken ones.

`BUILT_IN` and `OWN` say the same in a run configuration.
"""

from typing import Any

import torch
from pydantic import BaseModel, PositiveFloat, PositiveInt
from torch import Tensor

from trainer.data import Batch, Dataset, Split, ToyConfig
from trainer.data.builtin import Toy
from trainer.flow import Condition
from trainer.flow.coupling import Coupling, Pairs
from trainer.flow.objective import LossTerms, Model, Objective
from trainer.flow.path import Coefficients, Path, PathSample
from trainer.flow.sampler import Field, Sampler, Trajectory
from trainer.flow.target import Noise, Target
from trainer.flow.time import TimeSampler

BUILT_IN: dict[str, dict[str, Any]] = {
    "data": {"kind": "toy", "name": "rings", "num_examples": 500, "held_out": 64, "classes": True},
    "coupling": {"kind": "gibbs_weighted", "cost": "sqeuclidean", "epsilon": 4.0},
    "time": {"kind": "clipped", "margin": 0.02},
    "path": {"kind": "linear", "sigma_min": 0.1},
    "target": {"kind": "noise"},
    "objective": {"kind": "regression"},
    "sampler": {"kind": "heun", "steps": 6},
}
OWN: dict[str, dict[str, Any]] = {
    "data": {"class": f"{__name__}:Rings", "num_examples": 500, "held_out": 64},
    "coupling": {"class": f"{__name__}:Weighted", "epsilon": 4.0},
    "time": {"class": f"{__name__}:Inner", "margin": 0.02},
    "path": {"class": f"{__name__}:Straight", "rest": 0.1},
    "target": {"class": f"{__name__}:Draw"},
    "objective": {"class": f"{__name__}:Squared"},
    "sampler": {"class": f"{__name__}:Trapezoid", "steps": 6},
}


class Rings(Dataset):
    """The labelled rings of `trainer.data.builtin.Toy`."""

    class Config(BaseModel):
        """How many there are."""

        num_examples: PositiveInt
        held_out: PositiveInt
        shape: tuple[int] = (2,)
        num_classes: int = 2

    def __init__(self, config: Config) -> None:
        same = ToyConfig(name="rings", classes=True, num_examples=config.num_examples, held_out=config.held_out)
        self.toy = Toy(same)
        self.shape, self.num_classes = config.shape, config.num_classes

    def indices(self, split: Split) -> Tensor:
        """Those of the toy."""
        return self.toy.indices(split)

    def get(self, indices: Tensor) -> Batch:
        """Those of the toy."""
        return self.toy.get(indices)


class Weighted(Coupling):
    """The Gibbs weights of squared distances."""

    weighs = True
    normal_source = True

    class Config(BaseModel):
        """Their scale."""

        epsilon: PositiveFloat

    def __init__(self, config: Config) -> None:
        self.epsilon = config.epsilon

    def draw(
        self, x_1: Tensor, condition: Condition, *, x_0: Tensor | None = None, generator: torch.Generator
    ) -> Pairs:
        """Independent pairs with weights."""
        if x_0 is None:
            x_0 = torch.empty_like(x_1).normal_(generator=generator)
        distance = torch.cdist(x_0.flatten(1)[:, None], x_1.flatten(1)[:, None]).flatten()
        return Pairs(x_0, x_1, condition, distance.square() / -self.epsilon)


class Inner(TimeSampler):
    """Uniform times away from the ends; its settings are arguments."""

    def __init__(self, margin: float = 0.0) -> None:
        self.margin = margin

    def sample(
        self,
        batch_size: int,
        *,
        generator: torch.Generator,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draws them."""
        u = torch.rand(batch_size, generator=generator, dtype=dtype)
        return (self.margin + (1 - 2 * self.margin) * u).to(device)


class Straight(Path):
    """The straight path with a rest of the source at the data."""

    def __init__(self, *, rest: float) -> None:
        self.rest = rest

    def sample(self, pairs: Pairs, t: Tensor, *, generator: torch.Generator) -> PathSample:  # noqa: ARG002
        """Points on it."""
        x_0, x_1 = pairs.x_0, pairs.x_1
        end = torch.add(x_1, x_0, alpha=self.rest)
        x_t = torch.lerp(x_0, end, t.view(-1, *[1] * (x_0.ndim - 1)))
        return PathSample(x_t, end - x_0, x_0, t, x_0, x_1)

    def coefficients(self, t: Tensor) -> Coefficients:
        """a = 1 - (1 - rest) t, b = t."""
        zero, one, lost = torch.zeros_like(t), torch.ones_like(t), 1 - self.rest
        return Coefficients(a=1 - lost * t, b=t, g=zero, da=-lost * one, db=one, dg=zero, g_dg=zero)


class Draw(Noise):
    """The noise."""


class Squared(Objective):
    """The mean squared error."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def loss(self, model: Model, sample: PathSample, condition: Condition) -> LossTerms:
        """Of one prediction."""
        return LossTerms((model(sample.x_t, sample.t, condition) - self.target.make(sample)).square(), {})


class Trapezoid(Sampler):
    """Heun's method."""

    evaluations_per_step = 2

    def __init__(self, steps: PositiveInt, path: Path) -> None:
        self.steps, self.path = steps, path

    def sample(
        self,
        field: Field,
        x_init: Tensor,
        times: Tensor,
        *,
        keys: Tensor | None = None,  # noqa: ARG002
    ) -> Trajectory:
        """Follows the mean of the velocities at both ends of a step."""
        states = [x_init]
        for t, after in zip(times[:-1].to(x_init.device), times[1:].to(x_init.device), strict=True):
            x, h = states[-1], after - t
            first = field(x, t.expand(len(x)))
            second = field(x + h * first, after.expand(len(x)))
            states.append(x + h / 2 * (first + second))
        return Trajectory(torch.stack(states), times, {"network": 2 * (len(times) - 1)})


class Silent(Coupling):
    """Says nothing of weights."""

    def draw(
        self, x_1: Tensor, condition: Condition, *, x_0: Tensor | None = None, generator: torch.Generator
    ) -> Pairs:
        """Independent pairs."""
        return Pairs(torch.randn(x_1.shape, generator=generator) if x_0 is None else x_0, x_1, condition)


class Unshaped(Rings):
    """Its settings do not tell the shape of an example."""

    class Config(BaseModel):
        """Nothing of what is needed."""

        num_examples: PositiveInt = 10
        held_out: PositiveInt = 10


class Empty:
    """No part of anything."""
