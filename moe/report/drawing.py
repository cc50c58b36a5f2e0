"""Pictures as SVG markup, written shape by shape: hundreds of shapes take milliseconds, and equal ones equal bytes.

Lengths are in units of the picture, which a page shows at about one pixel each. A cell of a heat map is one pixel of a
small PNG, which a page stretches without smoothing.
"""

import base64
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

import numpy as np
from numpy.typing import NDArray

INK, SOFT, RULE, PAPER = "#1c2733", "#5b6875", "#dde3e9", "#ffffff"
BEFORE, PLACED, BOUND, ALARM = "#9aa5b1", "#0072b2", "#e69f00", "#d55e00"
FULL_WIDTH = 1040
_HATCH = (
    '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    f'<rect width="6" height="6" fill="{PAPER}"/><rect width="1.6" height="6" fill="{INK}"/></pattern></defs>'
)
HATCH = "url(#hatch)"
"""A fill with stripes, for what is a bound and no measurement."""
_SHADES = 64  # few enough that maps stay small, enough that no step is seen


class Drawing:
    """Shapes in the order in which they are drawn."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._shapes: list[str] = []

    def rect(
        self, x: float, y: float, width: float, height: float, fill: str, *, stroke: str = "", title: str = ""
    ) -> None:
        """Add a rectangle by its top left corner; a negative width or height is drawn as 0."""
        size = f'width="{_n(max(width, 0))}" height="{_n(max(height, 0))}"'
        outline = f' stroke="{stroke}"' if stroke else ""
        self._add(f'rect x="{_n(x)}" y="{_n(y)}" {size} fill="{fill}"{outline}', title)

    def line(
        self, points: Iterable[tuple[float, float]], colour: str, *, width: float = 1.0, dash: str = "", fill: str = ""
    ) -> None:
        """Add a line through points, closed and filled if a fill is given."""
        path = "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in points) + ("Z" if fill else "")
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self._add(
            f'path d="{path}" fill="{fill or "none"}" stroke="{colour}" stroke-width="{_n(width)}"'
            f' stroke-linejoin="round"{dashes}'
        )

    def segments(self, segments: Sequence[tuple[float, float, float, float]], colour: str, *, width: float = 1) -> None:
        """Add straight pieces from (x, y) to (x, y) as one shape."""
        path = "".join(f"M{_n(a)} {_n(b)}L{_n(c)} {_n(d)}" for a, b, c, d in segments)
        if path:
            self._add(f'path d="{path}" fill="none" stroke="{colour}" stroke-width="{_n(width)}"')

    def dot(
        self, x: float, y: float, radius: float, fill: str, *, stroke: str = PAPER, title: str = "", width: float = 1
    ) -> None:
        """Add a disc."""
        look = f'fill="{fill}" stroke="{stroke}" stroke-width="{_n(width)}"'
        self._add(f'circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}" {look}', title)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        anchor: str = "start",
        size: float = 13,
        colour: str = INK,
        bold: bool = False,
        turned: bool = False,
    ) -> None:
        """Add a line of text on its base line; `turned` text reads from bottom to top."""
        look = f' text-anchor="{anchor}"' if anchor != "start" else ""
        look += f' font-size="{_n(size)}"' if size != 13 else ""
        look += f' fill="{colour}"' if colour != INK else ""
        look += ' font-weight="600"' if bold else ""
        look += f' transform="rotate(-90 {_n(x)} {_n(y)})"' if turned else ""
        self._shapes.append(f'<text x="{_n(x)}" y="{_n(y)}"{look}>{escape(text)}</text>')

    def image(self, x: float, y: float, width: float, height: float, png: bytes) -> None:
        """Add a picture of pixels, stretched to a rectangle without smoothing."""
        data = base64.b64encode(png).decode("ascii")
        self._shapes.append(
            f'<image x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" preserveAspectRatio="none" '
            f'style="image-rendering:pixelated" href="data:image/png;base64,{data}"/>'
        )

    def legend(self, x: float, y: float, entries: Sequence[tuple[str, str]]) -> None:
        """Add colours with their names in a row that ends at x; an entry is a name and a fill."""
        for name, fill in reversed(entries):
            x -= text_width(name)
            self.text(x, y, name, colour=SOFT)
            x -= 17
            self.rect(x, y - 9.5, 11, 11, fill, stroke=INK if fill == HATCH else "")
            x -= 16

    def markup(self) -> str:
        """The whole picture."""
        body = "".join(self._shapes)
        hatch = _HATCH if HATCH in body else ""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(self.width)} {_n(self.height)}" '
            f'font-family="system-ui, sans-serif" font-size="13" fill="{INK}">{hatch}{body}</svg>'
        )

    def _add(self, shape: str, title: str = "") -> None:
        name = shape.partition(" ")[0]
        inside = f"><title>{escape(title)}</title></{name}>" if title else "/>"
        self._shapes.append(f"<{shape}{inside}")


def text_width(text: str, size: float = 13) -> float:
    """About the width of a line of text, on the safe side for common fonts."""
    return 0.56 * size * len(text)


def _n(value: float) -> str:
    """A number with one decimal at most."""
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text


def plain(value: float) -> str:
    """A number in as few digits as tell marks apart."""
    return f"{value:,.6g}"


def percent(value: float) -> str:
    """A share as a percentage."""
    return f"{100 * value:.6g} %"


@dataclass(frozen=True)
class Scale:
    """A straight map from values to places along an axis; `end` is below `start` for an axis that points up."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Place of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def marks(self, most: int = 5, *, whole: bool = False) -> list[float]:
        """Round values along the axis, ascending: at most so many multiples of 1, 2 or 5 times a power of ten."""
        step = 10.0 ** floor(log10((self.high - self.low) / most))
        factors = (1, 2, 5, 10, 20, 50)
        step = max(step, 1.0) if whole else step
        step *= next(factor for factor in factors if (self.high - self.low) / (step * factor) <= most)
        first, last = ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


