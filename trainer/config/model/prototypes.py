"""Settings of networks that tell clusters apart by prototypes."""

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat

from trainer.config.model.protocol import IMAGES, Input, Layers, NetworkConfig, Shape, Width


class PrototypesConfig(NetworkConfig):
    """Residual blocks over an example as a whole, whose direction is compared with that of a prototype of each cluster.

    An image is standardised and read as a vector; features that another network made of larger ones are read as they
    are. At first the features are a random projection of the example.
    """

    kind: Literal["prototypes"] = "prototypes"
    clusters: int = Field(default=10, ge=2, le=1_000_000)
    """Prototypes."""
    hidden: Width = 128
    """Width, and number of features."""
    num_layers: Layers = 2
    """Residual blocks."""
    feed_forward_hidden: Width | None = None
    """Width inside a block; null: 2 x hidden."""
    temperature: PositiveFloat = 0.1
    """What cosines of features and prototypes are divided by: small: sure of the nearest one."""
    init_from: Path | None = None
    """An ema.safetensors whose weights this run starts with, or the folder of the run that has it."""

    data_kinds = (*IMAGES, "toy")
    sample_kinds = ("examples",)
    task_kinds = ("clustering",)
    flowless = "a prototypes network learns clusters"
    no_division = "share attention heads, which prototypes lacks"
    unseen_in_shapes = ("temperature",)

    @property
    def inner(self) -> int:
        """Width inside a block."""
        return self.feed_forward_hidden or 2 * self.hidden

    def inputs(self, state_shape: Shape) -> tuple[Input, ...]:
        return (Input(state_shape),)

    def multiply_adds(self, state_shape: Shape, **_: Any) -> int:
        blocks = 2 * self.num_layers * self.hidden * self.inner
        return math.prod(state_shape) * self.hidden + blocks + self.hidden * self.clusters


Config = PrototypesConfig
