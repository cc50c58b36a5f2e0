"""One self-contained page: a title, and sections of ready-made HTML."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

_CSS = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 68rem; padding: 2.5rem 1.5rem 4rem; background: #fff; color: #1f2933;
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 .4rem; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .6rem; }
p { margin: .5rem 0; max-width: 48rem; }
.lead, figcaption, .note { color: #52606d; }
figure { margin: 1.6rem 0 2.2rem; }
figure svg { width: 100%; height: auto; }
figcaption, .note { font-size: .875rem; margin-top: .5rem; max-width: 52rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .875rem; }
th, td { padding: .4rem .6rem; text-align: right; border-bottom: 1px solid #e4e7eb; }
td { white-space: nowrap; }
th { font-weight: 600; color: #52606d; vertical-align: bottom; min-width: 3.5rem; }
th:first-child { min-width: 0; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tr.best td { font-weight: 600; }
table.sortable th { cursor: pointer; }
table.sortable th[data-order="down"]::after { content: " ▾"; }
table.sortable th[data-order="up"]::after { content: " ▴"; }
.scroll { overflow-x: auto; position: relative; left: 50%; transform: translateX(-50%);
  width: max-content; min-width: 100%; max-width: calc(100vw - 4rem); }
code, pre { font: .84rem/1.5 ui-monospace, monospace; }
pre { background: #f5f7f9; padding: 1rem; border-radius: 6px; overflow-x: auto; }
"""


class Section(NamedTuple):
    """A part of a page: plain heading, left out if empty, and HTML."""

    heading: str
    body: str


def page(title: str, sections: Sequence[Section]) -> str:
    """The whole document; it needs nothing from the network."""
    parts = [f"<h2>{escape(part.heading)}</h2>\n{part.body}" if part.heading else part.body for part in sections]
    body = "\n".join(f"<section>\n{part}\n</section>" for part in parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n"
        f"<body>\n<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], best: int | None = None) -> str:
    """A table of plain text; row `best` stands out."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = []
    for index, row in enumerate(rows):
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        lines.append(f'<tr class="best">{cells}</tr>' if index == best else f"<tr>{cells}</tr>")
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def figure(svg: str, caption: str) -> str:
    """A picture with a caption of plain text."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
