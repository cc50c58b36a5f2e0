"""A control of your own: the field leads to images of a brightness that you choose.

A control makes a field of a field. Whatever it changes is a function of state and time, so that it means the same under
every sampler, on every grid of times and in every batch.
"""

from dataclasses import dataclass

from pydantic import BaseModel, Field
from torch import Tensor

from trainer.flow.control import Control, Controlled
from trainer.flow.path import Path
from trainer.flow.sampler import Field as FlowField


class Brightness(Control):
    """Adds the distance of the mean of the image in sight from the wanted mean to the velocity of every value."""

    class Config(BaseModel, frozen=True):
        """The keys beside `class` in the configuration."""

        mean: float = Field(default=0.0, ge=-1, le=1)
        """The wanted mean of an image, from -1 (black) to 1 (white)."""
        strength: float = Field(default=2.0, ge=0)
        """How fast the distance goes; 0 leaves the field as it is."""

    def __init__(self, config: Config, path: Path) -> None:
        """A control that asks for `condition` or `network` here gets those of the examples that are drawn."""
        self.config = config
        self.path = path

    def over(self, field: FlowField) -> FlowField:
        """The changed field; the same object where there is nothing to change."""
        return Brightened(field, self.path, self.config) if self.config.strength else field


@dataclass(frozen=True)
class Brightened(Controlled):
    """A field made of another one by a change of its velocity alone; `Controlled` does the rest."""

    wanted: Brightness.Config

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """Asks the field for two quantities of one evaluation: its velocity, and the image that it heads for."""
        velocity, image = self.field.estimate(x, t, "velocity", "data")
        distance = self.wanted.mean - image.flatten(1).mean(1)
        return velocity + self.wanted.strength * distance.view(-1, *(1,) * (x.ndim - 1))
