"""The reward of examples near one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from moe.host_copies import to_device
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.data.picture import BadPicture, read_picture
from trainer.flow.condition import Condition
from trainer.flow.reward.protocol import Reward, RewardInputs


class DistanceConfig(Section):
    """Minus the Euclidean distance to a point or a picture."""

    kind: Literal["distance"] = "distance"
    target: Annotated[tuple[float, ...], Field(min_length=1)] | Path
    """The coordinates of a point; or a picture, which is cut and resized as images are."""


class Distance(Reward):
    """Minus the Euclidean distance over all values of an example."""

    def __init__(self, target: Tensor) -> None:
        self._target = target

    def __call__(self, examples: Tensor, condition: Condition, /) -> Tensor:  # noqa: ARG002
        """Differentiable, with gradient 0 at the target itself."""
        if self._target.device != examples.device:
            self._target = to_device(self._target, examples.device)
        return -torch.linalg.vector_norm((examples - self._target).flatten(1), dim=1)


def target_of(config: DistanceConfig, inputs: RewardInputs) -> Tensor:
    """The point or picture that examples should be near to, float32 [*shape] on the CPU; a picture is from -1 to 1.

    Raises:
        Refusal: the picture cannot be read.
        ValueError: examples are no points of so many coordinates, or no images.
    """
    shape, target = list(inputs.shape), config.target
    if isinstance(target, tuple):
        if shape != [len(target)]:
            told = f"a point of {len(target)} coordinates, and examples have shape {shape}"
            remedy = f"write {shape[0]} coordinates" if len(shape) == 1 else "name a picture"
            raise ValueError(f"target: is {told}; {remedy}")
        return torch.tensor(target)
    if len(shape) != 3 or shape[0] not in (1, 3):
        remedy = "write coordinates" if len(shape) == 1 else "use a reward of your own"
        raise ValueError(f"target: {target} is a picture, and examples have shape {shape}; {remedy}")
    try:
        pixels = read_picture(target, *shape)
    except BadPicture as error:
        raise Refusal(target, "target", str(error), "give a picture that examples should be near to") from error
    return torch.from_numpy(pixels.copy()).float() / 127.5 - 1
