"""What a page says of costs that are made up: four axes, who reaches real samples for the least, one table."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from netsim.foundation.page import Choice, Figure, Note
from trainer.experiment.comparison.charts import CALLS, axes
from trainer.experiment.comparison.page import quality_blocks
from trainer.experiment.comparison.results import CallTraffic, Comparison, Entry, Fabric, Outcome, SampleCost
from trainer.experiment.comparison.tables import assumptions, cheapest, costs

FABRIC = Fabric("fabric.yaml", ranks=8, examples=4, teraflops=1.0)
SENT = CallTraffic(1000.0, {"single": 20.0, "sprayed": 15.0})
SILENT = CallTraffic(0.0, {})


def entry(
    name: str, quality: dict[int, float], traffic: CallTraffic | None, *, a_call: int | None = 1000, head: int = 0
) -> Entry:
    results = [
        {"sampler": "euler", "evaluations": number, "figures": {"wasserstein_2": distance}}
        for number, distance in quality.items()
    ]
    found = []
    for number in quality if traffic is not None else ():
        calls = {"network": number} | ({"head": head * number} if head else {})
        multiply_adds = None if a_call is None else number * (a_call + 10 * head)
        assert traffic is not None
        found.append(SampleCost.of(number, calls, multiply_adds, traffic, FABRIC))
    outcome = Outcome(0, "run", 1.0, 0.0, 0.1, {"results": results, "paths": {}})
    return Entry(name, "", None, f"{name}.yaml", "", "euler", 10, 0, (outcome,), tuple(found))


def comparison(*entries: Entry, fabric: Fabric | None = FABRIC) -> Comparison:
    """Sets of real samples are 0.3 apart."""
    data = {"kind": "toy", "name": "moons"}
    return Comparison("", "", data, 10, 64, 1, 1, 100, "wasserstein_2", (0.2, 0.4), fabric, entries, {})


def options(found: Comparison) -> dict[str, Figure | Note]:
    choice = quality_blocks(found)[0]
    assert isinstance(choice, Choice)
    return dict(choice.options)


def test_each_of_the_four_axes_has_a_chart_that_says_its_unit() -> None:
    found = options(comparison(entry("a", {1: 2.0, 8: 0.5}, SENT), entry("b", {1: 0.2}, SENT)))
    says = {
        "network calls": "network calls of a sample",
        "multiply-adds": "multiply-adds of a sample",
        "bytes": "bytes that ranks send each other, for a sample",
        "microseconds": "microseconds until a sample is drawn, with single",
    }
    assert list(found) == list(says)
    for name, label in says.items():
        block = found[name]
        assert isinstance(block, Figure)
        assert label in str(block.image)
    names = [
        set(re.findall(r'id="([^"]+)"', str(block.image))) for block in found.values() if isinstance(block, Figure)
    ]
    used = [
        set(re.findall(r"url\(#([^)]+)\)", str(block.image))) for block in found.values() if isinstance(block, Figure)
    ]
    for own, defined in zip(used, names, strict=True):
        assert own <= defined, "a chart that is hidden would define what another one shows"
    assert len(set.union(*used)) == sum(map(len, used))


def test_what_nobody_sends_or_knows_is_said_in_words() -> None:
    found = options(comparison(entry("a", {1: 2.0, 8: 0.5}, SILENT, a_call=None)))
    for name, says in (
        ("bytes", "0 for every network"),
        ("multiply-adds", "not measured"),
        ("microseconds", "not measured"),
    ):
        block = found[name]
        assert isinstance(block, Note)
        assert says in block.text
    some = options(comparison(entry("a", {1: 2.0}, SENT), entry("own", {1: 2.0}, SENT, a_call=None)))["multiply-adds"]
    assert isinstance(some, Figure)
    assert some.caption.endswith("Not measured, and left out: own.")


def test_a_network_that_sends_nothing_stands_at_0_beside_one_that_does() -> None:
    chart = options(comparison(entry("a", {1: 2.0, 8: 0.5}, SILENT), entry("b", {1: 2.0}, SENT)))["bytes"]
    assert isinstance(chart, Figure)
    assert "nan" not in str(chart.image).lower()


def test_who_reaches_real_samples_for_the_least_of_each() -> None:
    found = comparison(
        entry("large", {1: 0.25}, SENT, a_call=10_000),
        entry("small", {4: 0.29, 8: 0.2}, SENT, a_call=500),
        entry("poor", {1: 0.9}, SENT, a_call=1),
    )
    text = cheapest(found).text
    assert text.replace("\N{NO-BREAK SPACE}", " ") == (
        "Samples as near to the data as real ones (0.3) cost the fewest network calls (1), bytes (1.00 k) and "
        "microseconds (20.1) with large in 1 network call; the fewest multiply-adds (2.00 k) with small in 4 network "
        "calls."
    )
    assert "poor" not in text
    nobody = cheapest(comparison(entry("poor", {1: 0.9, 2: 0.5}, SENT))).text
    assert nobody.endswith("the nearest are those of poor in 2 network calls (0.5).")


def test_networks_whose_samples_cost_the_same_share_rows() -> None:
    def rows(*entries: Entry) -> list[list[str]]:
        return [[cell.replace("\N{NO-BREAK SPACE}", " ") for cell in row] for row in costs(comparison(*entries)).rows]

    a, b = (entry(name, {1: 2.0, 2: 1.0}, SENT) for name in "ab")
    assert rows(a, b) == [
        ["1", "1.00 k", "1.00 k", "0.008", "20", "15", "all"],
        ["2", "2.00 k", "2.00 k", "0.016", "40", "30", "all"],
    ]
    found = rows(a, b, entry("one step", {1: 2.0}, SENT), entry("by a head", {2: 1.0}, SENT, head=5))
    assert [(row[0], row[1], row[-1]) for row in found] == [
        ("1", "0", "a, b, one step"),
        ("2", "0", "a, b"),
        ("2", "10", "by a head"),
    ]


def test_networks_that_come_out_at_no_shown_number_stand_at_their_own() -> None:
    many = entry("many", dict.fromkeys((1, 2, 3, 5, 6, 7, 100), 1.0), SENT)
    table = costs(comparison(many, entry("boss", {3: 1.0, 6: 1.0}, SENT)))
    assert [(row[0], row[-1]) for row in table.rows if "boss" in row[-1]] == [("3", "boss"), ("6", "boss")]
    assert [row[0] for row in table.rows if "many" in row[-1]] == ["1", "2", "5", "100"]


def test_assumptions_are_said() -> None:
    text = assumptions(comparison(entry("a", {1: 2.0}, SENT)))
    for words in ("8 ranks have drawn 4 samples each", "1 TFLOP/s a rank", "fabric.yaml", "one was simulated"):
        assert words in text
    assert "send nothing" in assumptions(comparison(entry("a", {1: 2.0}, SILENT)))


def first_version() -> dict[str, Any]:
    document = comparison(entry("a", {1: 2.0, 8: 0.5}, None), fabric=None).to_dict()
    document["format"] = "flowfabric.comparison/1"
    del document["fabric"], document["entries"][0]["costs"]
    return document


def test_files_of_the_first_version_are_read_and_show_calls(tmp_path: Path) -> None:
    path = tmp_path / "compare.json"
    path.write_text(json.dumps(first_version()))
    read = Comparison.read(path)
    assert read.fabric is None
    assert read.entries[0].costs == ()
    chart, _ = quality_blocks(read)
    assert isinstance(chart, Figure)
    assert CALLS.label in str(chart.image)
    assert assumptions(read) == ""


def test_costs_are_read_back(tmp_path: Path) -> None:
    found = comparison(entry("a", {1: 2.0, 8: 0.5}, SENT, head=2))
    found.write(tmp_path / "compare.json")
    read = Comparison.read(tmp_path / "compare.json")
    assert (read.fabric, read.entries[0].costs) == (found.fabric, found.entries[0].costs)
    assert [axis.of(read.entries[0], 8) for axis in axes(read)] == [8.0, 8 * 1020, 8000.0, pytest.approx(160.06528)]
