"""Built-in data sets, which need no files of the user: digits, toy points, bare numbers, Python's own source code."""

import functools
import math
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from moe.seeds import derive_seed, fold_in, uniform
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.data.derived import Imbalance, kept
from trainer.data.files import DataFiles
from trainer.data.picture import Augment, check_augment
from trainer.data.protocol import Batch, Listed, Split, shuffled_splits

NUM_DIGITS = 1797

Rotation = Annotated[Literal[0, 90, 180, 270], Field(exclude_if=lambda degrees: degrees == 0)]
"""Omitted if 0, so that earlier runs keep their identity."""


class DigitsConfig(Section):
    """Real 8x8 grey images of the digits 0 to 9; needs no download.

    Attributes:
        held_out: how many images are kept out of training.
        size: pixels a side; 16 and 32 repeat every pixel 2 and 4 times in each direction.
        augment: flips and crops of the images that are trained on; null: none.
        rotate: degrees that every image is turned by, held-out ones included, against the clock.
        imbalance: fewer training images of later classes; null: all.
    """

    num_classes: ClassVar[int] = 10
    class_names: ClassVar[tuple[str, ...]] = tuple("0123456789")

    kind: Literal["digits"] = "digits"
    held_out: int = Field(default=360, ge=1, le=NUM_DIGITS - 1)
    size: Literal[8, 16, 32] = 8
    augment: Augment = None
    rotate: Rotation = 0
    imbalance: Imbalance = None

    @model_validator(mode="after")
    def _can_be_augmented(self) -> Self:
        check_augment(self.augment, self.shape)
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        return 1, self.size, self.size

    def open(self) -> "Digits":
        return Digits(self)


class Digits(Listed):
    """The test part of the optical handwritten digits (Alpaydin and Kaynak, UCI repository, 1998), scaled to [-1, 1].

    The held-out images are the last of a fixed shuffle, so that a larger `held_out` contains a smaller one.
    """

    num_classes = 10

    def __init__(self, config: DigitsConfig) -> None:
        from sklearn.datasets import load_digits  # nearly a second to import, needed only here

        pixels, labels = load_digits(return_X_y=True)
        images = torch.from_numpy(pixels).to(torch.float32).div(8).sub(1).reshape(NUM_DIGITS, 1, 8, 8)
        images, times = images.rot90(config.rotate // 90, (2, 3)), config.size // 8
        self._images = images.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3)
        self._labels = torch.from_numpy(labels).to(torch.int64)
        self.shape, self.augment = config.shape, config.augment
        splits = shuffled_splits(NUM_DIGITS, config.held_out)
        train = kept(config.imbalance, splits["train"], self._labels[splits["train"]], self.num_classes)
        self.splits = {**splits, "train": train}

    def get(self, indices: Tensor) -> Batch:
        return Batch(self._images[indices], self._labels[indices], indices)


FIRST_HELD_OUT = 2**62


def numbered_splits(num: int, held_out: int) -> dict[Split, Tensor]:
    """Returns the ids of examples that are computed from their id: training ids from 0, held-out ids from 2**62 on."""
    return {"train": torch.arange(num), "held_out": torch.arange(FIRST_HELD_OUT, FIRST_HELD_OUT + held_out)}


class ToyConfig(Section):
    """Points in the plane, within about [-2, 2] in each direction."""

    shape: ClassVar[tuple[int]] = (2,)
    class_names: ClassVar[tuple[str, ...]] = ()

    kind: Literal["toy"] = "toy"
    name: Literal["moons", "rings", "spirals", "checkerboard", "eight_gaussians", "swiss_roll"] = "moons"
    """Name of the set of points."""
    num_examples: PositiveInt | None = None
    """Points to train on; null: every training example is a new point."""
    held_out: PositiveInt = 1000
    """Points that are kept out of training."""
    classes: bool = False
    """Label each point with the part that it belongs to: moon, ring, arm, square or blob."""
    seed: NonNegativeInt = Field(default=0, lt=2**63)
    """Seed of the points, which are the same for every seed of the run."""

    @property
    def endless(self) -> bool:
        return self.num_examples is None

    @property
    def num_classes(self) -> int:
        return TOY_SETS[self.name].parts if self.classes else 0

    def open(self) -> "Toy":
        return Toy(self)


