"""A network that makes features of examples."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from trainer.model.feature_extractor.published import Resize

BATCH = 128
"""Examples that go through the network at once."""


class Extractor:
    """A network and the preparation of examples for it.

    Images of another size are resized by bilinear interpolation (Parmar, Zhang and Zhu, "On aliased resizing and
    surprising subtleties in GAN evaluation", 2022, show why the way matters):

    * ``antialiased``: ``torch.nn.functional.interpolate`` with ``antialias``;
    * ``bilinear``: the same without it, as pytorch-fid does;
    * ``tensorflow``: without it and with the corners of pixels, not their middles, over each other, as the first
      version of TensorFlow did and the published figures of FID are computed.

    Grey images are repeated if the network takes several channels.

    Args:
        network: in evaluation mode.
        shape: of the network's input, [C, H, W] of an image or [D] of a point.
        mean: subtracted from each channel, one value for all or one for each.
        std: each channel is divided by it after the mean is subtracted.
        device: where the network is.
        resize: how images of another size are resized.
        eight_bits: clip images to the range from -1 to 1 and round them to the 256 values of a file of pictures, before
            anything else; otherwise they are taken as they are.
    """

    def __init__(
        self,
        network: nn.Sequential,
        shape: tuple[int, ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
        resize: Resize = "antialiased",
        *,
        eight_bits: bool = False,
    ) -> None:
        self.network, self._shape, self.device = network, shape, device
        self._resize: Resize = resize
        self._eight_bits = eight_bits
        self._mean, self._std = (torch.tensor(values).view(-1, *(1,) * (len(shape) - 1)) for values in (mean, std))

    @torch.no_grad()
    def features(self, examples: Tensor) -> NDArray[np.float32]:
        """Features [N, F] of examples [N, *shape], or of images [N, 1 or C, any height, any width]."""
        parts = [self(part.to(self.device)).flatten(1).cpu() for part in examples.split(BATCH)]
        return torch.cat(parts).numpy()

    @torch.no_grad()
    def together(self, batches: Sequence[Tensor]) -> Tensor:
        """The features [N, ...] of batches of examples, each of a shape of its own, which go through at once."""
        return self.network(torch.cat([self.prepare(batch) for batch in batches]))

    @torch.no_grad()
    def __call__(self, examples: Tensor) -> Tensor:
        """Returns the features of examples [N, ...] on the device of the network: [N, F], or [N, F, rows, columns]."""
        return self.network(self.prepare(examples))

    def prepare(self, examples: Tensor) -> Tensor:
        """Resizes examples, repeats grey channels and normalises; float32 [N, *shape]."""
        examples = examples.float()
        if self._eight_bits:
            examples = ((examples.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
        if len(self._shape) == 3:
            examples = resized(examples, self._shape[1:], self._resize).expand(-1, self._shape[0], -1, -1)
        return (examples - self._mean.to(examples.device)) / self._std.to(examples.device)


def resized(images: Tensor, size: tuple[int, ...], way: Resize) -> Tensor:
    """Images [N, C, H, W] at another height and width in pixels, by bilinear interpolation."""
    if tuple(images.shape[2:]) == size:
        return images
    if way != "tensorflow":
        return interpolate(images, size, mode="bilinear", antialias=way == "antialiased")
    for dimension, pixels in ((2, size[0]), (3, size[1])):
        before = images.shape[dimension]
        place = torch.arange(pixels, device=images.device) * (before / pixels)
        low = place.long()
        high = (low + 1).clamp(max=before - 1)
        share = (place - low).to(images).view(-1, *(1,) * (3 - dimension))
        one, other = (images.index_select(dimension, rows) for rows in (low, high))
        images = one + share * (other - one)
    return images
