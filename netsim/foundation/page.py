"""One self-contained HTML page without a script: a finding on top, then sections of figures, tables and numbers.

Pages follow the reader's light or dark scheme, also in charts: the colours of `chart` that depend on the background
become those of the style sheet.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from netsim.foundation.marks import BLUE, FAINT, INK, PAPER, RULE, SOFT

if TYPE_CHECKING:
    from jinja2 import Template

_BY_SCHEME = {INK: "ink", SOFT: "soft", RULE: "line", FAINT: "faint", PAPER: "paper", BLUE: "accent"}
_COLOUR = re.compile(r"(?<=[:\"] )(?:%s)|(?<=[:\"])(?:%s)" % (("|".join(_BY_SCHEME),) * 2))
_MOST_COLUMNS = 6
"""Most large numbers in a row; more are spread over rows of about equal length."""
MOST_OPTIONS = 8
"""Most options of a choice; the style sheet has rules for this many."""


@dataclass(frozen=True)
class Figure:
    """A picture, as SVG markup or the bytes of a PNG file, with its caption; `half` shares a row with another half."""

    image: str | bytes
    caption: str = ""
    half: bool = False

    @property
    def picture(self) -> str:
        """Markup of the picture."""
        if isinstance(self.image, bytes):
            data = base64.b64encode(self.image).decode("ascii")
            return f'<img alt="{escape(self.caption)}" src="data:image/png;base64,{data}">'
        markup = self.image[self.image.index("<svg") :]
        return _COLOUR.sub(lambda colour: f"var(--{_BY_SCHEME[colour[0]]}, {colour[0]})", markup)


@dataclass(frozen=True)
class Table:
    """Rows of text under column names; the first column is left-aligned, the others hold numbers.

    Cells of words are left-aligned; a dense table has so many columns that they are set in small type; `best` are row
    and column, from 0, of the cells that stand out.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    half: bool = False
    words: bool = False
    dense: bool = False
    best: Collection[tuple[int, int]] = ()

    @property
    def look(self) -> str:
        """CSS classes of the table."""
        return " ".join(name for name in ("words", "dense") if getattr(self, name))


@dataclass(frozen=True)
class Facts:
    """A row of large numbers: name, value and a short remark (may be empty) of each."""

    facts: Sequence[tuple[str, str, str]]

    @property
    def across(self) -> int:
        """How many numbers are in a row."""
        rows = -(-len(self.facts) // _MOST_COLUMNS) or 1
        return -(-len(self.facts) // rows) or 1


@dataclass(frozen=True)
class Note:
    """A remark that a reader must not miss."""

    text: str


@dataclass(frozen=True)
class Listing:
    """Text as it was written, line by line."""

    text: str
    caption: str = ""
    half: bool = False


@dataclass(frozen=True)
class Link:
    """A link to another page, relative to this one."""

    href: str
    text: str


@dataclass(frozen=True)
class Choice:
    """Blocks of which a reader sees one at a time, and on paper all.

    Its name is a word that no other choice of the page has; the first of at most `MOST_OPTIONS` is open at the start.
    """

    name: str
    options: Sequence[tuple[str, Figure | Note]]


Block = Choice | Figure | Table | Facts | Note | Listing | Link


@dataclass(frozen=True)
class Section:
    """A heading, best a statement, with a paragraph and its blocks in order; heading and paragraph may be empty."""

    title: str
    blocks: Sequence[Block]
    text: str = ""


def page(
    title: str, finding: str, sections: Sequence[Section], *, kicker: str = "", footer: str = "", verb: str = ""
) -> str:
    """Composes a page: a whole HTML document that needs no other file.

    The finding is one sentence that a reader should take away. Above the title is the kicker, such as the dispatch
    mode, and at the end the footer, such as where the numbers come from. `verb` names who writes the page where others
    might.
    """
    template, style = _template()
    return template.render(
        title=title, finding=finding, sections=sections, kicker=kicker, footer=footer, verb=verb, style=style
    )


@cache
def _template() -> tuple[Template, str]:
    from jinja2 import Environment, StrictUndefined

    here = Path(__file__).parent
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string((here / "page.html.j2").read_text()), (here / "page.css").read_text()
