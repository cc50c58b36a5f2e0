"""A network that makes features of examples."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

BATCH = 128
"""Examples that go through the network at once."""


class Extractor:
    """A network and the preparation of examples for it.

    Images of another size are resized by bilinear interpolation with antialiasing
    (``torch.nn.functional.interpolate`` with ``antialias``; Parmar, Zhang and Zhu, "On aliased resizing and surprising
    subtleties in GAN evaluation", 2022, show why it matters). Grey images are repeated if the network takes several
    channels. Values are neither clipped to the range of an image nor rounded to 8 bits.

    Args:
        network: in evaluation mode.
        shape: of the network's input, [C, H, W] of an image or [D] of a point.
        mean: subtracted from each channel, one value for all or one for each.
        std: each channel is divided by it after the mean is subtracted.
        device: where the network is.
    """

    def __init__(
        self,
        network: nn.Sequential,
        shape: tuple[int, ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
    ) -> None:
        self._network, self._shape, self._device = network, shape, device
        self._mean, self._std = (torch.tensor(values).view(-1, *(1,) * (len(shape) - 1)) for values in (mean, std))

    @torch.no_grad()
    def features(self, examples: Tensor) -> NDArray[np.float32]:
        """Returns the features of examples.

        Args:
            examples: [N, *shape], or images [N, 1 or C, any height, any width].

        Returns:
            [N, F].
        """
        parts = [self(part.to(self._device)).flatten(1).cpu() for part in examples.split(BATCH)]
        return torch.cat(parts).numpy()

    @torch.no_grad()
    def __call__(self, examples: Tensor) -> Tensor:
        """Returns the features of examples [N, ...] on the device of the network: [N, F], or [N, F, rows, columns]."""
        return self._network(self.prepare(examples))

    def prepare(self, examples: Tensor) -> Tensor:
        """Resizes examples, repeats grey channels and normalises, so that the network can take them.

        Args:
            examples: as in :meth:`features`.

        Returns:
            float32 [N, *shape].
        """
        examples = examples.float()
        if len(self._shape) == 3:
            if tuple(examples.shape[2:]) != self._shape[1:]:
                examples = interpolate(examples, self._shape[1:], mode="bilinear", antialias=True)
            examples = examples.expand(-1, self._shape[0], -1, -1)
        return (examples - self._mean.to(examples.device)) / self._std.to(examples.device)
