"""What rows attend to: the window of one forward pass, or a cache that grows token by token.

Shape suffixes: as in :mod:`trainer.model.layer.attention`; A all tokens of the group.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from moe.dispatch.residency import Residency, gather_rows
from moe.random.keyed import fold_in
from trainer.model.layer.attention import Context, attend_last, attend_scattered, attend_whole


class Window(Context):
    """Sequences of one length, all of whose tokens are in the forward pass."""

    def __init__(self, length: int, seeds: Tensor | None = None) -> None:
        """Describes the sequences.

        Args:
            length: tokens of a sequence; the number of a token is sequence * length + position.
            seeds: of the dropout of each home rank, int64 [ranks]; None: nothing is dropped.
        """
        self.length, self._seeds = length, seeds

    def positions(self, residency: Residency) -> Tensor:
        """See the protocol."""
        return residency.ids % self.length

    def attend(
        self,
        layer: int,  # noqa: ARG002
        query_THW: Tensor,
        key_value_T2GW: Tensor,
        residency: Residency,
    ) -> Tensor:
        """See the protocol."""
        if residency.whole:
            return attend_whole(query_THW, key_value_T2GW, self.length)
        return self._attend_gathered(query_THW, self._gather(key_value_T2GW, residency), residency)

    def dropout_keys(self, residency: Residency) -> Tensor | None:
        """See the protocol."""
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
    """Keys and values of every sequence of the group, the same on every rank of it.

    Attributes:
        key_values: [blocks, S, positions, 2, G, W]; there from the first block's prompt on.
    """

    key_values: Tensor

    def __init__(self, num_layers: int, positions: int) -> None:
        """Describes the room.

        Args:
            num_layers: blocks of the model.
            positions: of the longest sequence.
        """
        self._shape = num_layers, positions

    def begin(self, layer: int, key_value_SN2GW: Tensor) -> None:
        """Keeps the keys and values of the first N positions.

        Args:
            layer: index of the block; the first block's come first.
            key_value_SN2GW: of every sequence.
        """
        num_layers, positions = self._shape
        num_sequences, length, *rest = key_value_SN2GW.shape
        if layer == 0:
            self.key_values = key_value_SN2GW.new_zeros(num_layers, num_sequences, positions, *rest)
        self.key_values[layer, :, :length] = key_value_SN2GW


@dataclass(frozen=True, eq=False)
class Made:
    """What one block made on this rank in a step.

    Attributes:
        sequences: int64 [T].
        key_value: keys and values of their newest token, [T, 2, G, W].
        rows: how many tokens were on each rank, [N].
    """

    sequences: Tensor
    key_value: Tensor
    rows: tuple[int, ...]


class Prompt(Window):
    """Prompts, padded to one length, whose keys and values begin a cache."""

    def __init__(self, length: int, cache: Cache) -> None:
        """Describes the prompts.

        Args:
            length: tokens of each, padding included. What stands at a position behind a prompt's end is overwritten
                before anything attends to it.
            cache: still empty.
        """
        super().__init__(length)
        self._cache = cache

    def attend(self, layer: int, query_THW: Tensor, key_value_T2GW: Tensor, residency: Residency) -> Tensor:
        """See the protocol."""
        gathered = self._gather(key_value_T2GW, residency)
        self._cache.begin(layer, gathered)
        if residency.whole:
            return attend_whole(query_THW, key_value_T2GW, self.length)
        return self._attend_gathered(query_THW, gathered, residency)


class NextToken(Context):
    """One more token of each sequence, behind those in a cache; the number of a token is its sequence.

    Attributes:
        made: what each block made on this rank.
    """

    def __init__(self, cache: Cache, lengths_S: Tensor, longest: int) -> None:
        """Describes the step.

        Args:
            cache: holds everything before this token.
            lengths_S: tokens of each sequence so far, int64.
            longest: the largest of them.
        """
        self.made: list[Made] = []
        self._cache, self._lengths_S, self._end = cache, lengths_S, longest + 1
        self._visible_SN = torch.arange(self._end, device=lengths_S.device) <= lengths_S[:, None]

    def positions(self, residency: Residency) -> Tensor:
        """See the protocol."""
        return self._lengths_S.index_select(0, residency.ids)

    def attend(self, layer: int, query_THW: Tensor, key_value_T2GW: Tensor, residency: Residency) -> Tensor:
        """See the protocol."""
        self.made.append(Made(residency.ids, key_value_T2GW, residency.rows))
        stored = self._cache.key_values[layer]
        stored[residency.ids, self.positions(residency)] = key_value_T2GW
        if residency.whole and residency.num_ranks == 1:
            return attend_last(query_THW, stored[:, : self._end], self._visible_SN)
        kept, visible = (part.index_select(0, residency.ids) for part in (stored[:, : self._end], self._visible_SN))
        return attend_last(query_THW, kept, visible)

    def dropout_keys(self, residency: Residency) -> Tensor | None:  # noqa: ARG002
        """See the protocol."""
        return None
