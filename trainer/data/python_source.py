"""The sources of Python's own standard library as bytes."""

from __future__ import annotations

import functools
import sys
import sysconfig
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor

from moe.seeds import derive_seed
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.data.content import DataFiles
from trainer.data.protocol import Batch, Dataset, Split

TESTS = frozenset({"test", "tests", "idle_test"})
TABLES = frozenset({"encodings", "pydoc_data"})
OFTEN_ABSENT = frozenset({"distutils", "ensurepip", "idlelib", "lib2to3", "tkinter", "turtle", "turtledemo", "venv"})


class PythonSourceConfig(Section):
    """Windows of the standard library that runs the trainer, about 7.6 MB; needs no download.

    Attributes:
        context: bytes of a window that are predicted; the byte before them is the first that is read.
        held_out: bytes kept out of training, from files that training never sees.
        max_bytes: bytes of training at most; None: all.
    """

    kind: Literal["python_source"] = "python_source"
    context: PositiveInt = 256
    held_out: PositiveInt = 100_000
    max_bytes: PositiveInt | None = None

    @property
    def shape(self) -> tuple[int]:
        """(context + 1,), known before the data set is loaded."""
        return (self.context + 1,)

    @property
    def num_classes(self) -> int:
        """Text has no labels."""
        return 0

    @property
    def class_names(self) -> tuple[str, ...]:
        """Text has no labels."""
        return ()

    @property
    def vocabulary(self) -> int:
        """Tokens are the values of a byte."""
        return 256

    @property
    def bytes_per_token(self) -> float:
        """A token is a byte."""
        return 1.0

    @model_validator(mode="after")
    def _each_part_holds_a_window(self) -> PythonSourceConfig:
        for field, size in (("held_out", self.held_out), ("max_bytes", self.max_bytes)):
            if size is not None and size <= self.context:
                raise ValueError(
                    f"{field}: {size} bytes hold no window of context {self.context} and one; "
                    f"use at least {self.context + 1}"
                )
        return self


class PythonSource(Dataset):
    """Windows of bytes; each but the first of its part begins with the last byte of the one before.

    The files stand in an order that is a function of their names alone. The first ones are held out, so that a larger
    `held_out` contains a smaller one, and training reads the files after them.

    Raises:
        Refusal: if the library has too few sources.
    """

    num_classes = 0

    def __init__(self, context: int, held_out: int, max_bytes: int | None) -> None:
        self.shape = (context + 1,)
        library = Path(sysconfig.get_path("stdlib"))
        self.files = (DataFiles(library, [*_sources(library)]),)
        sizes = [len(source) for source in _sources(library).values()]
        kept_out = int(np.searchsorted(np.cumsum(sizes), held_out)) + 1
        border = sum(sizes[:kept_out])
        end = border + (sum(sizes[kept_out:]) if max_bytes is None else min(max_bytes, sum(sizes[kept_out:])))
        if end - border <= context:
            raise Refusal(
                library,
                "data.held_out",
                f"leaves {end - border} of its {sum(sizes):,} bytes of sources to training ({held_out})",
                "hold out less, or use a Python that was installed with its sources",
            )
        self._bytes = np.frombuffer(b"".join(_sources(library).values()), dtype=np.uint8)
        starts = [np.arange(border, end - context, context), np.arange(0, held_out - context, context)]
        self._starts = np.concatenate(starts)
        train, held = torch.arange(len(self._starts)).split([len(part) for part in starts])
        self._splits: dict[Split, Tensor] = {"train": train, "held_out": held}

    def indices(self, split: Split) -> Tensor:
        return self._splits[split]

    def get(self, indices: Tensor) -> Batch:
        places = self._starts[indices.numpy()][:, None] + np.arange(*self.shape)
        return Batch(torch.from_numpy(self._bytes[places].astype(np.int64)), None, indices)


@functools.cache
def _sources(library: Path) -> dict[str, bytes]:
    """Sources of the library by path below it, in the fixed order.

    Left out are tests, tables that programs wrote, what some distributions of Python split off, and whatever does not
    belong to the library of every installation of this version.
    """
    modules = sys.stdlib_module_names - TABLES - OFTEN_ABSENT
    found = [
        path.relative_to(library)
        for module in modules
        for path in (library / f"{module}.py", *(library / module).rglob("*.py"))
        if path.is_file()
    ]
    names = [path.as_posix() for path in found if not TESTS & set(path.parts)]
    return {name: (library / name).read_bytes() for name in sorted(names, key=lambda name: derive_seed("file", name))}
