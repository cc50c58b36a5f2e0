"""Images as rows of patches.

Shape suffixes: B batch, C channels, H W pixels, N patches, P values of a patch, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.model.layer.conditioning import wave_embedding


@dataclass(frozen=True)
class PatchGrid:
    """Square patches that cover an image, row by row; `size` pixels a side."""

    rows: int
    columns: int
    size: int

    def patches(self, images: Tensor) -> Tensor:
        """Cuts images [B, C, H, W] into patches [B, N, P]."""
        batch, channels = images.shape[:2]
        p = self.size
        patches = images.view(batch, channels, self.rows, p, self.columns, p).permute(0, 2, 4, 1, 3, 5)
        return patches.reshape(batch, self.rows * self.columns, channels * p * p)

    def images(self, patches_BNP: Tensor) -> Tensor:
        """Puts patches together to images [B, C, H, W]."""
        p = self.size
        patches = patches_BNP.unflatten(2, (-1, p, p)).unflatten(1, (self.rows, self.columns))
        return patches.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)

    def positions(self, width: int) -> Tensor:
        """Waves of the row and of the column of each patch, [N, D]."""
        rows, columns = (torch.arange(length, dtype=torch.float32) for length in (self.rows, self.columns))
        by_row = wave_embedding(rows, width // 2)[:, None].expand(-1, self.columns, -1)
        by_column = wave_embedding(columns, width // 2)[None].expand(self.rows, -1, -1)
        return torch.cat([by_row, by_column], dim=-1).reshape(self.rows * self.columns, width)


def beside_context(x_t: Tensor, context: Tensor | None, read_context: nn.Module | None) -> Tensor:
    """States [B, C, H, W] with the channels of their context behind their own; `read_context` resizes it first."""
    if context is None:
        return x_t
    read = context if read_context is None else read_context(context)
    return torch.cat([x_t, read.to(x_t.dtype)], dim=1)
