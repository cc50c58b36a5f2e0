"""Pictures of samples: grids of images with headings, and plots of points."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from netsim.foundation.files import replacing, write_bytes

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont


def pixels(images: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Images [..., 1 or 3, H, W] from -1 (black) to 1 as pixels [..., H, W] if grey and [..., H, W, 3] if coloured."""
    values = np.round((np.nan_to_num(images).clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    return values[..., 0, :, :] if values.shape[-3] == 1 else np.moveaxis(values, -3, -1)


def png(image: NDArray[np.floating]) -> bytes:
    """The bytes of a PNG file of an image [1 or 3, H, W] from -1 to 1."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels(image)).save(stream, format="PNG")
    return stream.getvalue()


def write_png(path: Path, image: NDArray[np.floating]) -> None:
    """Writes an image [1 or 3, H, W] from -1 to 1."""
    write_bytes(path, png(image))


CELL_PIXELS = 64
"""Small images are enlarged to about so many pixels a side."""
LEAST_PIXELS = 32
"""Least pixels per side of an image in a large grid; smaller images keep their size."""
MOST_PIXELS = 2000
"""Largest width of a grid, and largest height unless images would fall below `LEAST_PIXELS`."""


@dataclass(frozen=True)
class GridLayout:
    """Places of the images of a grid, in pixels; a row that would be too wide is cut into bands of columns."""

    enlarged: int
    reduced: int
    height: int
    width: int
    gap: int
    columns: int
    rows: int
    columns_of_band: int
    heading: int = 0

    @property
    def bands(self) -> list[range]:
        """The columns of each band."""
        numbers = range(self.columns)
        return [numbers[first : first + self.columns_of_band] for first in numbers[:: self.columns_of_band]]

    @property
    def band_height(self) -> int:
        """Pixels of a band without its headings."""
        return self.rows * (self.height + self.gap) + self.gap

    @property
    def band_width(self) -> int:
        """Pixels of the widest band."""
        return self.columns_of_band * (self.width + self.gap) + self.gap

    @property
    def fits(self) -> bool:
        """Whether the grid is no larger than it may be."""
        return max(self.band_width, len(self.bands) * (self.band_height + self.heading)) <= MOST_PIXELS


def grid_layout(num: int, height: int, width: int, columns: int, heading: int = 0) -> GridLayout:
    """Chooses the largest images with which a grid is at most 2,000 pixels wide and, if it can be, as tall."""
    side = max(height, width)
    largest = max(1, CELL_PIXELS // side)
    smaller = [(factor, 1) for factor in range(largest - 1, 0, -1) if factor * side >= LEAST_PIXELS]
    reduced = [(1, factor) for factor in range(2, side // LEAST_PIXELS + 1)]
    layouts = [_layout(num, height, width, columns, heading, *size) for size in ((largest, 1), *smaller, *reduced)]
    return next((layout for layout in layouts if layout.fits), layouts[-1])


def _layout(num: int, height: int, width: int, columns: int, heading: int, enlarged: int, reduced: int) -> GridLayout:
    gap = max(1, enlarged // 4)
    height, width = (-(-pixels * enlarged // reduced) for pixels in (height, width))
    most = max(1, (MOST_PIXELS - gap) // (width + gap))
    bands = -(-columns // most)
    rows = -(-num // columns)
    return GridLayout(enlarged, reduced, height, width, gap, columns, rows, -(-columns // bands), heading)


SMALLEST, LARGEST = 10, 28
"""Smallest and largest size of a letter in pixels."""
MOST_LINES = 2
MARGIN, PADDING = 2, 4
INK = 34


def headings_above(headings: Sequence[str], width: int, gap: int, total: int) -> NDArray[np.uint8]:
    """Draws a heading above the middle of each column: uint8 [height, total], dark on white.

    All have the largest letters with which each fits into two lines; longer ones end in an ellipsis. Underscores, which
    stand for blanks in the names of folders, are shown as blanks.
    """
    from PIL import Image, ImageDraw

    headings = [heading.replace("_", " ") for heading in headings]
    available = width - PADDING
    largest = min(LARGEST, max(SMALLEST, width // 5))
    sizes = range(largest, SMALLEST - 1, -1)
    font = next((_font(size) for size in sizes if _all_fit(headings, _font(size), available)), _font(SMALLEST))
    texts = [_lines(heading, font, available) for heading in headings]
    ascent, descent = font.getmetrics()
    line = ascent + descent
    height = max(map(len, texts)) * line + 2 * MARGIN
    picture = Image.new("L", (total, height), 255)
    draw = ImageDraw.Draw(picture)
    for column, lines in enumerate(texts):
        middle = gap + column * (width + gap) + width / 2
        for number, words in enumerate(reversed(lines)):
            draw.text((middle, height - MARGIN - number * line), words, fill=INK, font=font, anchor="md")
    return np.asarray(picture)


@cache
def _font(size: int) -> FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: the same on every machine, with most alphabets."""
    import matplotlib as mpl
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _all_fit(headings: Sequence[str], font: FreeTypeFont, width: int) -> bool:
    wrapped = [_wrapped(heading, font, width) for heading in headings]
    return all(len(lines) <= MOST_LINES and all(font.getlength(line) <= width for line in lines) for lines in wrapped)


def _lines(heading: str, font: FreeTypeFont, width: int) -> list[str]:
    lines = _wrapped(heading, font, width)
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], " ".join(lines[MOST_LINES - 1 :])]
    return [_shortened(line, font, width) for line in lines]


