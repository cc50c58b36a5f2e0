"""Causal attention of rows that may lie anywhere.

Shape suffixes: T rows, D model width, H query heads, G key-value heads, W width of a head, S sequences, N positions,
Q rows of the sequence that has most, 2 key and value.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from moe.dispatch.residency import Residency
from trainer.config.model import GPTConfig
from trainer.model.parallel.division import Columns, Rows


class Context(Protocol):
    """The tokens that a row may attend to: those before it in its sequence, wherever they are."""

    def positions(self, residency: Residency) -> Tensor:
        """Position of each row in its sequence, int64 [T]."""
        ...

    def attend(self, layer: int, query_THW: Tensor, key_value_T2GW: Tensor, residency: Residency) -> Tensor:
        """Lets every row attend to its sequence up to itself: queries [T, H, W], keys and values [T, 2, G, W] to [T,
        H, W].
        """
        ...

    def dropout_keys(self, residency: Residency) -> Tensor | None:
        """What the dropout of each row is a function of, int64 [T]; None: nothing is dropped."""
        ...


class Attention(nn.Module):
    """Rotary self-attention whose key-value heads serve several query heads (Ainslie et al., "GQA", 2023, section
    2.2).
    """

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.queries_per_key = layer, config.num_heads // config.key_value_heads
        self.head_width = config.hidden // config.num_heads
        self.projected = (config.num_heads + 2 * config.key_value_heads) * self.head_width
        self.query_key_value: nn.Module = nn.Linear(config.hidden, self.projected, bias=config.bias)
        self.projection: nn.Module = nn.Linear(config.hidden, config.hidden, bias=config.bias)
        self.rotary = Rotary(config.context, config.rotary_width, config.rotary_base)

    def divide(self, columns: Columns, rows: Rows) -> None:
        """Keeps this rank's heads, see :mod:`trainer.model.parallel.division`."""
        self.query_key_value = columns(self.query_key_value, self._shares(self.projected))
        self.projection = rows(self.projection)

    def forward(self, rows_TD: Tensor, residency: Residency, context: Context) -> Tensor:
        """Returns what each row reads from its context, [T, D]."""
        heads = self.query_key_value(rows_TD).unflatten(1, (-1, self.head_width))
        queries, keys, values = self._shares(heads.shape[1])
        to_rotate, value = heads.split([queries + keys, values], dim=1)
        query, key = rotated(to_rotate, context.positions(residency), self.rotary).split([queries, keys], dim=1)
        attended = context.attend(self.layer, query, torch.stack([key, value], dim=1), residency)
        return self.projection(attended.flatten(1))

    def _shares(self, total: int) -> tuple[int, int, int]:
        """How many of `total` heads, or of their elements, are queries, keys and values."""
        keys = total // (self.queries_per_key + 2)
        return self.queries_per_key * keys, keys, keys


class Rotary(NamedTuple):
    """How positions turn heads.

    Attributes:
        longest: positions that there are.
        width: coordinates of a head that are turned, the first ones; an even number.
        base: the i-th of n pairs is turned by base^(-i / n) radians a position.
    """

    longest: int
    width: int
    base: float = 10_000.0


def rotated(heads_THW: Tensor, positions_T: Tensor, rotary: Rotary) -> Tensor:
    """Turns each pair of neighbouring coordinates of [T, H, W] by an angle that grows with the position, int64 [T].

    A product of two rows depends on the difference of their positions alone (RoFormer, equation 34).
    """
    dtype = torch.promote_types(heads_THW.dtype, torch.float32)
    turns = _turns(rotary, heads_THW.device, dtype).index_select(0, positions_T)
    pairs = torch.view_as_complex(heads_THW[..., : rotary.width].to(dtype).unflatten(2, (-1, 2)))
    turned = torch.view_as_real(pairs * turns[:, None]).flatten(2).to(heads_THW.dtype)
    return turned if turned.shape == heads_THW.shape else torch.cat([turned, heads_THW[..., rotary.width :]], dim=2)


_known_turns: dict[tuple[Rotary, torch.device, torch.dtype], Tensor] = {}
_MOST_KNOWN = 8


def _turns(rotary: Rotary, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Complex numbers of size 1 for each position and pair, [longest, pairs]; a buffer would be cast with weights."""
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
    """Attention [T, H, W] of some rows, sequence by sequence ascending, to all rows [S, N, 2, G, W] up to their own."""
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
    """Attention [T, H, W] of one row of each sequence to its visible positions, bool [T, N]."""
    key, value = key_value_TN2GW.permute(2, 0, 3, 1, 4)
    # The query heads that share a key-value head are rows of one product: keys are read once, never repeated.
    query = query_THW.unflatten(1, (key.shape[1], -1))
    attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible_TN[:, None, None])
    return attended.flatten(1, 2)
