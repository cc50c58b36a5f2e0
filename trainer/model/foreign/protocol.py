"""A kind of network of another package: its settings, read key by key, and the exact mapping of its tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from netsim.foundation.documents import parse_json
from netsim.foundation.refusal import Refusal
from trainer.config.run import RunConfig
from trainer.model.weight_files import Weights

NAME = "config.json"
_REMEDY = "give the folder as its package wrote it"


class Document:
    """Settings of a file, read key by key; `largest` bounds widths and numbers of layers, None if unknown."""

    largest: int | None = None

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path, self.values = path, values

    @classmethod
    def read(cls, folder: Path) -> Document:
        path = folder / NAME
        remedy = "give a folder that save_pretrained of diffusers or transformers wrote"
        try:
            values = parse_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Refusal(path, "network", f"cannot be read ({error})", remedy) from error
        if not isinstance(values, dict):
            raise Refusal(path, "network", "is not an object of settings", remedy)
        return cls(path, values)

    def size(self, key: str, default: int | None = None) -> int:
        """A width, a number of layers or another size that shapes of weights follow from; see :meth:`whole`."""
        value = self.whole(key, default)
        if self.largest is not None and value > self.largest:
            raise Refusal(self.path, key, f"is {value}, and the weights have no size above {self.largest}", _REMEDY)
        return value

    def whole(self, key: str, default: int | None = None) -> int:
        """A number of 1 or more; without a default it has to be there."""
        value = self.values.get(key)
        value = default if value is None else value
        if value is None:
            raise Refusal(self.path, key, "is missing", _REMEDY)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise Refusal(self.path, key, f"is not a whole number of 1 or more ({value!r})", _REMEDY)
        return value

    def number(self, key: str, default: float) -> float:
        """A number; `default` where it is missing or null."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise Refusal(self.path, key, f"is not a number ({value!r})", _REMEDY)
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """A truth value; `default` where it is missing or null."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise Refusal(self.path, key, f"is neither true nor false ({value!r})", _REMEDY)
        return value

    def choice(self, key: str, choices: Mapping[str, str], default: str) -> str:
        """Translates the value of a key by `choices`; `default` where it is missing."""
        value = self.values.get(key, default)
        if not isinstance(value, str) or value not in choices:
            self.refuse(key, value, f"choose a network with one of {', '.join(choices)}")
        return choices[value]

    def expect(self, key: str, value: Any, remedy: str) -> None:
        """Refuses a setting that has another value; one that is missing or null is let through."""
        present = self.values.get(key)
        if present is not None and present != value:
            self.refuse(key, present, remedy)

    def expect_none(self, *keys: str, remedy: str) -> None:
        """Refuses settings that are present and neither null, false nor empty."""
        for key in keys:
            if self.values.get(key):
                self.refuse(key, self.values[key], remedy)

    def refuse(self, key: str, value: Any, remedy: str) -> None:
        raise Refusal(self.path, key, f"is {value!r}, for which networks here have no counterpart", remedy)


@dataclass(frozen=True, eq=False)
class Entry:
    """One tensor of this project ("here"), and the tensors of the other package ("there") that it is made of.

    Attributes:
        parts: shapes of the tensors there by name; their concatenated rows are the rows here in another order.
        order: int64, for each row here its place among the concatenated rows; None: the same order.
        copies: whether each part holds all rows instead, and all parts are equal.
    """

    name: str
    shape: tuple[int, ...]
    parts: Mapping[str, tuple[int, ...]]
    order: Tensor | None = None
    copies: bool = False

    @classmethod
    def same(cls, name: str, other: str, *shape: int) -> Entry:
        """An entry for a tensor that is equal there under another name."""
        return cls(name, shape, {other: shape})

    def join(self, parts: Mapping[str, Tensor]) -> Tensor:
        values = [parts[name] for name in self.parts]
        whole = values[0] if self.copies or len(values) == 1 else torch.cat(values)
        return (whole if self.order is None else whole[self.order]).reshape(self.shape).contiguous()

    def split(self, whole: Tensor) -> dict[str, Tensor]:
        rows = whole
        if self.order is not None:
            rows = torch.empty_like(whole)
            rows[self.order] = whole
        if self.copies:
            return {name: rows.reshape(shape).clone() for name, shape in self.parts.items()}
        lengths = [shape[0] for shape in self.parts.values()]
        pieces = rows.split(lengths)
        return {
            name: piece.reshape(shape).contiguous()
            for (name, shape), piece in zip(self.parts.items(), pieces, strict=True)
        }


def linear(ours: str, theirs: str, outputs: int, inputs: int) -> list[Entry]:
    return [
        Entry.same(f"{ours}.weight", f"{theirs}.weight", outputs, inputs),
        Entry.same(f"{ours}.bias", f"{theirs}.bias", outputs),
    ]


def from_halves(heads: int, width: int, turned: int) -> Tensor:
    """Row number there of each row here, int64 [heads width]; here rotary pairs are neighbours (RoFormer, equation 34).

    GPT-NeoX and Llama pair coordinate i with i + turned / 2 of the first `turned` rows of a head.
    """
    pairs = torch.arange(turned).view(2, -1).T.flatten()
    of_head = torch.cat([pairs, torch.arange(turned, width)])
    return (width * torch.arange(heads)[:, None] + of_head).flatten()


def elements(entries: list[Entry]) -> int:
    return sum(prod(entry.shape) for entry in entries)


QUANTISED = "quantization_config"
UNQUANTISED = "give the weights as they were before quantisation (float32, bfloat16 or float16)"


class Foreign(ABC):
    """A kind of network in a folder of another package: ``config.json`` beside safetensors."""

    name: ClassVar[str]
    """Its name on the command line."""
    network: ClassVar[str]
    """The class there."""
    weights: ClassVar[str]
    """File of the weights; where they are in parts, their index is named after it."""
    buffers: ClassVar[tuple[str, ...]] = ()
    """Endings of the names of tensors that are computed anew, and not read."""

    @abstractmethod
    def recognises(self, document: Document) -> bool:
        """Whether settings are of this kind of network."""

    @abstractmethod
    def sections(self, document: Document, weights: Weights) -> dict[str, Any]:
        """Sections ``model``, ``data`` and, if need be, ``flow`` of a run with the same network.

        Raises:
            Refusal: a setting has no counterpart here.
        """

    @abstractmethod
    def document(self, config: RunConfig) -> dict[str, Any]:
        """The settings of a run's network as the other package writes them.

        Raises:
            ValueError: the network is none of this kind; names field, value and remedy.
        """

    @abstractmethod
    def entries(self, config: RunConfig) -> list[Entry]:
        """Every tensor of the network of a run that `document` or `sections` has accepted."""


def expect(network: str, **settings: tuple[Any, Any]) -> None:
    """Refuses fields of ``model`` whose (value, wanted value) differ, since `network` there allows only the wanted."""
    for field, (value, wanted) in settings.items():
        if value != wanted:
            shown, use = (str(one).lower() if isinstance(one, bool) else one for one in (value, wanted))
            raise ValueError(
                f"model.{field}: {shown} is nothing that a {network} has; train with model.{field}={use}, or export "
                "without --to"
            )
