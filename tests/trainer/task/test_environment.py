"""Environments: their laws, their rewards by other formulas, a user's, and ways through them."""

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from configs.examples.own_environment import Coins
from moe.seeds import fold_in
from tests.each import each
from tests.trainer.task.enumeration import Enumerated, action_probabilities, total_variation
from trainer.config.task.environment import HyperGridConfig, NGramConfig
from trainer.task.environment import Environment, HyperGrid, NGram, check_laws
from trainer.task.environment.built_in import FUNCTIONS, most_often
from trainer.task.environment.protocol import rollout

PLANAR = ("branin", "currin", "shubert", "sphere", "beale")
ENVIRONMENTS: dict[str, Callable[[], Environment]] = {
    "grid": lambda: HyperGrid(HyperGridConfig(side=5, objectives=PLANAR)),
    "line": lambda: HyperGrid(HyperGridConfig(side=4, dimensions=1, objectives=("sphere",))),
    "cube": lambda: HyperGrid(HyperGridConfig(side=3, dimensions=3)),
    "words": lambda: NGram(NGramConfig(alphabet="ABC", length=4, objectives=("AA", "BC"))),
    "words of any length": lambda: NGram(NGramConfig(alphabet="AB", length=4, least_length=1, objectives=("A", "BAB"))),
    "coins": lambda: Coins(Coins.Config(most=5)),
}


@each("name", ENVIRONMENTS)
def test_laws_hold(name: str) -> None:
    """Also by brute force over all states: what leads into a state is what leads there, and no way is longer."""
    environment = ENVIRONMENTS[name]()
    check_laws(environment, name=name)
    known = Enumerated.of(environment)
    into = torch.zeros(len(known.states), environment.num_actions - 1, dtype=torch.bool)
    longest = [0] * len(known.states)
    for place, row in enumerate(known.children.tolist()):
        for action, child in enumerate(row):
            if child >= 0:
                into[child, action] = True
                longest[child] = max(longest[child], longest[place] + 1)
    assert torch.equal(environment.leading(known.states), into)
    assert max(longest) + 1 == environment.max_actions
    rewards = environment.rewards(known.states)
    assert rewards.dtype == torch.float64
    assert bool(((rewards >= 0) & (rewards <= 1)).all())
    assert len(environment.described(known.states)) == len(known.states)


def test_functions_of_the_grid_have_their_known_values() -> None:
    """Published optima: branin 0.397887 at (pi, 2.275), currin 13.7986 near (0.2167, 0), shubert -186.7309."""
    at = {
        "branin": ((torch.pi + 5) / 15, 2.275 / 15, 0.397887),
        "currin": (0.216667, 1e-6, 13.7986),
        "shubert": ((-7.0835 + 10) / 20, (4.8580 + 10) / 20, -186.7309),
        "sphere": (0.5, 0.5, 0.0),
        "beale": (1.0, 1.0, 1.5**2 + 2.25**2 + 2.625**2),
    }
    for name, (x, y, value) in at.items():
        found = FUNCTIONS[name].value(torch.tensor([[x, y]], dtype=torch.float64))  # pyright: ignore[reportArgumentType]
        assert float(found) == pytest.approx(value, rel=1e-4, abs=1e-3), name
    places = torch.rand(20_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for name, function in FUNCTIONS.items():
        values = (function.value(places) - function.worst) / (function.best - function.worst)
        assert float(values.min()) >= -1e-9, name
        assert float(values.max()) <= 1 + 1e-9, name


@each("ngram", ["A", "AA", "AB", "ABA", "ABAB"])
def test_words_are_worth_the_n_grams_in_them(ngram: str) -> None:
    """Counted by regular expressions, over all words; the most is that of the best word."""
    environment = NGram(NGramConfig(alphabet="ABC", length=5, objectives=(ngram,)))
    words = ["".join(letters) for letters in itertools.product("ABC", repeat=5)]
    counts = [len(re.findall(f"(?={ngram})", word)) for word in words]
    states = torch.tensor([["ABC".index(letter) for letter in word] for word in words])
    best = max(counts)
    assert best == most_often(tuple(map("ABC".index, ngram)), 5)
    assert environment.rewards(states)[:, 0].tolist() == [count / best for count in counts]
    assert environment.described(states) == words


@each(
    ("changes", "complaint"),
    [
        ({"objectives": ("AZ",)}, "objectives: AZ holds Z, which is not in alphabet ABCD; add it"),
        ({"objectives": ("ABCDABC",)}, "objectives: ABCDABC is longer than length 6; use 7 or more"),
        ({"alphabet": "ABA"}, "alphabet: A stands there twice; leave one out"),
        ({"least_length": 7}, "least_length: 7 exceeds length 6; use at most 6"),
    ],
)
def test_words_that_cannot_be_written_are_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(complaint)):
        NGramConfig(**changes)