class Toy(Listed):
    """Points, each a function of (name, seed, id)."""

    shape = (2,)

    def __init__(self, config: ToyConfig) -> None:
        self.num_classes = config.num_classes
        self.endless = config.num_examples is None
        self._set = TOY_SETS[config.name]
        self._key = torch.tensor(derive_seed("toy", config.name, config.seed))
        self.splits = numbered_splits(config.num_examples or 0, config.held_out)

    def get(self, indices: Tensor) -> Batch:
        keys = fold_in(self._key, indices)
        which, along, across, *normal = (uniform(fold_in(keys, counter)) for counter in range(5))
        part = (which * self._set.parts).long()
        clean = self._set.curve(part.double(), along, across)
        radius = (-2 * torch.log1p(-normal[0])).sqrt()  # Box and Muller, 1958
        gaussian = torch.stack([radius * (math.tau * normal[1]).cos(), radius * (math.tau * normal[1]).sin()], dim=1)
        points = (clean + self._set.spread * gaussian).float()
        return Batch(points, part if self.num_classes else None, indices)


def _polar(radius: Tensor, angle: Tensor) -> Tensor:
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)


def _moons(part: Tensor, along: Tensor, _: Tensor) -> Tensor:
    """Two half circles of radius 1.5, each reaching into the other, symmetric about the origin."""
    upper = 1.5 * (_polar(torch.ones_like(along), math.pi * along) - torch.tensor([0.5, 0.25]))
    return upper * (1 - 2 * part)[:, None]


def _rings(part: Tensor, along: Tensor, _: Tensor) -> Tensor:
    """Circles of radius 1 and 2."""
    return _polar(1 + part, math.tau * along)


def _spirals(part: Tensor, along: Tensor, _: Tensor) -> Tensor:
    """Two arms of r = 2 angle / (3 pi), a turn and a half each, evenly filled by area."""
    angle = 3 * math.pi * along.sqrt()
    return _polar(2 * along.sqrt(), angle + math.pi * part)


def _checkerboard(part: Tensor, along: Tensor, across: Tensor) -> Tensor:
    """The dark squares of a board of 4 x 4 on [-2, 2] x [-2, 2]."""
    row = (part / 2).floor()
    column = 2 * (part % 2) + row % 2
    return torch.stack([column + along, row + across], dim=1) - 2


def _eight_gaussians(part: Tensor, *_: Tensor) -> Tensor:
    """Blobs on a circle of radius 2."""
    return _polar(torch.full_like(part, 2.0), part * math.pi / 4)


def _swiss_roll(_: Tensor, along: Tensor, __: Tensor) -> Tensor:
    """One arm of r = angle / (2.25 pi), from angle 1.5 pi to 4.5 pi."""
    angle = 1.5 * math.pi * (1 + 2 * along)
    return _polar(angle / (2.25 * math.pi), angle)


class ToySet(NamedTuple):
    """A set of points: number of its parts, all equally likely, and deviation of the points from the curve."""

    parts: int
    spread: float
    curve: Callable[[Tensor, Tensor, Tensor], Tensor]
    """From part and two numbers in [0, 1), each float64 [B], to the points before spread [B, 2]."""


TOY_SETS = {
    "moons": ToySet(2, 0.08, _moons),
    "rings": ToySet(2, 0.08, _rings),
    "spirals": ToySet(2, 0.08, _spirals),
    "checkerboard": ToySet(8, 0.0, _checkerboard),
    "eight_gaussians": ToySet(8, 0.2, _eight_gaussians),
    "swiss_roll": ToySet(1, 0.08, _swiss_roll),
}


class NumbersConfig(Section):
    """Examples that are their own numbers: 0, 1, 2, ... without end, each dealt once."""

    shape: ClassVar[tuple[int]] = (1,)
    num_classes: ClassVar[int] = 0
    class_names: ClassVar[tuple[str, ...]] = ()

    kind: Literal["numbers"] = "numbers"
    held_out: PositiveInt = 256
    """Numbers that are kept out of training."""

    def open(self) -> "Numbers":
        return Numbers(self)


