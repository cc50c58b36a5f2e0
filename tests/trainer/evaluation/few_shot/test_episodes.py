"""Episodes: draws by number, and refusals."""

from typing import Any

import pytest
import torch

from tests.each import each
from trainer.evaluation.episodes import Episodes

LABELS = torch.arange(400) % 8


def test_more_episodes_and_more_shots_contain_fewer() -> None:
    few, many = Episodes(num=3, shots=(1,)).draw(LABELS), Episodes(num=7, shots=(1,)).draw(LABELS)
    assert torch.equal(few.shots, many.shots[:3])
    assert torch.equal(few.queries, many.queries[:3])
    five = Episodes(num=3, shots=(1, 5)).draw(LABELS)
    assert torch.equal(few.shots, five.shots[:, :, :1])


def test_queries_are_others_than_the_labelled_examples_of_as_many_classes_as_asked_for() -> None:
    drawn = Episodes(num=20, ways=4, queries=(9, 7, 3, 1), seed=3).draw(LABELS)
    assert drawn.shots.shape == (20, 4, 5)
    assert drawn.queries.shape == (20, 20)
    for shots, queries in zip(drawn.shots, drawn.queries, strict=True):
        classes = LABELS[shots]
        assert (classes == classes[:, :1]).all()
        assert len(classes[:, 0].unique()) == 4
        assert torch.equal(classes[:, 0][drawn.truth], LABELS[queries])
        assert len(torch.cat([shots.flatten(), queries]).unique()) == 40
    assert torch.equal(drawn.truth.bincount(), torch.tensor([9, 7, 3, 1]))
    assert len(LABELS[drawn.shots].unique()) == 8, "all classes come"
    other = Episodes(num=20, ways=4, queries=(9, 7, 3, 1)).draw(LABELS)
    assert not torch.equal(drawn.queries, other.queries)


@each(
    ("changes", "problem"),
    [
        ({"num": 1}, "--episodes: 1 is not from 2 to 100,000"),
        ({"ways": 1}, "--ways: 1 is not from 2"),
        ({"shots": (0,)}, "--shots: 0 is not from 1"),
        ({"shots": (1, 1)}, "--shots: 1,1 has a number twice; give each once"),
        ({"queries": (3, 4)}, "--queries: 2 numbers for the 5 classes of an episode .* give one for all, or 5"),
        ({"seed": -1}, "--seed: -1 is not from 0"),
    ],
)
def test_numbers_that_no_data_serve(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Episodes(**changes).check()


@each(
    ("labels", "problem"),
    [
        (None, "--episodes: the examples have no labels; give data with classes by --data-from"),
        (LABELS % 3, "--ways: 5, and held-out examples are of 3 classes; use 3 or less"),
        (torch.zeros(50, dtype=torch.int64), "--ways: 5, .* of 1 classes; give data with classes"),
        (torch.cat([LABELS, torch.full((19,), 8)]), "--queries: 15 .* are 20 of a class, and class 8 has 19 held-out"),
    ],
    ids=["none", "few classes", "one class", "few examples"],
)
def test_labels_that_no_episodes_are_drawn_from(labels: torch.Tensor | None, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Episodes().draw(labels)
