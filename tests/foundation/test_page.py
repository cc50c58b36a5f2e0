"""Pages are whole, safe and equal for equal figures; their charts follow the scheme of the page."""

import re
from html.parser import HTMLParser

import numpy as np

from netsim.foundation.chart import Key, Panel, chart
from netsim.foundation.marks import (
    BLUE,
    GREY,
    INK,
    Band,
    Dots,
    HeatMap,
    Histogram,
    Level,
    Line,
    Mark,
    Picture,
    Rows,
    Words,
)
from netsim.foundation.page import Choice, Facts, Figure, Link, Listing, Note, Section, Table, page

VOID = {"meta", "input", "img"}
MARKS: dict[str, Mark] = {
    "line": Line([1, 2], [3, 4], name="a < b"),
    "stairs": Line([1, 2], [3, 4], steps=True),
    "dots": Dots([1, 2], [3, 4], marker="|"),
    "band": Band([1, 2], [1, 2], [3, 4]),
    "level": Level(2.0, "cap"),
    "zone": Level(2.0, to=3.0, upright=True),
    "rows": Rows([[1.0, 2.0], []], ["1.5", "none"]),
    "histogram": Histogram([0, 1, 2], [3, 4], GREY, fill=False),
    "map": HeatMap(np.eye(2), form="{:.0%}"),
    "map of logarithms": HeatMap(np.array([[1.0, 10.0]]), "Greys", 1, 10, log=True),
    "picture": Picture(np.eye(3)),
    "words": Words(1, 2, "here", share=True),
}


class _Balanced(HTMLParser):
    """Fails on an element that is closed out of order; collects what a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag("img", attrs)
        del tag


def whole() -> str:
    """A page of every block."""
    picture = chart([Panel([mark]) for mark in list(MARKS.values())[:3]], key=Key("share"))
    blocks = [
        Facts([("a", "1", "of <b>")] * 7),
        Table(("name", "x"), [("<script>", "1")], "all", best={(0, 1)}),
        Figure(picture, 'a "chart"'),
        Figure(b"\x89PNG", "pixels", half=True),
        Note("mind & heed"),
        Listing("a < b", "as written"),
        Link("other.html", "there"),
        Choice("axis", [("one", Note("first")), ("other", Figure(picture, "second"))]),
    ]
    return page("A & B", "A is ahead.", [Section("All", blocks, "text"), Section("", [])], kicker="k", footer="f")


def test_a_page_is_whole_and_its_text_is_escaped() -> None:
    text = whole()
    parser = _Balanced()
    parser.feed(text)
    assert parser.open == []
    assert text.startswith("<!doctype html>")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "mind &amp; heed" in text
    assert [one for one in parser.loads if not one.startswith(("#", "data:"))] == ["other.html"]


def test_equal_figures_make_equal_bytes() -> None:
    assert whole() == whole()


def test_a_choice_opens_its_first_option_and_needs_no_script() -> None:
    text = whole()
    assert text.count(" checked>") == 1
    assert re.findall(r'<input type="radio" name="axis" id="(.+?)"', text) == ["axis-0", "axis-1"]
    assert re.findall(r'<label for="(.+?)">', text) == ["axis-0", "axis-1"]
    assert text.index("first") < text.index("second")


def test_colours_of_the_background_are_those_of_the_page_and_fixed_in_a_file() -> None:
    svg = chart([Panel([MARKS["line"]], title="t", legend="best")])
    assert "var(" not in svg
    shown = Figure(svg).picture
    assert f"var(--accent, {BLUE})" in shown
    assert not re.search(rf"(?<!, ){INK}", shown)


def test_every_mark_draws_and_numbers_stay_text() -> None:
    for name, mark in MARKS.items():
        svg = chart([Panel([mark], x="steps of a run", legend="right", log="y" if name == "line" else "")], name=name)
        assert svg.startswith("<svg"), name
        assert "steps of a run" in svg, name


def test_a_shorter_row_of_panels_leaves_space_and_all_share_an_axis() -> None:
    lines = [Panel([Line([0, 1], [0, place])], title=f"panel {place}") for place in range(3)]
    svg = chart(lines[:2], lines[2:], share="both", title="three of four")
    assert all(f"panel {place}" in svg for place in range(3))
    assert "three of four" in svg
