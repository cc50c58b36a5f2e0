"""The page of a sweep: which cells it shows, how, and what it finds."""

import re
from html.parser import HTMLParser
from itertools import product
from typing import Any
from xml.etree import ElementTree

import pytest

from netsim.foundation.page import Figure
from netsim.sweep.page import sweep_page, sweep_svg, sweep_title
from netsim.sweep.winners import Sweep, SweepCell, SweepMap, map_svg, map_title
from tests.each import each


def run(transport: str, completion_ns: float, seed: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "transport": transport,
        "seed": seed,
        "engine": "simpy",
        "completion_ns": completion_ns,
        "bound_ns": 1000.0,
        "max_queue_bytes": 8000,
        "packets": 100,
        **{f"{what}_packets": 0 for what in ("reordered", "dropped", "trimmed", "marked", "retransmitted")},
        "paused_ns": 0.0,
        "fct_ns": {"p50": 1.0, "p99": 900.0, "max": 1000.0},
        **changes,
    }


def cell(runs: list[dict[str, Any]], **changes: str) -> SweepCell:
    return {key.replace("__", "."): value for key, value in changes.items()}, {"runs": runs}


def grid(*axes: tuple[str, int]) -> list[SweepCell]:
    """ecmp falls behind as the values grow, ethereal does not."""
    cells = []
    for values in product(*(range(1, count + 1) for _, count in axes)):
        changes = {f"topology__{name}": str(value) for (name, _), value in zip(axes, values, strict=True)}
        slow = 1000.0 + 100 * sum(values)
        cells.append(cell([run("ecmp", slow), run("ecmp", slow + 10, seed=1), run("ethereal", 1050.0)], **changes))
    return cells


class Rows(HTMLParser):
    """Text of the cells of each row of the only table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1] and self.lasttag in ("td", "th"):
            self.rows[-1][-1] += data


@pytest.mark.usefixtures("blank_pictures_here")
@each("axes", [(), (("spines", 3),), (("spines", 3), ("leaves", 2)), (("a", 2), ("b", 2), ("c", 2))])
def test_every_cell_and_transport_is_a_row_whatever_the_number_of_axes(axes):
    cells = grid(*axes)
    text = sweep_page(cells)
    assert text == sweep_page(cells)
    head, *rows = Rows(text).rows
    assert len(rows) == 2 * len(cells)
    assert head[: len(axes)] == [f"topology.{name}" for name, _ in axes]
    assert {tuple(row[: len(axes)]) for row in rows} == {tuple(overrides.values()) for overrides, _ in cells}
    assert not re.search(r'(src|href)="(?!#|data:)', text)


@each("axes", [(), (("spines", 3), ("leaves", 2))])
def test_pictures_of_any_number_of_axes_are_whole(axes):
    assert ElementTree.fromstring(sweep_svg(Sweep(grid(*axes)))).tag.endswith("svg")


@pytest.mark.usefixtures("blank_pictures_here")
def test_what_does_not_vary_is_no_axis():
    cells = [cell([run("ecmp", 1100.0)], nic__scheduling="sequential", topology__spines=str(n)) for n in (2, 4)]
    sweep = Sweep(cells)
    assert sweep.axes == ["topology.spines"]
    assert "everywhere nic.scheduling=sequential" in sweep_page(cells)


def test_means_are_over_the_seeds():
    (ecmp, _) = Sweep(grid(("spines", 1))).summaries
    assert ecmp.mean_us == 1.105
    assert ecmp.over_bound == 1.105


def test_leaders_are_those_within_half_a_percent_and_have_packets_if_any_do():
    runs = [run("a", 1004.0), run("b", 1000.0), run("c", 1006.0), run("ideal", 990.0, engine="fluid")]
    assert Sweep([cell(runs)]).leaders(()) == {"a", "b"}
    assert Sweep([cell(runs[-1:])]).leaders(()) == {"ideal"}


def test_the_title_counts_scenarios_and_names_the_worst():
    title = sweep_title(Sweep(grid(("spines", 3), ("leaves", 2))))
    assert title == "ethereal is fastest, or as fast, in 6 of 6 scenarios; ecmp needs up to 1.5 times the lower bound"


@pytest.mark.usefixtures("blank_pictures_here")
@each("axes", [(("spines", 3),), (("spines", 2), ("leaves", 2)), (("a", 2), ("b", 2), ("c", 2))])
def test_a_cell_may_lack_a_transport(axes):
    cells = grid(*axes)
    overrides, results = cells[-1]
    cells[-1] = overrides, {"runs": results["runs"][:1]}
    assert len(Rows(sweep_page(cells)).rows) == 2 * len(cells)


@pytest.mark.usefixtures("blank_pictures_here")
def test_losses_have_a_column_only_where_there_are_some():
    assert "dropped packets" not in sweep_page(grid(("spines", 2)))
    assert "dropped packets" in sweep_page([cell([run("ecmp", 1100.0, dropped_packets=3)])])


@pytest.mark.usefixtures("blank_pictures_here")
def test_text_is_escaped():
    text = sweep_page([cell([run("a", 1.0)], path=name) for name in ("<b>", "c&d")])
    assert "<b>" not in text
    assert "c&amp;d" in text


def test_the_map_tells_which_group_wins_where():
    """Two panels of two rows and two columns, with times that double from scenario to scenario for one group."""
    cells = [
        cell(
            [run("ecmp", 1000.0), run("drb", 1000.0 * 2**power), run("ideal", 10.0)],
            size=str(size),
            spines=str(spines),
            recovery=recovery,
        )
        for power, (recovery, spines, size) in enumerate(product("ab", (1, 2), (3, 4)), start=-2)
    ]
    shown = SweepMap("size", "spines", {"one path": ["ecmp"], "spraying": ["drb", "absent"]})
    title = map_title(Sweep(cells), shown)
    assert title == "One path wins in 5 of 8 scenarios, spraying in 2, 1 cannot be told apart; the largest gap is ×32"
    picture = map_svg(Sweep(cells), shown)
    assert picture == map_svg(Sweep(cells), shown)
    assert ElementTree.fromstring(picture).tag.endswith("svg")
    assert Figure(picture).picture in sweep_page(cells, shown)


def test_nobody_wins_where_the_seeds_of_both_overlap():
    shown = SweepMap("size", "spines", {"one path": ["ecmp"], "spraying": ["drb"]}, {"size": "bytes of a rank"})
    cells = [
        cell(
            [run("ecmp", 1000.0), run("ecmp", 1100.0, seed=1), run("drb", slower), run("drb", 2000.0, seed=1)],
            size=str(slower),
            spines=spines,
        )
        for slower, spines in product((1090.0, 1101.0), "12")
    ]
    assert map_title(Sweep(cells), shown).startswith("One path wins in 2 of 4 scenarios, spraying in 0, 2 cannot")
    assert map_svg(Sweep(cells), shown).count("≈") == 2
