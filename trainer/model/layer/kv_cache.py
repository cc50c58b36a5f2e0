"""What rows attend to: the window of one forward pass, or a cache that grows token by token.

Shape suffixes: as in :mod:`trainer.model.layer.attention`; A all tokens of the group.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from moe.dispatch.residency import Residency, gather_rows
from moe.seeds import fold_in
from trainer.model.layer.attention import Context, attend_last, attend_scattered, attend_whole


class Window(Context):
    """Sequences of one length, all of whose tokens are in the forward pass."""

    def __init__(self, length: int, seeds: Tensor | None = None) -> None:
        """Takes the length of a sequence and the seeds of each home rank's dropout, int64 [ranks]; None: no dropout.

        The number of a token is sequence * length + position.
        """
        self.length, self._seeds = length, seeds

    def positions(self, residency: Residency) -> Tensor:
        return residency.ids % self.length

    def attend(
        self,
        layer: int,  # noqa: ARG002
        query_THW: Tensor,
        key_value_T2GW: Tensor,
        residency: Residency,
    ) -> Tensor:
        if residency.whole:
            return attend_whole(query_THW, key_value_T2GW, self.length)
        return self._attend_gathered(query_THW, self._gather(key_value_T2GW, residency), residency)

    def dropout_keys(self, residency: Residency) -> Tensor | None:
        if self._seeds is None:
            return None
        home_T, index_T = residency.ids // residency.per_rank, residency.ids % residency.per_rank
        return fold_in(self._seeds[home_T], index_T)

    def _gather(self, key_value_T2GW: Tensor, residency: Residency) -> Tensor:
        """Keys and values of all tokens of the group, [S, N, 2, G, W]."""
        rows_AD = gather_rows(key_value_T2GW.flatten(1), residency)
        return rows_AD.view(-1, self.length, *key_value_T2GW.shape[1:])

    def _attend_gathered(self, query_THW: Tensor, key_value_SN2GW: Tensor, residency: Residency) -> Tensor:
        sequences_T = residency.ids // self.length
        return attend_scattered(query_THW, key_value_SN2GW, sequences_T, self.positions(residency))


class Cache:
    """Keys and values of every sequence of the group, the same on every rank of it: [blocks, S, positions, 2, G, W]."""

    key_values: Tensor

    def __init__(self, num_layers: int, positions: int) -> None:
        self._shape = num_layers, positions

    def begin(self, layer: int, key_value_SN2GW: Tensor) -> None:
        """Keeps the keys and values [S, N, 2, G, W] of the first N positions; the first block's come first."""
        num_layers, positions = self._shape
        num_sequences, length, *rest = key_value_SN2GW.shape
        if layer == 0:
            self.key_values = key_value_SN2GW.new_zeros(num_layers, num_sequences, positions, *rest)
        self.key_values[layer, :, :length] = key_value_SN2GW


@dataclass(frozen=True, eq=False)
class Made:
    """Keys and values [T, 2, G, W] that one block made on this rank in a step, and how many rows each rank had, [N]."""

    sequences: Tensor
    key_value: Tensor
    rows: tuple[int, ...]


class Prompt(Window):
    """Prompts, padded to one length, whose keys and values begin a cache."""

    def __init__(self, length: int, cache: Cache) -> None:
        """Takes the padded length; a padding position is overwritten before anything attends to it. The cache is
        empty.
        """
        super().__init__(length)
        self._cache = cache

    def attend(self, layer: int, query_THW: Tensor, key_value_T2GW: Tensor, residency: Residency) -> Tensor:
        gathered = self._gather(key_value_T2GW, residency)
        self._cache.begin(layer, gathered)
        if residency.whole:
            return attend_whole(query_THW, key_value_T2GW, self.length)
        return self._attend_gathered(query_THW, gathered, residency)


class NextToken(Context):
    """One more token of each sequence, behind those in a cache; the number of a token is its sequence."""

    def __init__(self, cache: Cache, lengths_S: Tensor, longest: int) -> None:
        """Takes the cache, the tokens of each sequence so far, int64 [S], and the largest of them."""
        self.made: list[Made] = []
        self._cache, self._lengths_S, self._end = cache, lengths_S, longest + 1
        self._visible_SN = torch.arange(self._end, device=lengths_S.device) <= lengths_S[:, None]

    def positions(self, residency: Residency) -> Tensor:
        return self._lengths_S.index_select(0, residency.ids)

    def attend(self, layer: int, query_THW: Tensor, key_value_T2GW: Tensor, residency: Residency) -> Tensor:
        self.made.append(Made(residency.ids, key_value_T2GW, residency.rows))
        stored = self._cache.key_values[layer]
        stored[residency.ids, self.positions(residency)] = key_value_T2GW
        if residency.whole and residency.num_ranks == 1:
            return attend_last(query_THW, stored[:, : self._end], self._visible_SN)
        kept, visible = (part.index_select(0, residency.ids) for part in (stored[:, : self._end], self._visible_SN))
        return attend_last(query_THW, kept, visible)

    def dropout_keys(self, residency: Residency) -> Tensor | None:  # noqa: ARG002
        return None