def _wrapped(heading: str, font: FreeTypeFont, width: int) -> list[str]:
    """The heading in lines as long as they fit, broken at blanks and behind hyphens."""
    lines: list[str] = []
    for word in re.findall(r"\s*[^\s-]*-*", " ".join(heading.split())):
        if lines and font.getlength(lines[-1] + word) <= width:
            lines[-1] += word
        elif word.strip():
            lines.append(word.strip())
    return lines or [""]


def _shortened(line: str, font: FreeTypeFont, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    kept = line
    while kept and font.getlength(f"{kept}…") > width:
        kept = kept[:-1]
    return f"{kept.rstrip()}…"


HEADING_PIXELS = 44
"""Most pixels of headings above a row of columns."""


def image_grid(images: NDArray[np.floating], columns: int, path: Path, headings: Sequence[str] = ()) -> None:
    """Writes images [N, 1 or 3, H, W] from -1 to 1 as one PNG, row by row, with a white line between them.

    Small images are enlarged by a whole number, to 64 pixels a side, without smoothing.
    """
    from PIL import Image

    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ValueError(f"images: shape {images.shape} is not [N, 1 or 3, H, W]; add or move the channels")
    if columns < 1:
        raise ValueError(f"columns: {columns} is not a number of images a row; use 1 or more")
    height, width = images.shape[2:]
    layout = grid_layout(len(images), height, width, columns, HEADING_PIXELS if headings else 0)
    cells = pixels(images).repeat(layout.enlarged, axis=1).repeat(layout.enlarged, axis=2)
    bands = []
    for band in layout.bands:
        canvas = np.full((layout.band_height, layout.band_width, *cells.shape[3:]), 255, dtype=np.uint8)
        for row in range(layout.rows):
            for place, cell in enumerate(cells[row * columns :][:columns][band.start : band.stop]):
                top = layout.gap + row * (layout.height + layout.gap)
                left = layout.gap + place * (layout.width + layout.gap)
                canvas[top : top + layout.height, left : left + layout.width] = _reduced(cell, layout.reduced)
        if headings:
            words = headings[band.start : band.stop]
            above = headings_above(words, layout.width, layout.gap, layout.band_width)
            bands.append(np.stack([above] * 3, axis=2) if cells.ndim == 4 else above)
        bands.append(canvas)
    with replacing(path) as temporary:
        Image.fromarray(np.concatenate(bands)).save(temporary, format="PNG")


def _reduced(cell: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """A cell with the means of squares of pixels."""
    from PIL import Image

    return cell if factor == 1 else np.asarray(Image.fromarray(cell).reduce(factor))


PANEL_INCHES, TITLE_INCHES = 4.0, 0.4


def scatter_plot(
    panels: Mapping[str, tuple[NDArray[np.floating], NDArray[np.integer] | None]],
    path: Path,
    *,
    fitting: Collection[str],
) -> None:
    """Writes sets of points [N, D] with their classes, by title, side by side on equal axes as one PNG.

    Two coordinates are shown. All points of the panels in `fitting` are within the axes; others may be cut off.
    """
    from matplotlib.figure import Figure

    reach = 1.15 * max(float(np.abs(panels[title][0][:, :2]).max()) for title in fitting)
    size = PANEL_INCHES * len(panels), PANEL_INCHES + TITLE_INCHES
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, (points, classes)) in zip(row, panels.items(), strict=True):
        colours = {"color": "#1f4e8c"} if classes is None else {"c": classes, "cmap": "tab10"}
        axes.scatter(points[:, 0], points[:, 1], s=3, alpha=0.6, linewidths=0, **colours)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=title)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
