"""A picture of many images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moe.files import replacing
from trainer.sampling.headings import headings_above

CELL_PIXELS = 64


def image_grid(images: NDArray[np.floating], columns: int, path: Path, headings: Sequence[str] = ()) -> None:
    """Writes images as one PNG, row by row, with a white line between them.

    Small images are enlarged by a whole number, to 64 pixels a side, without smoothing.

    Args:
        images: [N, C, H, W], C = 1 (grey) or 3 (red, green, blue), N >= 1; -1 is black, 1 is full, beyond is clipped.
        columns: images a row, 1 or more.
        path: the file; its folder is made if missing.
        headings: what stands above each column; empty: nothing.

    Raises:
        ValueError: if the shape or `columns` is another.
    """
    from PIL import Image

    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ValueError(f"images: shape {images.shape} is not [N, 1 or 3, H, W]; add or move the channels")
    if columns < 1:
        raise ValueError(f"columns: {columns} is not a number of images a row; use 1 or more")
    channels, height, width = images.shape[1:]
    scale = max(1, CELL_PIXELS // max(height, width))
    cells = np.round((np.nan_to_num(images).clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    cells = cells.repeat(scale, axis=2).repeat(scale, axis=3).transpose(0, 2, 3, 1)
    gap = max(1, scale // 4)
    rows = -(-len(images) // columns)
    step_y, step_x = height * scale + gap, width * scale + gap
    canvas = np.full((rows * step_y + gap, columns * step_x + gap, channels), 255, dtype=np.uint8)
    for number, cell in enumerate(cells):
        top, left = gap + number // columns * step_y, gap + number % columns * step_x
        canvas[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    if headings:
        above = headings_above(headings, step_x - gap, gap, canvas.shape[1])
        canvas = np.concatenate([above[:, :, None].repeat(channels, axis=2), canvas])
    with replacing(path) as temporary:
        Image.fromarray(canvas.squeeze(2) if channels == 1 else canvas).save(temporary, format="PNG")
