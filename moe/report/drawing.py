"""A picture as SVG markup, written shape by shape: hundreds of shapes take milliseconds, and equal ones equal bytes.

Lengths are in units of the picture, which a page shows at about one pixel each.
"""

import base64
from collections.abc import Iterable, Sequence
from html import escape

INK, SOFT, RULE, PAPER = "#1c2733", "#5b6875", "#dde3e9", "#ffffff"
BEFORE, PLACED, BOUND, ALARM = "#9aa5b1", "#0072b2", "#e69f00", "#d55e00"
FULL_WIDTH = 1040
_HATCH = (
    '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    f'<rect width="6" height="6" fill="{PAPER}"/><rect width="1.6" height="6" fill="{INK}"/></pattern></defs>'
)
HATCH = "url(#hatch)"
"""A fill with stripes, for what is a bound and no measurement."""


class Drawing:
    """Shapes in the order in which they are drawn.

    Args:
        width: Width of the picture.
        height: Height of the picture.
    """

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
