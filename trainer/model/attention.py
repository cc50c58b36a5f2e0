"""Causal attention of rows on any rank: within the window of a forward pass, or over a KV cache that grows.

Shape suffixes: T rows, D model width, H query heads, G key-value heads, W width of a head, S sequences, N positions,
Q rows of the sequence that has most, 2 key and value, A all tokens of the group.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from moe.dispatch.residency import Residency, gather_rows
from moe.seeds import fold_in
from trainer.config.model import GPTConfig
from trainer.model.parallel.division import Columns, Rows


class Context(Protocol):
    """The tokens that a row may attend to: itself and those before it in its sequence, on any rank."""

    def positions(self, residency: Residency) -> Tensor:
        """Position of each row in its sequence, int64 [T]."""
        ...

    def attend(self, layer: int, query_THW: Tensor, key_value_T2GW: Tensor, residency: Residency) -> Tensor:
        """Attention of queries [T, H, W] to keys and values [T, 2, G, W] of their sequences up to themselves."""
        ...

    def dropout_keys(self, residency: Residency) -> Tensor | None:
        """Random keys for the dropout of each row, int64 [T]; None: nothing is dropped."""
        ...


class Attention(nn.Module):
    """Rotary attention whose key-value heads serve several query heads (Ainslie et al., "GQA", 2023, section 2.2)."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.queries_per_key = layer, config.num_heads // config.key_value_heads
        self.head_width = config.hidden // config.num_heads
        self.projected = (config.num_heads + 2 * config.key_value_heads) * self.head_width
        self.query_key_value: nn.Module = nn.Linear(config.hidden, self.projected, bias=config.bias)
        self.projection: nn.Module = nn.Linear(config.hidden, config.hidden, bias=config.bias)
        self.rotary = Rotary(config.context, config.rotary_width, config.rotary_base)

    def divide(self, columns: Columns, rows: Rows) -> None:
        """Keeps this rank's heads."""
        self.query_key_value = columns(self.query_key_value, self._shares(self.projected))
        self.projection = rows(self.projection)

    def forward(self, rows_TD: Tensor, residency: Residency, context: Context) -> Tensor:
        heads = self.query_key_value(rows_TD).unflatten(1, (-1, self.head_width))
        queries, keys, values = self._shares(heads.shape[1])
        to_rotate, value = heads.split([queries + keys, values], dim=1)
        query, key = rotated(to_rotate, context.positions(residency), self.rotary).split([queries, keys], dim=1)
        attended = context.attend(self.layer, query, torch.stack([key, value], dim=1), residency)
        return self.projection(attended.flatten(1))

    def _shares(self, total: int) -> tuple[int, int, int]:
        """Splits `total` heads, or their elements, into the numbers of queries, of keys and of values."""
        keys = total // (self.queries_per_key + 2)
        return self.queries_per_key * keys, keys, keys


class Rotary(NamedTuple):
    """Rotary embedding of `longest` positions: pair i of n in the first `width` coordinates turns by base^(-i / n)."""

    longest: int
    width: int
    base: float = 10_000.0


def rotated(heads_THW: Tensor, positions_T: Tensor, rotary: Rotary) -> Tensor:
    """Rotates pairs of neighbouring coordinates of [T, H, W] by their position's angles (RoFormer, equation 34)."""
    dtype = torch.promote_types(heads_THW.dtype, torch.float32)
    turns = _turns(rotary, heads_THW.device, dtype).index_select(0, positions_T)
    pairs = torch.view_as_complex(heads_THW[..., : rotary.width].to(dtype).unflatten(2, (-1, 2)))
    turned = torch.view_as_real(pairs * turns[:, None]).flatten(2).to(heads_THW.dtype)
    return turned if turned.shape == heads_THW.shape else torch.cat([turned, heads_THW[..., rotary.width :]], dim=2)


_known_turns: dict[tuple[Rotary, torch.device, torch.dtype], Tensor] = {}
_MOST_KNOWN = 8