class Broken(Coins):
    """Coins with one method that does something else."""

    def __init__(self, **methods: Any) -> None:
        super().__init__(Coins.Config(most=3))
        self.__dict__.update(methods)


COINS = Coins(Coins.Config(most=3))
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "parents are missing": ({"leading": lambda s: s > 1}, "for which leading does not name it"),
    "parents are invented": (
        {"leading": lambda s: (s > 0) | (s.sum(1, keepdim=True) == 2)},
        "where it leads from nowhere",
    ),
    "the start has parents": ({"leading": lambda s: s >= 0}, "leading names actions that lead into the start"),
    "no action": ({"allowed": lambda s: COINS.allowed(s) & (s.sum(1, keepdim=True) < 3)}, "allowed names no action"),
    "no end": ({"max_actions": 2}, "has not stopped after max_actions = 2"),
    "shape": ({"features": lambda s: s.float()}, "features returns float32"),
    "not finite": ({"rewards": lambda s: COINS.rewards(s) / s.sum(1, keepdim=True)}, "rewards are"),
    "too large": ({"rewards": lambda s: COINS.rewards(s) * 2}, "scale them to lie in [0, 1]"),
    "rows": ({"features": lambda s: COINS.features(s) + len(s)}, "make each row a function of its own state"),
    "failure": ({"rewards": lambda _: 1 / 0}, "rewards fails (ZeroDivisionError: division by zero); correct it"),
    "no tensor": ({"features": lambda s: s.tolist()}, "features returns list; return a tensor"),
}


@each("name", WRONG)
def test_an_environment_that_breaks_a_law_is_refused_in_a_line(name: str) -> None:
    methods, complaint = WRONG[name]
    with pytest.raises(ValueError, match=re.escape(complaint)) as refused:
        check_laws(Broken(**methods), name="mine:Broken")
    assert str(refused.value).startswith("task.environment.class: mine:Broken: ")
    assert "\n" not in str(refused.value)


def policy_of(environment: Environment) -> Callable[[Tensor], Tensor]:
    """Some fixed policy."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(environment.num_features, environment.num_actions, generator=generator)
    return lambda features: features @ weight


@pytest.mark.parametrize("name", ["grid", "words of any length", "coins"])
def test_walks_follow_the_policy_and_depend_on_their_keys_alone(name: str) -> None:
    environment = ENVIRONMENTS[name]()
    policy, keys = policy_of(environment), fold_in(torch.tensor(7), torch.arange(4000))
    walks = rollout(environment, policy, keys)
    few = rollout(environment, policy, keys[17:20])
    assert all(torch.equal(one[17:20], other) for one, other in zip(walks, few, strict=True))
    stops = walks.actions == environment.num_actions - 1
    assert bool((walks.taken.sum(1) == stops.int().argmax(1) + 1).all()), "the stop is the last action that is taken"
    known = Enumerated.of(environment)
    place = {tuple(state): number for number, state in enumerate(known.states.tolist())}
    reached = torch.tensor([place[tuple(state)] for state in walks.objects.tolist()])
    expected = known.terminating(action_probabilities(known, policy))
    found = torch.bincount(reached, minlength=len(known.states)).double() / len(keys)
    noise = float((expected / len(keys)).sqrt().sum()) / 2
    assert float(expected.sum()) == pytest.approx(1, abs=1e-12)
    assert total_variation(found, expected) < 1.5 * noise


def test_exploration_draws_evenly() -> None:
    """A policy that always stops at once explores nearly always: as many first actions of each kind."""
    environment = ENVIRONMENTS["grid"]()
    keys = fold_in(torch.tensor(1), torch.arange(3000))

    def stops(features: Tensor) -> Tensor:
        return torch.tensor([-50.0, -50.0, 50.0]).expand(len(features), 3)

    assert bool((rollout(environment, stops, keys).actions[:, 0] == 2).all())
    first = rollout(environment, stops, keys, exploration=0.6).actions[:, 0]
    share = torch.bincount(first, minlength=3) / len(keys)
    assert share.tolist() == pytest.approx([0.2, 0.2, 0.6], abs=0.04)
