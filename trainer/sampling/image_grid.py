"""A picture of many images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netsim.foundation.files import replacing
from trainer.sampling.grid_layout import grid_layout
from trainer.sampling.headings import headings_above

HEADING_PIXELS = 44
"""What headings take at most above a row of columns."""


def image_grid(images: NDArray[np.floating], columns: int, path: Path, headings: Sequence[str] = ()) -> None:
    """Writes images as one PNG, row by row, with a white line between them.

    Small images are enlarged by a whole number, to 64 pixels a side, without smoothing.

    Args:
        images: [N, C, H, W], C = 1 (grey) or 3 (red, green, blue), N >= 1; -1 is black, 1 is full, beyond is clipped.
        headings: of the columns; empty if none.
    """
    from PIL import Image

    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ValueError(f"images: shape {images.shape} is not [N, 1 or 3, H, W]; add or move the channels")
    if columns < 1:
        raise ValueError(f"columns: {columns} is not a number of images a row; use 1 or more")
    channels, height, width = images.shape[1:]
    layout = grid_layout(len(images), height, width, columns, HEADING_PIXELS if headings else 0)
    cells = np.round((np.nan_to_num(images).clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    cells = cells.repeat(layout.enlarged, axis=2).repeat(layout.enlarged, axis=3).transpose(0, 2, 3, 1)
    bands = []
    for band in layout.bands:
        canvas = np.full((layout.band_height, layout.band_width, channels), 255, dtype=np.uint8)
        for row in range(layout.rows):
            for place, cell in enumerate(cells[row * columns :][:columns][band.start : band.stop]):
                top = layout.gap + row * (layout.height + layout.gap)
                left = layout.gap + place * (layout.width + layout.gap)
                canvas[top : top + layout.height, left : left + layout.width] = _reduced(cell, layout.reduced)
        if headings:
            words = headings[band.start : band.stop]
            above = headings_above(words, layout.width, layout.gap, layout.band_width)
            bands.append(above[:, :, None].repeat(channels, axis=2))
        bands.append(canvas)
    picture = np.concatenate(bands)
    with replacing(path) as temporary:
        Image.fromarray(picture.squeeze(2) if channels == 1 else picture).save(temporary, format="PNG")


def _reduced(cell: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """A cell [H, W, C] with the means of squares of pixels."""
    from PIL import Image

    if factor == 1:
        return cell
    picture = Image.fromarray(cell.squeeze(2) if cell.shape[2] == 1 else cell).reduce(factor)
    return np.asarray(picture).reshape(picture.height, picture.width, -1)
