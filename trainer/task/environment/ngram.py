"""Words, written from the left.

Shape suffixes: B states, S places of letters, A actions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.config.task.environment import NGramConfig
from trainer.task.environment.protocol import Environment

EMPTY = -1


class NGram(Environment):
    """Words of an alphabet; an action writes the next letter, the last one stops. Each word has one path to it.

    A state holds the number of the letter at each place, and -1 where none is written yet. Jain et al.,
    "Multi-Objective GFlowNets", 2023, section 5.1.
    """

    def __init__(self, config: NGramConfig) -> None:
        sizes = config.sizes
        self.num_actions, self.num_features, self.max_actions = sizes.actions, sizes.features, sizes.max_actions
        self.objectives = config.objectives
        self.alphabet, self.length, self.shortest = config.alphabet, config.length, config.shortest
        self._ngrams = [tuple(map(config.alphabet.index, ngram)) for ngram in config.objectives]

    def start(self, num: int) -> Tensor:
        """Nothing is written."""
        return torch.full((num, self.length), EMPTY)

    def step(self, states_BS: Tensor, actions_B: Tensor) -> Tensor:
        places = torch.arange(self.length, device=states_BS.device)
        return torch.where(places == self._written(states_BS)[:, None], actions_B[:, None], states_BS)

    def allowed(self, states_BS: Tensor) -> Tensor:
        """Letters while there is room, the stop from the shortest length on."""
        written = self._written(states_BS)[:, None]
        room = (written < self.length).expand(-1, len(self.alphabet))
        return torch.cat([room, written >= self.shortest], dim=1)

    def leading(self, states_BS: Tensor) -> Tensor:
        """The letter that was written last."""
        written = self._written(states_BS)[:, None]
        last = states_BS.gather(1, (written - 1).clamp(min=0))
        return torch.arange(len(self.alphabet), device=states_BS.device) == last

    def features(self, states_BS: Tensor) -> Tensor:
        """A number for each letter at each place, 1 where it is written."""
        letters = torch.arange(len(self.alphabet), device=states_BS.device)
        return (states_BS[..., None] == letters).flatten(1).float()

    def rewards(self, states_BS: Tensor) -> Tensor:
        return torch.stack([self._share(states_BS, ngram) for ngram in self._ngrams], dim=1)

    def distances(self, states_BS: Tensor) -> Tensor:
        """Letters that are put in, left out or changed, as few as possible."""
        words = self.described(states_BS)
        return torch.tensor([[edit_distance(one, other) for other in words] for one in words], dtype=torch.float64)

    def described(self, states_BS: Tensor) -> list[str]:
        """The words."""
        return ["".join(self.alphabet[letter] for letter in row if letter != EMPTY) for row in states_BS.tolist()]

    def _written(self, states_BS: Tensor) -> Tensor:
        return (states_BS != EMPTY).sum(1)

    def _share(self, states_BS: Tensor, ngram: Sequence[int]) -> Tensor:
        """How often words hold an n-gram, over how often a word of the full length can."""
        windows = states_BS.unfold(1, len(ngram), 1)
        matches = [windows[..., place] == letter for place, letter in enumerate(ngram)]
        return torch.stack(matches).all(0).sum(1).double() / most_often(ngram, self.length)


def most_often(ngram: Sequence[int], length: int) -> int:
    """How often a word of a length can hold an n-gram: again after its shortest period."""
    size = len(ngram)
    period = next(shift for shift in range(1, size + 1) if ngram[shift:] == ngram[: size - shift])
    return 1 + (length - size) // period


def edit_distance(one: str, other: str) -> int:
    """Letters that are put in, left out or changed to make one word of another (Levenshtein, 1966)."""
    above = list(range(len(other) + 1))
    for row, letter in enumerate(one, start=1):
        current = [row]
        for column, wanted in enumerate(other, start=1):
            changed = above[column - 1] + (letter != wanted)
            current.append(min(changed, above[column] + 1, current[-1] + 1))
        above = current
    return above[-1]
