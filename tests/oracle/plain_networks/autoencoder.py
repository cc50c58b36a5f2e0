"""An autoencoder of images."""

from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Two convolutions over 3 x 3 pixels, added to what came in."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.first_norm, self.second_norm = nn.GroupNorm(8, hidden), nn.GroupNorm(8, hidden)
        self.first = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.second = nn.Conv2d(hidden, hidden, 3, padding=1)

    def forward(self, values: Tensor) -> Tensor:
        """From [B, hidden, h, w] to the same shape."""
        inner = self.first(functional.silu(self.first_norm(values)))
        return values + self.second(functional.silu(self.second_norm(inner)))


class Autoencoder(nn.Module):
    """Images to Gaussians over latents, and latents to images."""

    def __init__(self, settings: dict) -> None:
        super().__init__()
        hidden, self.factor, latents = settings["hidden"], settings["factor"], settings["latent_channels"]
        folded = settings["shape"][0] * self.factor**2
        self.enter = nn.Conv2d(folded, hidden, 3, padding=1)
        self.to_latents = nn.Conv2d(hidden, 2 * latents, 1)
        self.from_latents = nn.Conv2d(latents, hidden, 3, padding=1)
        self.leave = nn.Conv2d(hidden, folded, 3, padding=1)
        self.blocks = nn.ModuleList(Block(hidden) for _ in range(settings["num_layers"]))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """From images [B, C, H, W] to mean and logarithm of the variance of their latents."""
        values = self.enter(functional.pixel_unshuffle(images, self.factor))
        for block in self.blocks[: len(self.blocks) // 2]:
            values = block(values)
        mean, log_variance = self.to_latents(values).chunk(2, dim=1)
        return mean, log_variance.clamp(-20.0, 10.0)

    def decode(self, latents: Tensor) -> Tensor:
        """From latents to images [B, C, H, W]."""
        values = self.from_latents(latents)
        for block in self.blocks[len(self.blocks) // 2 :]:
            values = block(values)
        return functional.pixel_shuffle(self.leave(values), self.factor)
