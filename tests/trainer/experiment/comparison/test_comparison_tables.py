"""What a comparison says of figures that are made up."""

import pytest

from trainer.experiment.comparison.charts import bars
from trainer.experiment.comparison.results import Comparison, Entry, Outcome
from trainer.experiment.comparison.tables import budget, finding, glance

PATHS = {"straightness": 0.5, "path_energy": 2.0, "transport_cost": 1.0}


def entry(
    name: str, few: float, many: float, times_s: tuple[float, ...] = (0.1,), paths: dict[str, float] | None = PATHS
) -> Entry:
    results = [
        {"sampler": "euler", "evaluations": number, "figures": {"wasserstein_2": distance}}
        for number, distance in ((1, few), (100, many))
    ]
    evaluation = {"results": results, "paths": paths}
    outcomes = (Outcome(seed, "run", 100 * time, 0.0, time, evaluation) for seed, time in enumerate(times_s))
    return Entry(name, "", None, f"{name}.yaml", "", "euler", 1000, 0, tuple(outcomes))


def comparison(*entries: Entry) -> Comparison:
    """Sets of real samples are 0.2 to 0.4 apart, 0.3 in the mean."""
    data = {"kind": "toy", "name": "moons"}
    return Comparison("", "", data, 1000, 64, 1, 1, 1000, "wasserstein_2", (0.2, 0.4), None, entries, {})


@pytest.mark.parametrize(
    ("few", "says"),
    [
        ((2.0, 0.31, 0.9), "With 1 evaluation b comes nearest to the data (0.31); with 100 evaluations a is as near"),
        ((2.0, 0.29, 0.9), "With 1 evaluation b is as near to the data as real samples; with 100 evaluations a is"),
        ((0.3, 0.29, 0.28), "With 1 evaluation c, b and a are as near to the data as real samples; with 100"),
    ],
)
def test_the_finding_tells_apart_what_chance_does_not_explain(few, says):
    found = finding(comparison(entry("a", few[0], 0.3), entry("b", few[1], 0.5), entry("c", few[2], 0.5)))
    assert found.startswith(says)
    assert found.endswith("Two sets of real samples are 0.3 apart.")


def test_the_finding_names_a_few_and_counts_the_others():
    found = finding(comparison(*(entry(f"method_{number}", 0.1, 0.1) for number in range(6))))
    assert found.startswith(
        "With 1 and 100 evaluations method_0, method_1, method_2 and 3 others are as near to the data"
    )


def test_what_is_as_near_as_real_samples_stands_out_beside_the_best():
    table = glance(comparison(entry("a", 2.0, 0.31), entry("b", 0.29, 0.5), entry("c", 0.25, 0.6)))
    names = [row[0] for row in table.rows]
    marked = {(names[row], table.columns[column]) for row, column in table.best if table.columns[column] != "step, ms"}
    quality = {(name, column) for name, column in marked if column.startswith("at ")}
    assert quality == {("b", "at 1"), ("c", "at 1"), ("a", "at 100")}


def test_a_run_that_was_disturbed_does_not_move_the_times():
    found = comparison(entry("a", 1.0, 1.0, (0.1, 0.9, 0.11)), entry("b", 1.0, 1.0, (0.2, 0.21, 0.19)))
    columns, rows = glance(found).columns, glance(found).rows
    assert [row[columns.index("step, ms")] for row in rows[1:]] == ["110.0", "200.0"]
    assert [row[budget(found).columns.index("training, s")] for row in budget(found).rows] == ["11", "20"]


def test_a_method_without_paths_has_a_dash_in_their_columns_and_no_bar():
    found = comparison(entry("a", 1.0, 1.0), entry("artm", 1.0, 1.0, paths=None))
    table = glance(found)
    cells = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert (cells["a"]["straightness"], cells["a"]["path energy"]) == ("0.500", "2.00")
    assert cells["artm"]["straightness"] == cells["artm"]["path energy"] == "–"
    assert "artm: tokens are drawn one after the other" in table.caption
    assert bars(found).count("–") >= 2
