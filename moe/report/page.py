"""One HTML page that needs no network and no script: a finding on top, then sections of figures, tables, numbers."""

import base64
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape

from netsim.foundation.outputs import page_mark

_STYLE = """
:root { --ink: #1c2733; --soft: #5b6875; --line: #dde3e9; --paper: #ffffff; --ground: #f5f7f9; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main, header > div, footer { max-width: 1120px; margin: 0 auto; padding: 0 28px; }
header { background: var(--paper); border-bottom: 1px solid var(--line); padding: 36px 0 28px; }
.kicker { color: var(--accent); font-weight: 600; font-size: 14px; letter-spacing: .02em; margin: 0 0 6px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 12px; letter-spacing: -.01em; }
.finding { font-size: 19px; line-height: 1.45; margin: 0; max-width: 60em; }
section { margin: 36px 0; }
h2 { font-size: 21px; margin: 0 0 6px; }
section > p { max-width: 68em; margin: 0 0 14px; color: var(--soft); }
.note { border-left: 4px solid var(--accent); background: var(--paper); color: var(--ink); padding: 10px 16px; }
.facts { display: grid; gap: 12px; margin: 14px 0; grid-template-columns:
  repeat(auto-fit, minmax(max(165px, (100% - (var(--columns) - 1) * 12px) / var(--columns)), 1fr)); }
.facts div, figure, .table { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; }
.facts div { padding: 12px 16px; }
.facts dt { color: var(--soft); font-size: 14px; }
.facts dd { margin: 0; font-size: 25px; font-weight: 600; font-variant-numeric: tabular-nums; line-height: 1.25; }
.facts small { color: var(--soft); font-size: 13px; font-weight: 400; display: block; }
.blocks { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 16px; align-items: start; }
.blocks > * { grid-column: 1 / -1; margin: 0; }
.blocks > .half { grid-column: auto; align-self: stretch; }
figure { padding: 14px 16px; }
figure svg, figure img { display: block; width: 100%; height: auto; margin: 0 auto; }
figure pre { margin: 0; font: 13px/1.5 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
figcaption { color: var(--soft); font-size: 14px; margin-top: 8px; }
.table { padding: 8px 16px; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 15px; }
caption { caption-side: bottom; text-align: left; color: var(--soft); font-size: 14px; padding: 8px 0 4px; }
th, td { padding: 7px 10px; border-bottom: 1px solid var(--line); text-align: right;
  font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: nowrap; }
table.dense { font-size: 13px; }
table.dense th, table.dense td { padding: 7px 6px; }
table.words th, table.words td { text-align: left; }
thead th { color: var(--soft); font-weight: 600; font-size: 14px; }
tbody tr:last-child td { border-bottom: 0; }
td.best { color: var(--accent); font-weight: 700; }
.choice > input { position: absolute; opacity: 0; }
.choice > label { display: inline-block; padding: 5px 14px; margin: 0 6px 10px 0; border: 1px solid var(--line);
  border-radius: 16px; background: var(--paper); color: var(--soft); font-size: 15px; cursor: pointer; }
.choice > input:checked + label { background: var(--accent); border-color: var(--accent); color: #fff; }
.choice > input:focus-visible + label { outline: 2px solid var(--ink); outline-offset: 2px; }
.choice > .option { display: none; }
.choice > .option > * { margin: 0; }
a { color: var(--accent); }
footer { color: var(--soft); font-size: 13px; padding-bottom: 36px; }
@media (max-width: 760px) { .blocks > .half { grid-column: 1 / -1; } h1 { font-size: 25px; } }
@media print {
  body { background: #fff; font-size: 12px; }
  header { padding-top: 0; }
  figure, .table, .facts div { break-inside: avoid; }
  h2 { break-after: avoid; }
  .choice > label { display: none; }
  .choice > .option { display: block !important; margin-bottom: 16px; }
}
"""
MOST_COLUMNS = 6
"""Large numbers beside each other; more of them stand in rows that are as full as each other."""
_MOST_OPTIONS = 8
_CHOSEN = "".join(
    f".choice > input:nth-of-type({number}):checked ~ .option:nth-of-type({number}) {{ display: block; }}\n"
    for number in range(1, _MOST_OPTIONS + 1)
)


