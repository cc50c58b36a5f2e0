"""Heat maps: a cell of a matrix becomes one pixel of a small PNG, which a page stretches without smoothing."""

import struct
import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from moe.report.drawing import SOFT, Drawing

_SHADES = 64  # few enough that maps stay small, enough that no step is seen
_Colours = NDArray[np.uint8]


def _palette(*stops: tuple[int, int, int]) -> _Colours:
    places = np.linspace(0, 1, len(stops))
    shades = np.linspace(0, 1, _SHADES)
    return np.stack([np.interp(shades, places, channel) for channel in zip(*stops, strict=True)], axis=1).astype(
        np.uint8
    )


AMOUNTS = _palette((255, 255, 255), (198, 219, 239), (107, 174, 214), (33, 113, 181), (8, 48, 107))
"""White for nothing, dark blue for the most."""
DEVIATIONS = _palette((33, 102, 172), (146, 197, 222), (248, 248, 248), (244, 165, 130), (178, 24, 43))
"""Blue below the middle, red above it."""


def png(shares: NDArray[np.float64], colours: NDArray[np.uint8]) -> bytes:
    """Make a PNG file with one pixel a cell (PNG specification, 8-bit palette).

    Args:
        shares: Place of each cell on the palette, 0 to 1 (what is outside is clipped), [rows, columns].
        colours: The palette, [shades, 3].

    Returns:
        The file.
    """
    indices = np.clip(np.round(shares * (len(colours) - 1)), 0, len(colours) - 1).astype(np.uint8)
    rows = np.concatenate([np.zeros((len(indices), 1), np.uint8), indices], axis=1)  # each row starts with its filter
    height, width = indices.shape
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", colours.tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    )
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def draw_scale(
    drawing: Drawing,
    x: float,
    y: float,
    height: float,
    colours: NDArray[np.uint8],
    labels: list[tuple[float, str]],
    title: str,
    spread: Callable[[NDArray[np.float64]], NDArray[np.float64]] = lambda shares: shares,
) -> None:
    """Draw the key of a heat map as an upright strip.

    Args:
        drawing: The picture.
        x: Left edge of the strip.
        y: Top edge.
        height: Its height.
        colours: The palette.
        labels: Places on the strip, 0 at the bottom to 1, and their texts.
        title: What the colours mean, written above.
        spread: Map from places on the strip to places on the palette, where colours are not spread evenly.
    """
    steps = np.linspace(1, 0, 2 * _SHADES)[:, None]
    drawing.image(x, y, 12, height, png(spread(steps), colours))
    for place, text in labels:
        drawing.text(x + 17, y + height * (1 - place) + 4.5, text, size=12, colour=SOFT)
    drawing.text(x, y - 9, title, size=12, colour=SOFT)


def is_dark(colours: NDArray[np.uint8], share: float) -> bool:
    """Whether text on a place of the palette has to be light."""
    red, green, blue = colours[int(np.clip(round(share * (len(colours) - 1)), 0, len(colours) - 1))].tolist()
    return 0.299 * red + 0.587 * green + 0.114 * blue < 140