class Numbers(Listed):
    """Examples int64 [1] that hold only their own id, which a task uses as the key of its random draws."""

    shape = (1,)
    num_classes = 0
    endless = True

    def __init__(self, config: NumbersConfig) -> None:
        self.splits = numbered_splits(0, config.held_out)

    def get(self, indices: Tensor) -> Batch:
        return Batch(indices[:, None], None, indices)


TESTS = frozenset({"test", "tests", "idle_test"})
TABLES = frozenset({"encodings", "pydoc_data"})
OFTEN_ABSENT = frozenset({"distutils", "ensurepip", "idlelib", "lib2to3", "tkinter", "turtle", "turtledemo", "venv"})


class PythonSourceConfig(Section):
    """Windows of the standard library that runs the trainer, about 7.6 MB; needs no download.

    Attributes:
        context: bytes of a window that are predicted; the byte before them is the first that is read.
        held_out: bytes kept out of training, from files that training never sees.
        max_bytes: bytes to train on at most; null: all.
    """

    num_classes: ClassVar[int] = 0
    class_names: ClassVar[tuple[str, ...]] = ()
    vocabulary: ClassVar[int] = 256
    bytes_per_token: ClassVar[float] = 1.0

    kind: Literal["python_source"] = "python_source"
    context: PositiveInt = 256
    held_out: PositiveInt = 100_000
    max_bytes: PositiveInt | None = None

    @property
    def shape(self) -> tuple[int]:
        return (self.context + 1,)

    @model_validator(mode="after")
    def _each_part_holds_a_window(self) -> Self:
        for field, size in (("held_out", self.held_out), ("max_bytes", self.max_bytes)):
            if size is not None and size <= self.context:
                problem = f"{size} bytes hold no window of context {self.context} and one"
                raise ValueError(f"{field}: {problem}; use at least {self.context + 1}")
        return self

    def open(self) -> "PythonSource":
        return PythonSource(self)


class PythonSource(Listed):
    """Windows of bytes of source code; after the first of a split, each begins with the last byte of the one before.

    Files are ordered by a function of their names alone. The first ones are held out, so that a larger `held_out`
    contains a smaller one.
    """

    num_classes = 0

    def __init__(self, config: PythonSourceConfig) -> None:
        self.shape, context, held_out = config.shape, config.context, config.held_out
        library = Path(sysconfig.get_path("stdlib"))
        self.files = (DataFiles(library, [*_sources(library)]),)
        sizes = [len(source) for source in _sources(library).values()]
        kept_out = int(np.searchsorted(np.cumsum(sizes), held_out)) + 1
        border = sum(sizes[:kept_out])
        end = min(sum(sizes), border + (config.max_bytes or sum(sizes)))
        if end - border <= context:
            problem = f"leaves {end - border} of its {sum(sizes):,} bytes of sources to training ({held_out})"
            remedy = "hold out less, or use a Python that was installed with its sources"
            raise Refusal(library, "data.held_out", problem, remedy)
        self._bytes = np.frombuffer(b"".join(_sources(library).values()), dtype=np.uint8)
        starts = [np.arange(border, end - context, context), np.arange(0, held_out - context, context)]
        self._starts = np.concatenate(starts)
        train, held = torch.arange(len(self._starts)).split([len(part) for part in starts])
        self.splits = {"train": train, "held_out": held}

    def get(self, indices: Tensor) -> Batch:
        places = self._starts[indices.numpy()][:, None] + np.arange(*self.shape)
        return Batch(torch.from_numpy(self._bytes[places].astype(np.int64)), None, indices)


@functools.cache
def _sources(library: Path) -> dict[str, bytes]:
    """Returns the source files that every installation of this version has, by path in the library, in fixed order."""
    modules = sys.stdlib_module_names - TABLES - OFTEN_ABSENT
    files = [
        path.relative_to(library)
        for module in modules
        for path in (library / f"{module}.py", *(library / module).rglob("*.py"))
        if path.is_file()
    ]
    names = [path.as_posix() for path in files if not TESTS & set(path.parts)]
    return {name: (library / name).read_bytes() for name in sorted(names, key=lambda name: derive_seed("file", name))}