def _turns(rotary: Rotary, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Rotations as unit complex numbers [longest, pairs], kept in a cache; a buffer would be cast with weights."""
    key = rotary, device, dtype
    if key not in _known_turns:
        with torch.inference_mode(False):
            exponents = torch.arange(0, rotary.width, 2, device=device, dtype=torch.float64) / rotary.width
            angles = torch.arange(rotary.longest, device=device)[:, None] * rotary.base**-exponents
            turns = torch.polar(torch.ones_like(angles), angles).to(dtype.to_complex())
        if type(turns) is not Tensor:  # of a mode that only looks at shapes: it must not outlive the mode
            return turns
        if len(_known_turns) >= _MOST_KNOWN:
            del _known_turns[next(iter(_known_turns))]
        _known_turns[key] = turns
    return _known_turns[key]


def attend_whole(query_THW: Tensor, key_value_T2GW: Tensor, length: int) -> Tensor:
    """Attention of whole sequences of `length` rows, one after the other: [T, H, W]."""
    query = query_THW.unflatten(0, (-1, length)).transpose(1, 2)
    key, value = key_value_T2GW.unflatten(0, (-1, length)).permute(2, 0, 3, 1, 4)
    attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    return attended.transpose(1, 2).reshape(query_THW.shape)


def attend_scattered(query_THW: Tensor, key_value_SN2GW: Tensor, sequences_T: Tensor, positions_T: Tensor) -> Tensor:
    """Attention [T, H, W] of rows, in the order of sequences, to keys and values [S, N, 2, G, W] up to their own."""
    if not len(query_THW):
        return query_THW + 0 * key_value_SN2GW.sum()
    num_sequences, length = key_value_SN2GW.shape[:2]
    counts_S = torch.bincount(sequences_T, minlength=num_sequences)
    most = int(counts_S.max())
    first_S = counts_S.cumsum(dim=0) - counts_S
    place_T = sequences_T * most + torch.arange(len(query_THW), device=query_THW.device) - first_S[sequences_T]
    rows = num_sequences * most
    query = query_THW.new_zeros(rows, *query_THW.shape[1:]).index_copy(0, place_T, query_THW)
    last = positions_T.new_zeros(rows).index_copy(0, place_T, positions_T).view(num_sequences, most)
    key, value = key_value_SN2GW.permute(2, 0, 3, 1, 4)
    # The query heads that share a key-value head are rows of one product. No fused kernel of a GPU takes a mask and
    # heads in groups at once; the plain one would write out a score for every head, query and key.
    grouped = query.unflatten(0, (num_sequences, most)).unflatten(2, (key.shape[1], -1)).permute(0, 2, 3, 1, 4)
    visible = torch.arange(length, device=query.device) <= last[:, None, :, None]
    visible = visible[:, None].expand(-1, -1, grouped.shape[2], -1, -1).flatten(2, 3)
    attended = functional.scaled_dot_product_attention(grouped.flatten(2, 3), key, value, attn_mask=visible)
    return attended.unflatten(2, grouped.shape[2:4]).permute(0, 3, 1, 2, 4).reshape(rows, *query.shape[1:])[place_T]


def attend_last(query_THW: Tensor, key_value_TN2GW: Tensor, visible_TN: Tensor) -> Tensor:
    """Attention [T, H, W] of one row of each sequence to the positions that `visible_TN`, bool [T, N], marks."""
    key, value = key_value_TN2GW.permute(2, 0, 3, 1, 4)
    # The query heads that share a key-value head are rows of one product: keys are read once, never repeated.
    query = query_THW.unflatten(1, (key.shape[1], -1))
    attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible_TN[:, None, None])
    return attended.flatten(1, 2)


class Window(Context):
    def __init__(self, length: int, seeds: Tensor | None = None) -> None:
        """Takes the dropout seed of each home rank, int64 [ranks]; a token's number is sequence * length + position."""
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
    """KV cache of all sequences of a group, the same on each of its ranks: [blocks, S, positions, 2, G, W]."""

    key_values: Tensor

    def __init__(self, num_layers: int, positions: int) -> None:
        self._shape = num_layers, positions

    def begin(self, layer: int, key_value_SN2GW: Tensor) -> None:
        num_layers, positions = self._shape
        num_sequences, length, *rest = key_value_SN2GW.shape
        if layer == 0:
            self.key_values = key_value_SN2GW.new_zeros(num_layers, num_sequences, positions, *rest)
        self.key_values[layer, :, :length] = key_value_SN2GW


@dataclass(frozen=True, eq=False)
class Made:
    """Keys and values [T, 2, G, W] that a block computed on this rank in a step, and each rank's number of rows."""

    sequences: Tensor
    key_value: Tensor
    rows: tuple[int, ...]


class Prompt(Window):
    """Prompts, padded to one length, whose keys and values begin a cache."""

    def __init__(self, length: int, cache: Cache) -> None:
        """Takes the padded length and an empty cache; padding is overwritten before anything attends to it."""
        super().__init__(length)
        self._cache = cache

    def attend(self, layer: int, query_THW: Tensor, key_value_T2GW: Tensor, residency: Residency) -> Tensor:
        gathered = self._gather(key_value_T2GW, residency)
        self._cache.begin(layer, gathered)
        if residency.whole:
            return attend_whole(query_THW, key_value_T2GW, self.length)
        return self._attend_gathered(query_THW, gathered, residency)


class NextToken(Context):
    """One more token of each sequence, after those in a KV cache; the number of a token is that of its sequence."""

    def __init__(self, cache: Cache, lengths_S: Tensor, longest: int) -> None:
        """Takes the cache, the number of tokens of each sequence so far, int64 [S], and the largest number."""
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
