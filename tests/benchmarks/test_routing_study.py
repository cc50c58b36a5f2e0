"""The study of routing that knows distances: its file, its rule for a free strength, its page."""

import copy
import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from netsim.foundation.refusal import Refusal
from tests.benchmarks.routing_study import RoutingStudy, main, routing_study_page

SEEDS = (0, 1, 2)
OWN_LOSS = {0: 0.50, 1: 0.52, 2: 0.54}
"""Without hop cost; their standard deviation is 0.02."""
APART = {0: -0.02, 1: 0.0, 2: 0.02}
"""How far the seeds' rises lie from their mean."""


def experiment(
    rises: dict[float, tuple[float, float]], name: str = "digits", apart: dict[int, float] = APART
) -> dict[str, Any]:
    """A data set whose loss rises by a strength's two numbers, contiguous and placed, in the mean over the seeds."""
    runs = [
        {
            "strength": strength,
            "placed": placed,
            "seed": seed,
            "held_out_loss": OWN_LOSS[seed] + (rise + apart[seed] if strength else 0),
            "cross_rank_bytes": 1e6 * (2 - placed) / (1 + (strength or 0)) + seed,
        }
        for strength, of_placements in {**rises, None: (0.03, 0.03)}.items()
        for placed, rise in zip((False, True), of_placements, strict=True)
        for seed in SEEDS
    ]
    own = {"config": "configs/runs/digits_moe.yaml", "dispatch": "copies", "steps": 150, "ranks": 2}
    return {"name": name, **own, "rival": "top-k, auxiliary loss 0.01", "runs": runs}


def document(*experiments: dict[str, Any]) -> dict[str, Any]:
    return {"format": "flowfabric.routing_study/1", "experiments": list(experiments)}


def written(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


SOUND = document(experiment({0.0: (0, 0), 0.1: (0.01, -0.01), 0.3: (0.02, 0.011), 1.0: (0.01, 0.012), 3.0: (0, 0)}))


@pytest.mark.parametrize(
    ("rises", "contiguous", "placed"),
    [
        ({0.0: (0, 0), 0.1: (0.011, 0.012), 0.3: (0.011, 0)}, 0.3, 0.0),
        ({0.0: (0, 0), 0.1: (0.012, -1), 0.3: (0, 0.011), 1.0: (0, 0.012)}, 0.0, 0.3),
        ({0.0: (0, 0)}, 0.0, 0.0),
    ],
    ids=["contiguous", "placed", "nothing but 0"],
)
def test_a_strength_is_free_within_a_standard_error(
    rises: dict[float, tuple[float, float]], contiguous: float, placed: float, tmp_path: Path
) -> None:
    study = RoutingStudy.read(written(tmp_path / "study.json", document(experiment(rises))))
    assert study.free_strength(placed=False) == contiguous
    assert study.free_strength(placed=True) == placed
    (one,) = study.experiments
    assert one.spread(False) == pytest.approx(stdev(OWN_LOSS.values())) == pytest.approx(0.02)
    for strength, of_placements in rises.items():
        for where, rise in zip((False, True), of_placements, strict=True):
            assert one.rises(strength, where) == pytest.approx([strength and rise + APART[seed] for seed in SEEDS])
            assert one.error(strength, where) == pytest.approx(0.02 / 3**0.5 if strength else 0)
            assert one.loss(strength, where) == pytest.approx(fmean(OWN_LOSS.values()) + rise)


def test_a_strength_is_free_only_where_it_is_on_all_data(tmp_path: Path) -> None:
    cheap = experiment({0.0: (0, 0), 0.1: (0, 0), 0.3: (0, 0)})
    dear = experiment({0.0: (0, 0), 0.1: (0, 0), 0.3: (0.1, 0)}, name="text")
    both = RoutingStudy.read(written(tmp_path / "both.json", document(cheap, dear)))
    assert [both.free_strength(placed) for placed in (False, True)] == [0.1, 0.3]


def test_a_larger_strength_is_not_free_behind_one_that_costs(tmp_path: Path) -> None:
    study = RoutingStudy.read(written(tmp_path / "study.json", SOUND))
    assert [study.free_strength(placed) for placed in (False, True)] == [0.1, 0.3]


def test_the_page_shows_curves_and_figures(tmp_path: Path) -> None:
    study = written(tmp_path / "study.json", SOUND)
    assert main([str(study)]) == 0
    markup = (tmp_path / "study.html").read_text()
    assert "0.1 without a measurable loss with experts by number, and of 0.3 with experts placed" in markup
    for text in ("top-k", "held-out loss", "MB between ranks in a step", "sparse OT, hop cost 3"):
        assert text in markup, text
    assert "-62%" in markup, "2 MB become 0.77 placed at 0.3"
    assert markup == routing_study_page(study), "same bytes again"
    none_free = document(experiment({0.0: (0, 0), 0.1: (1, 1)}))
    assert "hop cost of 0 without" in routing_study_page(written(tmp_path / "none.json", none_free))


def without(key: str) -> dict[str, Any]:
    changed = copy.deepcopy(SOUND)
    del changed["experiments"][0][key]
    return changed


def with_run(**fields: object) -> dict[str, Any]:
    changed = copy.deepcopy(SOUND)
    changed["experiments"][0]["runs"][4] |= fields
    return changed


def one_seed() -> dict[str, Any]:
    changed = copy.deepcopy(SOUND)
    changed["experiments"][0]["runs"] = [run for run in changed["experiments"][0]["runs"] if run["seed"] == 0]
    return changed


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "document: is not JSON"),
        ("[]", "document: "),
        ({"format": "flowfabric.routing_study/2", "experiments": []}, "format: "),
        ({"format": "flowfabric.routing_study/1", "experiments": []}, "experiments: "),
        (without("steps"), "experiments.0.steps: is missing"),
        (with_run(held_out_loss="low"), "experiments.0.runs.4.held_out_loss: "),
        (with_run(cross_rank_bytes=-1.0), "experiments.0.runs.4.cross_rank_bytes: "),
        (with_run(strength=-0.1), "experiments.0.runs.4.strength: "),
        (with_run(colour="red"), "experiments.0.runs.4.colour: is not a known key"),
        (with_run(seed=2), "experiments.0.runs: strength 0, placed, seed 1 occurs 0 times; give it once"),
        (with_run(strength=7.0), "experiments.0.runs: strength 0, placed, seed 1 occurs 0 times; give it once"),
        (one_seed(), "experiments.0.runs: 1 seeds have no spread"),
        (json.dumps(SOUND).replace("0.52", "NaN", 1), "experiments.0.runs.1.held_out_loss: "),
    ],
)
def test_a_malformed_file_is_refused_in_one_line(content: object, says: str, tmp_path: Path) -> None:
    path = written(tmp_path / "study.json", content)
    with pytest.raises(Refusal) as refusal:
        routing_study_page(path)
    assert str(refusal.value).startswith(f"{path}: {says}"), refusal.value
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="file: cannot be read"):
        routing_study_page(tmp_path / "study.json")
