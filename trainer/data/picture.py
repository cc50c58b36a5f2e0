"""One picture, as it is learned from."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray


def read_picture(file: Path | IO[bytes], channels: int, height: int, width: int) -> NDArray[np.uint8]:
    """Reads a picture, cuts it to the middle part of the right proportions and resizes that.

    It is resized by bicubic interpolation, filtered where it shrinks. Transparent parts are white, and turned
    photographs stand upright.

    Args:
        file: the file, or its bytes.
        channels: 1 for grey, 3 for red, green and blue.
        height: pixels from top to bottom.
        width: pixels from left to right.

    Returns:
        uint8 [channels, height, width].

    Raises:
        OSError: it cannot be read, is no picture, or is cut off.
        ValueError: its pixels are no 8-bit colours, or there are too many of them.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as opened:
            if opened.mode.startswith(("I", "F")):
                raise ValueError(f"has pixels of more than 8 bits ({opened.mode}), which have no fixed value for white")
            image = ImageOps.exif_transpose(opened)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("L" if channels == 1 else "RGB")
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    cut = image.width, image.width * height / width
    if cut[1] > image.height:
        cut = image.height * width / height, image.height
    left, top = (int((whole - part) / 2) for whole, part in zip(image.size, cut, strict=True))
    box = (left, top, left + cut[0], top + cut[1])
    resized = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    return np.asarray(resized).reshape(height, width, channels).transpose(2, 0, 1)
