"""How many images of a grid stand side by side, and how large they are."""

from __future__ import annotations

from dataclasses import dataclass

CELL_PIXELS = 64
"""Small images are enlarged to about so many pixels a side."""
LEAST_PIXELS = 32
"""Where a grid would be too large, images are shown no smaller than this, or than they are if they are smaller."""
MOST_PIXELS = 2000
"""A grid is never wider, and no taller where its images need not be smaller than `LEAST_PIXELS` for it."""


@dataclass(frozen=True)
class GridLayout:
    """Places of the images of a grid, in pixels; bands of columns are one below the other where a row would be too
    wide.
    """

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
