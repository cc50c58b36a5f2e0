"""Measured routing: how many tokens of a rank have an expert on each rank or node, by a routing trace of a trainer."""

from math import isqrt
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from netsim.foundation.arrays import read_archive
from netsim.foundation.complaint import complaining
from netsim.foundation.documents import parse_json
from netsim.foundation.refusal import Refusal

_DROPPED, _MOST_SHARES = -1, 1 << 24
_REMEDY = "give a routing trace as the trainer or python -m moe import writes it"
_Positive = Annotated[int, Field(gt=0, strict=True)]


class _Header(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    format: Literal["flowfabric.routing/1"]
    num_experts: _Positive
    top_k: _Positive
    world_size: _Positive


class Routing:
    """The experts of tokens, int [tokens, layers, top_k], -1 of a dropped choice, and their ranks in `world_size`."""

    def __init__(self, path: Path, experts: NDArray, ranks: NDArray, header: _Header) -> None:
        self._path, self._experts, self._ranks, self._header = path, experts, ranks, header

    def reached(self, size: int, parts: int) -> np.ndarray:
        """[size, parts]: which share of the tokens of each rank of a group has experts in each part, on mean of layers.

        Experts are in equal parts one after another. Where the trace is of a multiple of so many ranks, a rank has the
        tokens of those at its place in groups of ranks that follow each other; else every rank has all tokens.
        """
        if size * parts > _MOST_SHARES:
            problem = f"is for {size:,} ranks, whose tokens go to {parts:,} parts"
            raise Refusal(self._path, "source_rank", problem, f"give a group of {isqrt(_MOST_SHARES):,} ranks at most")
        own = self._header.world_size % size == 0
        places = self._ranks % size if own else np.zeros_like(self._ranks)
        tokens = np.bincount(places, minlength=size if own else 1)
        if not tokens.all():
            problem = f"has no tokens of place {int(tokens.argmin())} in groups of {size} ranks"
            raise Refusal(self._path, "source_rank", problem, "record more steps")
        counts = np.zeros(len(tokens) * parts, dtype=np.int64)
        layers = self._experts.shape[1]
        for layer in range(layers):
            of_token = np.sort(self._experts[:, layer] // (self._header.num_experts // parts), axis=1)
            first = of_token != _DROPPED
            first[:, 1:] &= of_token[:, 1:] != of_token[:, :-1]
            token, choice = np.nonzero(first)
            counts += np.bincount(places[token] * parts + of_token[token, choice], minlength=len(counts))
        shares = counts.reshape(-1, parts) / (layers * tokens[:, None])
        return np.broadcast_to(shares, (size, parts))


def read_routing(path: Path, experts: int, top_k: int) -> Routing:
    """Reads a routing trace for `experts` experts, of which a token visits `top_k`.

    Raises:
        Refusal: The file is no routing trace, or contradicts itself or the model.
    """
    arrays = read_archive(path, ("header", "expert_ids", "source_rank"), remedy=_REMEDY, single=_REMEDY)
    header = _header(path, arrays["header"])
    for field, option, given in (("num_experts", "--experts", experts), ("top_k", "--top-k", top_k)):
        recorded = getattr(header, field)
        if recorded != given:
            problem = f"is {recorded}, and {option} is {given}"
            raise Refusal(path, f"header.{field}", problem, "give the trace and the options of one model")
    limits = ("expert_ids", 3, _DROPPED, experts), ("source_rank", 1, 0, header.world_size)
    for name, axes, low, high in limits:
        array = arrays[name]
        if array.ndim != axes or array.dtype.kind not in "iu" or not array.size:
            shape = "[tokens, layers, top_k]" if axes > 1 else "[tokens]"
            raise Refusal(path, name, f"is {array.dtype} {array.shape}, not whole numbers {shape}", _REMEDY)
        if array.min() < low or array.max() >= high:
            problem = f"is not in {low} to {high - 1} throughout ({array.min()} to {array.max()})"
            raise Refusal(path, name, problem, _REMEDY)
    chosen, ranks = (arrays[name].astype(np.int64) for name, *_ in limits)
    if len(chosen) != len(ranks) or chosen.shape[2] != top_k:
        problem = f"has shape {chosen.shape}, for {len(ranks)} tokens with {top_k} experts each"
        raise Refusal(path, "expert_ids", problem, _REMEDY)
    return Routing(path, chosen, ranks, header)


def _header(path: Path, stored: NDArray) -> _Header:
    try:
        document = parse_json(str(stored))
    except ValueError as error:
        raise Refusal(path, "header", f"is not JSON ({error})", _REMEDY) from None
    with complaining(path, _REMEDY, "header."):
        return _Header.model_validate(document)
