"""Pictures in files, as arrays of bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
"""Formats that are decoded; others of Pillow's, such as EPS, would start external programs."""


class BadPicture(ValueError):  # noqa: N818  it is what the file holds
    """A file holds no picture that can be learned from; the text says why in one line, without the file's name."""


@contextmanager
def opened_picture(file: Path | IO[bytes]) -> "Iterator[Image.Image]":
    """A picture whose head is read; BadPicture on any decoding error, other formats, or more than 8 bits a colour."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.mode.startswith(("I", "F")):
                raise BadPicture(f"has pixels of more than 8 bits ({image.mode}), which have no fixed value for white")
            yield image
    except BadPicture:
        raise
    except UnidentifiedImageError as error:
        raise BadPicture(f"is no picture of a format that is read ({', '.join(FORMATS)})") from error
    except Exception as error:  # of decoders, whose kinds are many
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise BadPicture(reason or type(error).__name__) from error


def read_picture(file: Path | IO[bytes], channels: int, height: int, width: int) -> NDArray[np.uint8]:
    """Reads a picture, cut to the middle part of the right proportions and resized: uint8 [channels, height, width].

    Bicubic interpolation, filtered where it shrinks; transparent parts are white, and turned photographs upright.
    """
    from PIL import Image, ImageOps

    with opened_picture(file) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if channels == 1 else "RGB")
        cut = image.width, image.width * height / width
        if cut[1] > image.height:
            cut = image.height * width / height, image.height
        left, top = (int((whole - part) / 2) for whole, part in zip(image.size, cut, strict=True))
        box = (left, top, left + cut[0], top + cut[1])
        resized = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    return np.asarray(resized).reshape(height, width, channels).transpose(2, 0, 1)