@dataclass(frozen=True)
class Panel:
    """A rectangle with an axis below (`x`, to the right) and one at its left (`y`, up)."""

    drawing: Drawing
    x: Scale
    y: Scale

    def mark_y(self, label: str, *, form: Callable[[float], str] = plain, most: int = 5, whole: bool = False) -> None:
        """Draw the marks of the left axis as thin lines across the panel, and its name above it."""
        for value in self.y.marks(most, whole=whole):
            place = self.y(value)
            self.drawing.segments([(self.x.start, place, self.x.end, place)], RULE)
            self.drawing.text(self.x.start - 7, place + 4.5, form(value), anchor="end", size=12, colour=SOFT)
        self.drawing.text(self.x.start, self.y.end - 9, label, size=13, colour=SOFT)

    def mark_x(self, label: str, *, form: Callable[[float], str] = plain, whole: bool = False) -> None:
        """Draw the marks of the axis below, and its name under them."""
        bottom = self.y.start
        most = max(int((self.x.end - self.x.start) / 70), 2)
        values = self.x.marks(most, whole=whole)
        self.drawing.segments([(self.x(value), bottom, self.x(value), bottom + 4) for value in values], SOFT)
        self.drawing.segments([(self.x.start, bottom, self.x.end, bottom)], SOFT)
        for value in values:
            self.drawing.text(self.x(value), bottom + 18, form(value), anchor="middle", size=12, colour=SOFT)
        if label:
            middle = (self.x.start + self.x.end) / 2
            self.drawing.text(middle, bottom + 36, label, anchor="middle", size=13, colour=SOFT)


def name_column(names: Sequence[str]) -> float:
    """Width of a column of names beside a panel."""
    return max(text_width(name) for name in names) + 12


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

    `shares` [rows, columns] are places on the palette [shades, 3], 0 to 1; what is outside is clipped.
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
    """Draw the key of a heat map as an upright strip whose top left corner is at (x, y).

    Args:
        labels: Places on the strip, 0 at the bottom to 1, and their texts.
        title: Meaning of the colours, written above.
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
