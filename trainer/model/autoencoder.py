"""A small convolutional autoencoder of images.

Shape suffixes: B batch, C channels of an image, H W its pixels, Z latent channels, h w H and W divided by the factor.
"""

import math

from torch import Tensor, nn
from torch.nn import functional

from trainer.config.model import AutoencoderConfig
from trainer.model.network import Builders, Constant, Initial, Network, NetworkSpec, by_inputs

NORM_GROUPS = 8
LOG_VARIANCES = (-20.0, 10.0)


class Autoencoder(Network):
    """An encoder of pixel squares by residual blocks to Gaussians over latents, and a decoder that mirrors it.

    Kingma and Welling, "Auto-Encoding Variational Bayes", 2014; used as by Rombach et al., 2022, section 3.1.
    """

    def __init__(self, spec: NetworkSpec[AutoencoderConfig]) -> None:
        super().__init__()
        config, shape = spec.config, spec.image_shape
        self.factor = config.factor
        folded = shape[0] * config.factor**2
        self.latent_shape = config.latent_shape(shape)
        self.enter = nn.Conv2d(folded, config.hidden, 3, padding=1)
        self.to_latents = nn.Conv2d(config.hidden, 2 * config.latent_channels, 1)
        self.from_latents = nn.Conv2d(config.latent_channels, config.hidden, 3, padding=1)
        self.leave = nn.Conv2d(config.hidden, folded, 3, padding=1)
        self.blocks = nn.ModuleList(Block(config.hidden) for _ in range(config.num_layers))

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        layer, _, kind = name.rpartition(".")
        if kind == "bias" or layer.endswith(".second"):
            return Constant(0.0)
        return Constant(1.0) if layer.endswith("norm") else by_inputs(math.prod(shape[1:]))

    def forward(self, x_BCHW: Tensor, noise_BZhw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images [B, C, H, W] again, and mean and log variance of the latents [B, Z, h, w]; all float32."""
        mean, log_variance = self.encode(x_BCHW)
        return self.decode(mean + (0.5 * log_variance).exp() * noise_BZhw), mean, log_variance

    def encode(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latents, float32 [B, Z, h, w]."""
        values = self.enter(functional.pixel_unshuffle(x_BCHW.to(self.enter.weight.dtype), self.factor))
        for block in self.blocks[: len(self.blocks) // 2]:
            values = block(values)
        mean, log_variance = self.to_latents(values).float().chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCES)

    def features(self, images: Tensor) -> Tensor:
        """The means of the latents."""
        return self.encode(images)[0].flatten(1)

    def decode(self, latents_BZhw: Tensor) -> Tensor:
        values = self.from_latents(latents_BZhw.to(self.enter.weight.dtype))
        for block in self.blocks[len(self.blocks) // 2 :]:
            values = block(values)
        return functional.pixel_shuffle(self.leave(values), self.factor).float()


class Block(nn.Module):
    """A residual block of two 3 x 3 convolutions; the identity at initialisation."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.first_norm, self.second_norm = nn.GroupNorm(NORM_GROUPS, hidden), nn.GroupNorm(NORM_GROUPS, hidden)
        self.first = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.second = nn.Conv2d(hidden, hidden, 3, padding=1)

    def forward(self, values: Tensor) -> Tensor:
        inner = self.first(functional.silu(self.first_norm(values)))
        return values + self.second(functional.silu(self.second_norm(inner)))


NETWORKS: Builders = {AutoencoderConfig: Autoencoder}
