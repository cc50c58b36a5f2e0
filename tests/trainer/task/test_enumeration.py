"""All states of small environments, and distances between objects."""

from functools import cache
from typing import Any

import pytest
import torch

from tests.trainer.task.enumeration import Enumerated
from trainer.config.task.environment import HyperGridConfig, NGramConfig
from trainer.task.environment import HyperGrid, NGram
from trainer.task.environment.built_in import edit_distance
from trainer.task.environment.protocol import enumerated

GRID = HyperGrid(HyperGridConfig(side=4, dimensions=3))
WORDS = NGram(NGramConfig(alphabet="ABC", length=4, least_length=2, objectives=("AB",)))


@pytest.mark.parametrize("environment", [GRID, WORDS], ids=["grid", "words"])
def test_states_and_where_a_policy_stops(environment: Any) -> None:
    """Against dynamic programming over the states one by one."""
    found, known = enumerated(environment), Enumerated.of(environment)
    assert found is not None
    assert torch.equal(found.states, known.states)
    assert torch.equal(found.stops, known.stops)
    assert torch.equal(found.children.masked_fill(found.children == len(found.states), -1), known.children)
    logits = torch.randn(found.allowed.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probabilities = logits.masked_fill(~found.allowed, -torch.inf).softmax(1)
    stopped = found.terminating(probabilities)
    assert torch.allclose(stopped, known.terminating(probabilities), rtol=1e-12, atol=0)
    assert float(stopped.sum()) == pytest.approx(1.0, rel=1e-12)


def test_a_large_environment_is_not_listed() -> None:
    assert enumerated(GRID, most=63) is None
    assert enumerated(GRID, most=64) is not None


def test_distances() -> None:
    """Of cells by their coordinates, of words by the recursion that defines the edit distance."""

    @cache
    def defined(one: str, other: str) -> int:
        if not one or not other:
            return len(one) + len(other)
        kept = defined(one[1:], other[1:]) + (one[0] != other[0])
        return min(kept, defined(one[1:], other) + 1, defined(one, other[1:]) + 1)

    words = ("", "A", "ABCA", "BCA", "CABB", "ACBA", "kitten", "sitting")
    for one in words:
        assert [edit_distance(one, other) for other in words] == [defined(one, other) for other in words]
    states = torch.tensor([[0, 1, -1, -1], [1, -1, -1, -1], [0, 1, 2, 0]])
    assert WORDS.distances(states).tolist() == [[0, 1, 2], [1, 0, 3], [2, 3, 0]]
    assert GRID.distances(torch.tensor([[0, 0, 3], [1, 2, 0]])).tolist() == [[0, 6], [6, 0]]
