"""Settings of an autoencoder."""

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from trainer.config.network.protocol import Input, NetworkConfig
from trainer.config.network.sizes import Layers, Width, check_image, squares

LARGEST_FACTOR = 16


class AutoencoderConfig(NetworkConfig):
    """A variational autoencoder of images, whose latents another run learns from (the encode verb)."""

    kind: Literal["autoencoder"] = "autoencoder"
    hidden: Width = 64
    """Channels inside, a multiple of 8."""
    num_layers: Layers = 4
    """Residual blocks, an even number: the first half encodes, the second decodes."""
    latent_channels: PositiveInt = 4
    """Channels of a latent."""
    factor: Literal[1, 2, 4, 8, 16] = 2
    """Pixels a side of the image for one of the latents."""
    kl_weight: float = Field(default=1e-3, ge=0)
    """Of the Kullback-Leibler term, nats a latent value, beside the mean squared error of a pixel."""
    init_from: Path | None = None
    """An ema.safetensors whose weights this run starts with, or the folder of the run that has it."""

    data_kinds = ("digits", "image_folder", "shards", "webdataset")
    sample_kinds = ("reconstructions",)
    task_kinds = ("reconstruction",)
    takes_images = True
    flowless = "an autoencoder predicts what it was shown"
    no_mixture = "an autoencoder has no feed-forward layers to make experts of"
    no_division = "share attention heads, which autoencoder lacks"

    @model_validator(mode="after")
    def _sizes_divide(self) -> "AutoencoderConfig":
        if self.num_layers % 2:
            raise ValueError(f"num_layers: {self.num_layers} is odd, and half encode; use {self.num_layers + 1}")
        if self.hidden % 8:
            raise ValueError(f"hidden: {self.hidden} is not a multiple of 8; use {8 * (self.hidden // 8 + 1)}")
        return self

    def check_states(self, shape: tuple[int, ...]) -> None:
        """An image that the factor divides."""
        check_image(shape, "model.factor", self.factor, limit=LARGEST_FACTOR, otherwise="give images")

    def latent_shape(self, image_shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Shape of the latents of an image [C, H, W]."""
        _, height, width = image_shape
        return self.latent_channels, height // self.factor, width // self.factor

    def inputs(self, state_shape: tuple[int, ...]) -> tuple[Input, ...]:
        """An image, and noise for its latents."""
        return Input(state_shape), Input(self.latent_shape(state_shape))

    def multiply_adds(
        self, state_shape: tuple[int, ...], *, context_channels: int = 0, mixture: int | None = None
    ) -> int:
        """Convolutions count as matrix products."""
        del context_channels, mixture
        folded = state_shape[0] * self.factor**2
        latents = 2 * self.hidden * self.latent_channels + 9 * self.latent_channels * self.hidden
        place = 18 * folded * self.hidden + latents + self.num_layers * 18 * self.hidden**2
        return squares(state_shape, self.factor) * place
