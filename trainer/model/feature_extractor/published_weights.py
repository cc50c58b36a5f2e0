"""Reads tensors of a weights file and checks each of them."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError, safe_open
from torch import Tensor

from netsim.foundation.refusal import Refusal
from trainer.model.feature_extractor.extractor import FLOATING
from trainer.model.feature_extractor.published import INCEPTIONS, LAYOUTS

_PICKLES = (b"PK\x03\x04", b"\x80")
"""What files begin with that ``torch.save`` wrote."""


class PublishedWeights:
    """Tensors of an open file by name, without the prefix of the layout."""

    def __init__(self, path: Path, layout: str, file: Any) -> None:
        self.path, self._layout, self._file = path, layout, file
        prefix = {**LAYOUTS, **INCEPTIONS}[layout].prefix
        self._found = {name.removeprefix(prefix): name for name in file.keys()}  # noqa: SIM118
        self._taken: set[str] = set()

    @classmethod
    @contextmanager
    def opened(cls, path: Path, layout: str) -> Iterator[Self]:
        try:
            file = safe_open(path, framework="pt")
        except (OSError, SafetensorError) as error:
            if isinstance(error, SafetensorError) and _is_pickle(path):
                problem = "is a pickle, which can run any code when it is read"
                raise Refusal(path, "weights", problem, f"convert it once: {_conversion(path)}") from error
            remedy = "give a file that safetensors.torch.save_file wrote"
            raise Refusal(path, "weights", f"cannot be read ({error})", remedy) from error
        with file:
            yield cls(path, layout, file)

    def take(self, name: str, shape: Sequence[int | None]) -> Tensor:
        """Reads one finite tensor as float32 of a shape, in which None is any number from 1."""
        if name not in self._found:
            others = ", ".join(other for other in (*LAYOUTS, *INCEPTIONS) if other != self._layout)
            remedy = f"give a whole file of layout {self._layout}, or another --layout ({others})"
            raise Refusal(self.path, name, "is missing", remedy)
        part = self._file.get_slice(self._found[name])
        present = list(part.get_shape())
        fits = len(present) == len(shape) and all(
            size == wanted or (wanted is None and size > 0) for size, wanted in zip(present, shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            remedy = f"give the weights of a network of layout {self._layout}"
            raise Refusal(self.path, name, f"has shape {present} where [{wanted}] is needed", remedy)
        if part.get_dtype() not in FLOATING:
            raise Refusal(self.path, name, f"is of type {part.get_dtype()}", f"use one of {', '.join(FLOATING)}")
        value: Tensor = self._file.get_tensor(self._found[name]).float()
        if not bool(value.isfinite().all()):
            raise Refusal(self.path, name, "contains values that are not finite", "give the weights as published")
        self._taken.add(name)
        return value

    def optional(self, name: str, shape: Sequence[int | None]) -> Tensor | None:
        return self.take(name, shape) if name in self._found else None

    def has_any_ending(self, ends: tuple[str, ...]) -> bool:
        return any(name.endswith(ends) for name in self._found)

    def pair(self, module: str, shape: Sequence[int | None]) -> tuple[Tensor, Tensor]:
        """Weight and bias of a module; the bias has one value for each row of the weight."""
        weight = self.take(f"{module}.weight", shape)
        return weight, self.take(f"{module}.bias", (weight.shape[0],))

    def num_blocks(self, block: str) -> int:
        """Number of blocks: one more than the highest block number in a name, at least 1."""
        start = re.compile(re.escape(block).replace(r"\{\}", r"(\d{1,4})"))
        matches = (start.match(name) for name in self._found)
        return 1 + max((int(match[1]) for match in matches if match), default=0)

    def check_all_are_used(self, unused: tuple[str, ...]) -> None:
        """Raises if a tensor was never read, unless its name has one of the prefixes `unused`."""
        for name in self._found:
            if name not in self._taken and not name.startswith(unused) and not name.endswith(".num_batches_tracked"):
                problem = f"belongs to no part of a network of layout {self._layout}"
                raise Refusal(self.path, name, problem, "choose the --layout of the file, or a supported model")


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4).startswith(_PICKLES)


def _conversion(path: Path) -> str:
    """A command that writes the tensors of a pickle as safetensors, without running what else may be in it."""
    load = f"torch.load({str(path)!r}, weights_only=True)"
    target = path.with_name(f"{path.stem}{'-converted' * (path.suffix == '.safetensors')}.safetensors")
    code = (
        "import torch; from safetensors.torch import save_file; "
        f"save_file({{name: value.contiguous() for name, value in {load}.items()}}, "
        f"{str(target)!r})"
    )
    return f'python -c "{code}"'
