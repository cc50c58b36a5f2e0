"""The built-in environments: a grid on the unit cube, and words written from the left.

Shape suffixes: B states, S coordinates or places of letters, A actions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from trainer.config.task.environment import GridObjective, HyperGridConfig, NGramConfig
from trainer.task.environment.protocol import Environment


class HyperGrid(Environment):
    """Cells of a grid; an action adds one to a coordinate, the last one stops, and every cell is an object.

    States: Bengio et al., 2021, section 4.1; objectives: Jain et al., "Multi-Objective GFlowNets", 2023, section 5.1.
    """

    def __init__(self, config: HyperGridConfig) -> None:
        sizes = config.sizes
        self.num_actions, self.num_features, self.max_actions = sizes.actions, sizes.features, sizes.max_actions
        self.objectives = config.objectives
        self.side, self.dimensions = config.side, config.dimensions
        self._functions = [FUNCTIONS[name] for name in config.objectives]

    def start(self, num: int) -> Tensor:
        return torch.zeros(num, self.dimensions, dtype=torch.int64)

    def step(self, states_BS: Tensor, actions_B: Tensor) -> Tensor:
        return states_BS + (torch.arange(self.dimensions, device=states_BS.device) == actions_B[:, None])

    def allowed(self, states_BS: Tensor) -> Tensor:
        """A coordinate may grow up to the side; stopping is allowed in every cell."""
        return functional.pad(states_BS < self.side - 1, (0, 1), value=True)

    def leading(self, states_BS: Tensor) -> Tensor:
        return states_BS > 0

    def features(self, states_BS: Tensor) -> Tensor:
        """One-hot code of each coordinate."""
        cells = torch.arange(self.side, device=states_BS.device)
        return (states_BS[..., None] == cells).flatten(1).float()

    def rewards(self, states_BS: Tensor) -> Tensor:
        places = self.coordinates(states_BS)
        return torch.stack([function.scaled(places) for function in self._functions], dim=1)

    def coordinates(self, states_BS: Tensor) -> Tensor:
        return states_BS.double() / (self.side - 1)

    def cells(self) -> Tensor:
        """All objects, int64 [side^dimensions, S]; the last coordinate varies fastest."""
        return torch.tensor(list(itertools.product(range(self.side), repeat=self.dimensions)))


class Function(NamedTuple):
    """A test function for optimisers: places float64 [B, S] in [0, 1] to [B]; its worst value becomes 0, its best 1."""

    value: Callable[[Tensor], Tensor]
    worst: float
    best: float

    def scaled(self, places: Tensor) -> Tensor:
        return ((self.value(places) - self.worst) / (self.best - self.worst)).clamp(0.0, 1.0)


def _branin(places: Tensor) -> Tensor:
    """Three equal minima; on [-5, 10] x [0, 15]."""
    x, y = 15 * places[:, 0] - 5, 15 * places[:, 1]
    valley = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return valley**2 + 10 * (1 - 1 / (8 * math.pi)) * x.cos() + 10


def _currin(places: Tensor) -> Tensor:
    """One maximum on the edge; Currin, Mitchell, Morris and Ylvisaker, 1991."""
    x, y = places[:, 0], places[:, 1]
    ratio = (2300 * x**3 + 1900 * x**2 + 2092 * x + 60) / (100 * x**3 + 500 * x**2 + 4 * x + 20)
    return (1 - (-0.5 / y).exp()) * ratio


def _shubert(places: Tensor) -> Tensor:
    """18 equal minima; on [-10, 10] x [-10, 10]."""
    x, factors = 20 * places[:, :2] - 10, torch.arange(1, 6, device=places.device)
    return (factors * ((factors + 1) * x[..., None] + factors).cos()).sum(-1).prod(-1)


def _sphere(places: Tensor) -> Tensor:
    """Mean square of all coordinates, on [-1, 1] each; its minimum is in the middle."""
    return (2 * places - 1).square().mean(1)


def _beale(places: Tensor) -> Tensor:
    """A long valley; on [-1, 1] x [-1, 1], where the other values do not dwarf it."""
    x, y = 2 * places[:, 0] - 1, 2 * places[:, 1] - 1
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


FUNCTIONS: dict[GridObjective, Function] = {
    "branin": Function(_branin, worst=308.12909601160663, best=0.39788735772976835),
    "currin": Function(_currin, worst=1.180408020862099, best=13.798722044728434),
    "shubert": Function(_shubert, worst=210.4822940155042, best=-186.7309088310239),
    "sphere": Function(_sphere, worst=1.0, best=0.0),
    "beale": Function(_beale, worst=38.703125, best=4.368527115970509),
}
"""Extremes are those on the whole cube; a grid may miss them."""


EMPTY = -1


class NGram(Environment):
    """Words of an alphabet; an action writes the next letter, the last one stops. Each word has one path to it.

    A state has the letter's number at each place, -1 if none. Jain et al., "Multi-Objective GFlowNets", section 5.1.
    """

    def __init__(self, config: NGramConfig) -> None:
        sizes = config.sizes
        self.num_actions, self.num_features, self.max_actions = sizes.actions, sizes.features, sizes.max_actions
        self.objectives = config.objectives
        self.alphabet, self.length, self.shortest = config.alphabet, config.length, config.shortest
        self._ngrams = [tuple(map(config.alphabet.index, ngram)) for ngram in config.objectives]

    def start(self, num: int) -> Tensor:
        return torch.full((num, self.length), EMPTY)

    def step(self, states_BS: Tensor, actions_B: Tensor) -> Tensor:
        places = torch.arange(self.length, device=states_BS.device)
        return torch.where(places == self._written(states_BS)[:, None], actions_B[:, None], states_BS)

    def allowed(self, states_BS: Tensor) -> Tensor:
        """Letters are allowed up to the full length, the stop from the shortest length on."""
        written = self._written(states_BS)[:, None]
        letters = (written < self.length).expand(-1, len(self.alphabet))
        return torch.cat([letters, written >= self.shortest], dim=1)

    def leading(self, states_BS: Tensor) -> Tensor:
        written = self._written(states_BS)[:, None]
        last = states_BS.gather(1, (written - 1).clamp(min=0))
        return torch.arange(len(self.alphabet), device=states_BS.device) == last

    def features(self, states_BS: Tensor) -> Tensor:
        """One-hot code of the letter at each place; 0 where none is written."""
        letters = torch.arange(len(self.alphabet), device=states_BS.device)
        return (states_BS[..., None] == letters).flatten(1).float()

    def rewards(self, states_BS: Tensor) -> Tensor:
        return torch.stack([self._share(states_BS, ngram) for ngram in self._ngrams], dim=1)

    def distances(self, states_BS: Tensor) -> Tensor:
        """Edit distances of the words."""
        words = self.described(states_BS)
        return torch.tensor([[edit_distance(one, other) for other in words] for one in words], dtype=torch.float64)

    def described(self, states_BS: Tensor) -> list[str]:
        return ["".join(self.alphabet[letter] for letter in row if letter != EMPTY) for row in states_BS.tolist()]

    def _written(self, states_BS: Tensor) -> Tensor:
        return (states_BS != EMPTY).sum(1)

    def _share(self, states_BS: Tensor, ngram: Sequence[int]) -> Tensor:
        """Occurrences of an n-gram in words, over the most possible in a word of the full length."""
        windows = states_BS.unfold(1, len(ngram), 1)
        matches = [windows[..., place] == letter for place, letter in enumerate(ngram)]
        return torch.stack(matches).all(0).sum(1).double() / most_often(ngram, self.length)


def most_often(ngram: Sequence[int], length: int) -> int:
    """The most occurrences of an n-gram in a word of a length; it can recur after its shortest period."""
    size = len(ngram)
    period = next(shift for shift in range(1, size + 1) if ngram[shift:] == ngram[: size - shift])
    return 1 + (length - size) // period


def edit_distance(one: str, other: str) -> int:
    """Least number of letters inserted, deleted or changed between two words (Levenshtein, 1966)."""
    above = list(range(len(other) + 1))
    for row, letter in enumerate(one, start=1):
        current = [row]
        for column, wanted in enumerate(other, start=1):
            changed = above[column - 1] + (letter != wanted)
            current.append(min(changed, above[column] + 1, current[-1] + 1))
        above = current
    return above[-1]