@dataclass(frozen=True)
class Figure:
    """A picture, as SVG markup or the bytes of a PNG file, with its caption; `half` shares a row with another half."""

    image: str | bytes
    caption: str
    half: bool = False

    def html(self) -> str:
        """Markup of the block."""
        if isinstance(self.image, bytes):
            data = base64.b64encode(self.image).decode("ascii")
            picture = f'<img alt="{escape(self.caption)}" src="data:image/png;base64,{data}">'
        else:
            picture = self.image[self.image.index("<svg") :]
        return f"<figure{_half(self.half)}>{picture}<figcaption>{escape(self.caption)}</figcaption></figure>"


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

    def html(self) -> str:
        """Markup of the block."""
        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption else ""
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in self.columns)
        body = "".join(
            f"<tr>{''.join(self._cell(row, column) for column in range(len(cells)))}</tr>"
            for row, cells in enumerate(self.rows)
        )
        kinds = [name for name, holds in (("words", self.words), ("dense", self.dense)) if holds]
        kind = f' class="{" ".join(kinds)}"' if kinds else ""
        table = f"<table{kind}>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f'<div class="table{" half" if self.half else ""}">{table}</div>'

    def _cell(self, row: int, column: int) -> str:
        stands_out = ' class="best"' if (row, column) in self.best else ""
        return f"<td{stands_out}>{escape(self.rows[row][column])}</td>"


@dataclass(frozen=True)
class Facts:
    """A row of large numbers: name, value and a short remark (may be empty) of each."""

    facts: Sequence[tuple[str, str, str]]

    def html(self) -> str:
        """Markup of the block."""
        cells = (
            f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(remark)}</small></dd></div>"
            for name, value, remark in self.facts
        )
        rows = -(-len(self.facts) // MOST_COLUMNS) or 1
        columns = -(-len(self.facts) // rows) or 1
        return f'<dl class="facts" style="--columns: {columns}">{"".join(cells)}</dl>'


@dataclass(frozen=True)
class Note:
    """A remark that a reader must not miss."""

    text: str

    def html(self) -> str:
        """Markup of the block."""
        return f'<p class="note">{escape(self.text)}</p>'


@dataclass(frozen=True)
class Listing:
    """Text as it was written, line by line."""

    text: str
    caption: str
    half: bool = False

    def html(self) -> str:
        """Markup of the block."""
        caption = f"<figcaption>{escape(self.caption)}</figcaption>"
        return f"<figure{_half(self.half)}><pre>{escape(self.text)}</pre>{caption}</figure>"


@dataclass(frozen=True)
class Link:
    """A link to another page, relative to this one."""

    href: str
    text: str

    def html(self) -> str:
        """Markup of the block."""
        return f'<p><a href="{escape(self.href)}">{escape(self.text)}</a></p>'


@dataclass(frozen=True)
class Choice:
    """Blocks of which a reader sees one at a time, and on paper all, without a script.

    Its name is a word that no other choice of the page has; the first of at most 8 options is open at the start.
    """

    name: str
    options: "Sequence[tuple[str, Figure | Note]]"

    def html(self) -> str:
        """Markup of the block."""
        assert len(self.options) <= _MOST_OPTIONS
        buttons = "".join(
            f'<input type="radio" name="{escape(self.name)}" id="{escape(self.name)}-{number}"'
            f"{' checked' if number == 0 else ''}>"
            f'<label for="{escape(self.name)}-{number}">{escape(label)}</label>'
            for number, (label, _) in enumerate(self.options)
        )
        blocks = "".join(f'<div class="option">{block.html()}</div>' for _, block in self.options)
        return f'<div class="choice">{buttons}{blocks}</div>'


Block = Choice | Figure | Table | Facts | Note | Listing | Link


@dataclass(frozen=True)
class Section:
    """A heading, best a statement, with a paragraph (may be empty) and its blocks in order."""

    title: str
    blocks: Sequence[Block]
    text: str = ""

    def html(self) -> str:
        """Markup of the section."""
        text = f"<p>{escape(self.text)}</p>" if self.text else ""
        blocks = "\n".join(block.html() for block in self.blocks)
        return f'<section><h2>{escape(self.title)}</h2>{text}\n<div class="blocks">\n{blocks}\n</div></section>'


def page(
    title: str, finding: str, sections: Sequence[Section], *, kicker: str = "", footer: str = "", verb: str = ""
) -> str:
    """Compose a page: a whole HTML document that needs no other file.

    The finding is one sentence that a reader should take away. Above the title is the kicker, such as the dispatch
    mode, and at the end the footer, such as where the numbers come from. `verb` names who writes the page where others
    might.
    """
    above = f'<p class="kicker">{escape(kicker)}</p>' if kicker else ""
    below = f"<footer>{escape(footer)}</footer>" if footer else ""
    body = "\n".join(section.html() for section in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{page_mark(verb) if verb else ''}<title>{escape(title)}</title>\n"
        f"<style>{_STYLE}{_CHOSEN}</style>\n</head>\n<body>\n"
        f'<header><div>{above}<h1>{escape(title)}</h1><p class="finding">{escape(finding)}</p></div></header>\n'
        f"<main>\n{body}\n</main>\n{below}\n</body>\n</html>\n"
    )


def _half(half: bool) -> str:
    return ' class="half"' if half else ""
