"""What a parameter of a network begins with, said by its name."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True)
class Constant:
    """One value everywhere."""

    value: float

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Returns float32 values; nothing is drawn."""
        del generator
        return torch.full(shape, self.value)


@dataclass(frozen=True)
class Normal:
    """Independent Gaussians of mean 0."""

    std: float

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Returns float32 values."""
        return torch.empty(shape).normal_(0.0, self.std, generator=generator)


@dataclass(frozen=True)
class Uniform:
    """Independent uniform values in [-bound, bound]."""

    bound: float

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Returns float32 values."""
        return torch.empty(shape).uniform_(-self.bound, self.bound, generator=generator)


Initial = Constant | Normal | Uniform


def xavier(shape: tuple[int, ...]) -> Uniform:
    """For matrices [outputs, inputs], or a stack of them: Glorot and Bengio, 2010, equation 16."""
    *_, outputs, inputs = shape
    return Uniform(math.sqrt(6 / (inputs + outputs)))


def by_inputs(num_inputs: int) -> Uniform:
    """As torch draws the weights of linear layers and of convolutions of so many inputs."""
    return Uniform(1 / math.sqrt(num_inputs))


@runtime_checkable
class StatesInitial(Protocol):
    """A module that says what the parameters below it begin with, as far as no module further inside says it."""

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        """What a parameter begins with.

        Args:
            name: of the parameter in this module.
            shape: of the whole parameter, whatever part of it a rank holds.
        """
        ...


def steered(
    name: str, shape: tuple[int, ...], *, at_zero: tuple[str, ...] = (), embeddings: tuple[str, ...] = ("embed_label",)
) -> Initial:
    """Initial values in a network whose blocks are steered by layers called `modulation`, which start at zero.

    `at_zero` names further layers that start at zero, `embeddings` tables of vectors.
    """
    layer, _, kind = name.rpartition(".")
    if kind == "bias" or layer in at_zero or layer.endswith("modulation"):
        return Constant(0.0)
    return Normal(0.02) if layer in embeddings else xavier(shape)
