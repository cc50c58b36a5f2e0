"""A path of your own: straight, and slow at its start.

x_t = (1 - s) x_0 + s x_1 with s = t^power, so that networks see more states near the source.
"""

from functools import partial

from pydantic import BaseModel, Field
from torch import Tensor

from trainer.flow.path import Affine, Coefficients
from trainer.flow.path.affine import without_noise


class SlowStart(Affine):
    """A path without noise of its own is an `Affine` with a schedule; any other extends `trainer.flow.path.Path`."""

    class Config(BaseModel, frozen=True):
        """The keys beside `class` in the configuration."""

        power: float = Field(default=1.5, ge=1)
        """1: the straight path at constant speed."""

    def __init__(self, config: Config) -> None:
        super().__init__(partial(schedule, power=config.power))


def schedule(t: Tensor, power: float) -> Coefficients:
    """Weights of x_0 and x_1 at times `t` [B], and their time derivatives."""
    s, speed = t**power, power * t ** (power - 1)
    return without_noise(a=1 - s, b=s, da=-speed, db=speed)
