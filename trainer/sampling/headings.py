"""Words above the columns of a grid of images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

SMALLEST, LARGEST = 10, 28
"""Pixels of a letter."""
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
    room = width - PADDING
    largest = min(LARGEST, max(SMALLEST, width // 5))
    sizes = range(largest, SMALLEST - 1, -1)
    font = next((_font(size) for size in sizes if _all_fit(headings, _font(size), room)), _font(SMALLEST))
    texts = [_lines(heading, font, room) for heading in headings]
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
