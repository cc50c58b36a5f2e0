"""Indexes of folders of shards: examples, latents, pairs."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import Field, JsonValue, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from netsim.foundation.complaint import complaining
from netsim.foundation.documents import parse_json
from netsim.foundation.files import write_text
from netsim.foundation.refusal import Refusal, prefixed
from netsim.foundation.settings import Section

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "held_out")
LISTED = 20

ClassNames = Annotated[tuple[str, ...], Field(exclude_if=lambda names: not names)]
"""Names of the classes 0, 1, ...; empty: none. Omitted if empty, so that older files keep their digests."""
Alphabet = Annotated[str, Field(exclude_if=lambda letters: not letters)]
"""Omitted if empty, so that older files keep their digests."""


def check_class_names(names: tuple[str, ...], num_classes: int) -> None:
    """Refuses class names that are not one for each class; giving no names is allowed."""
    if len(names) not in (0, num_classes):
        raise ValueError(f"class_names: {len(names)} names do not fit {num_classes} classes; name each class once")


def listed(names: tuple[str, ...]) -> str:
    """Number of classes and their names in order; of many, the first and the last."""
    shown = names if len(names) <= LISTED else (*names[: LISTED - 1], "...", names[-1])
    return f"{len(names)} ({', '.join(shown)})"


S = TypeVar("S", bound=tuple[int, ...])


def largest(shapes: Sequence[S]) -> S:
    """Returns the shape with the most values; of equal ones the first."""
    return max(shapes, key=math.prod)


INDEX = "index.json"
REMEDY = (
    "write the folder again (latents: python -m trainer encode, pairs: python -m trainer pairs, a stage's: delete the "
    "folder and start the same command again)"
)


class FolderIndex(Section):
    """index.json, which says what a folder holds and is written last."""

    remedy: ClassVar[str] = REMEDY
    remedy_of_absence: ClassVar[str] = f"give a folder of shards, or {REMEDY}"

    @property
    def digest(self) -> str:
        """Digest of everything that the index says."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads the index of a folder; refuses one that is missing or malformed."""
        path = folder / INDEX
        try:
            document = parse_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise Refusal(path, "index", f"cannot be read ({error.strerror})", cls.remedy_of_absence) from error
        except ValueError as error:
            raise Refusal(path, "index", f"is not JSON ({error})", cls.remedy) from error
        with complaining(path, cls.remedy):
            return cls.model_validate(document)

    @classmethod
    def at_path(cls, document: dict[str, Any], names: Sequence[str] = (), key: str = "path") -> Self | None:
        """Reads the index at the path in a user's section; None without a path, or if all of given `names` are set."""
        complete = names and all(document.get(name) is not None for name in names)
        if complete or not isinstance(document.get(key), str | Path):
            return None
        with prefixed(f"{key}: "):
            return cls.read(Path(document[key]))

    def write(self, folder: Path) -> None:
        """Puts the index into a folder whose other files are complete."""
        write_text(folder / INDEX, self.model_dump_json(indent=1) + "\n")


def check_new(folder: Path) -> None:
    """Refuses a folder that has an index already."""
    if (folder / INDEX).exists():
        raise Refusal(folder / INDEX, "output", "already exists", "give another folder, or delete this one")


def check_held_out(document: dict[str, Any], num_examples: int, noun: str = "examples") -> None:
    """Refuses a user's section that holds out all of its examples."""
    held_out = document.get("held_out")
    if isinstance(held_out, int) and held_out >= num_examples:
        raise ValueError(f"held_out: {held_out} of {num_examples} {noun} leave none to train on; hold out fewer")


def completed(document: dict[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a user's section with the fields that it leaves out filled in from `facts`."""
    return {**document, **{name: value for name, value in facts.items() if document.get(name) is None}}


def resolved_inside(field: str, section: Any, kinds: Mapping[str, Any]) -> Any:
    """Returns a section inside a user's, with the fields that it leaves out filled in by the class of its kind."""
    resolved = getattr(kinds.get(str(section.get("kind"))), "resolved", None) if isinstance(section, dict) else None
    with prefixed(f"{field}."):
        return section if resolved is None else resolved(section)


OwnShape = Annotated[tuple[PositiveInt, PositiveInt, PositiveInt] | None, Field(exclude_if=lambda shape: shape is None)]
"""Omitted if None, so that older files keep their digests."""


class ShardEntry(Section):
    """One shard."""

    file: Annotated[str, Field(pattern=r"^[\w-][\w.-]*\.(npz|safetensors)$")]
    """Its name in the folder."""
    num_examples: PositiveInt


class ShapedShardEntry(ShardEntry):
    """One shard of examples, which may have a shape of their own."""

    shape: OwnShape = None
    """(C, H, W) of its images; left out: that of the index."""


class LatentsEntry(Section):
    """What makes the shards of an index latents of images.

    An example is a Gaussian: the means of Z channels, then the logarithms of their variances.
    """

    autoencoder: Annotated[str, Field(pattern=r"^[\w-]+$")]
    """Folder inside that of the index with the network that made the latents and makes images of them."""
    image_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    """(C, H, W) of an image."""
    shift: tuple[float, ...]
    """Mean of each of the Z channels."""
    scale: tuple[PositiveFloat, ...]
    """Standard deviation of each of the Z channels, that of the Gaussians included."""


class ContextEntry(Section):
    """What belongs to each example and is not drawn, such as a mask: the key ``context`` of each shard.

    Bytes are brought from 0..255 to [-1, 1].
    """

    shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    """(C, H, W) of an example's context."""
    dtype: Literal["float32", "float16", "uint8"]


class ShardIndex(FolderIndex):
    """index.json: the shards in their order, and how to read what they hold.

    A shard has the key ``data``, [num_examples, *shape], where there are classes ``labels``, integers [num_examples],
    and where examples have one ``context``. What a network sees is (data - shift) / scale; bytes are first brought from
    0..255 to [-1, 1]. With an alphabet ``data`` are numbers of letters, uint8 [num_examples, L], which a network sees
    one-hot.
    """

    format: Literal["flowfabric.shards/1"] = "flowfabric.shards/1"
    shape: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    """Shape of an example: (C, H, W) or (D,). Where images have several shapes, the largest. For letters (V, 1, L)."""
    dtype: Literal["float32", "float16", "uint8"]
    """Number format of the data in every shard."""
    num_classes: NonNegativeInt
    """Labels are 0 to num_classes - 1; 0: there are none."""
    class_names: ClassNames = ()
    """Names of the classes 0, 1, ...; left out: they have none."""
    shift: tuple[float, ...] | None = None
    """Mean of each channel."""
    scale: tuple[PositiveFloat, ...] | None = None
    """Standard deviation of each channel."""
    latents: LatentsEntry | None = None
    """Description of the latents, if the examples are latents of images; None: they are no latents."""
    context: Annotated[ContextEntry | None, Field(exclude_if=lambda entry: entry is None)] = None
    """The context of each example; left out: examples have none."""
    alphabet: Alphabet = ""
    """Letters of the numbers 0, 1, ...; left out: the data are no letters."""
    shards: Annotated[tuple[ShapedShardEntry, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _statistics_fit_the_shape(self) -> Self:
        check_class_names(self.class_names, self.num_classes)
        for name, values in (("shift", self.shift), ("scale", self.scale)):
            if values is not None and len(values) != self.shape[0]:
                raise ValueError(f"{name}: {len(values)} values do not fit the {self.shape[0]} channels; {REMEDY}")
        if len(set(self.alphabet)) < len(self.alphabet):
            raise ValueError(f"alphabet: {self.alphabet} has a letter twice; {REMEDY}")
        if self.alphabet and (
            len(self.shape) != 3 or self.shape[:2] != (len(self.alphabet), 1) or self.dtype != "uint8"
        ):
            problem = f"{len(self.alphabet)} letters do not fit {self.dtype} {list(self.shape)}"
            raise ValueError(f"alphabet: {problem}; {REMEDY}")
        if self.latents is not None:
            numbers = len(self.latents.shift), len(self.latents.scale)
            if len(self.shape) != 3 or any(2 * number != self.shape[0] for number in numbers):
                problem = f"statistics of {numbers[0]} and {numbers[1]} channels do not fit Gaussians over half of"
                raise ValueError(f"latents: {problem} {list(self.shape)}; encode the images again")
        if len(self.shapes) > 1:
            if self.latents is not None or any(len(one) != 3 or one[0] != self.shape[0] for one in self.shapes):
                raise ValueError(f"shards: only images of equal channels may have several shapes; {REMEDY}")
            if self.shape != largest(self.shapes):
                raise ValueError(f"shape: {list(self.shape)} is not that of the largest images; {REMEDY}")
            if self.context is not None:
                raise ValueError(f"context: goes with images of one shape, and these have {len(self.shapes)}; {REMEDY}")
        files = [shard.file for shard in self.shards]
        if len(set(files)) < len(files):
            raise ValueError(f"shards: {next(f for f in files if files.count(f) > 1)} is given twice; {REMEDY}")
        return self

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the examples, each once, in the order of the shards."""
        return tuple(dict.fromkeys(shard.shape or self.shape for shard in self.shards))

    @property
    def num_examples(self) -> int:
        return sum(shard.num_examples for shard in self.shards)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of an example in a shard whose entry gives none."""
        return self.shape[2:] if self.alphabet else self.shape

    @property
    def context_shape(self) -> tuple[int, int, int] | None:
        return self.context and self.context.shape


def index_schema() -> dict[str, Any]:
    """configs/schemas/shards.schema.json: what an index may say, as far as JSON Schema can tell."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | ShardIndex.model_json_schema()


class PairIndex(FolderIndex):
    """index.json: the shards in their order, and what they hold.

    A shard has the keys ``x_0`` and ``x_1``, [num_examples, *shape], where there are classes ``labels``, int64
    [num_examples], and where pairs are parts of paths ``interval``, float32 [num_examples, 2]: the times of both.
    """

    format: Literal["flowfabric.pairs/1"] = "flowfabric.pairs/1"
    shape: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    """Shape of a source point, and of a data point."""
    dtype: Literal["float32", "float16"]
    """Number format of source and data points in every shard."""
    num_classes: NonNegativeInt
    """Labels are 0 to num_classes - 1; 0: there are none."""
    class_names: ClassNames = ()
    """Names of the classes 0, 1, ...; left out: they have none."""
    segments: PositiveInt | None = None
    """Number of equal parts into which paths were cut, each pair holding the ends of one; null: paths are whole."""
    nodes: tuple[float, ...] | None = None
    """Times from 0 to 1 at which paths were cut, each pair holding two neighbouring states; null: at none."""
    data_scale: PositiveFloat = 1.0
    """Factor of the teacher's states between noise and data, where pairs are parts of paths: the `x_0` are such states,
    and the `x_1` are divided by it."""
    latents: str | None = None
    """Digest of the folder of latents whose autoencoder makes images of both points; null: they are no latents."""
    made_by: dict[str, JsonValue]
    """What decides every value: the digest of the teacher's weights, its sampler and guidance, the seed; `source`: the
    configuration of the data set that paths begin at, where they do not begin at noise."""
    shards: Annotated[tuple[ShardEntry, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_fit_the_classes(self) -> Self:
        check_class_names(self.class_names, self.num_classes)
        return self

    @property
    def num_examples(self) -> int:
        return sum(shard.num_examples for shard in self.shards)

    @property
    def source(self) -> JsonValue:
        """Configuration of the data set that paths begin at; None if they begin at noise."""
        return self.made_by.get("source")

    @property
    def digest(self) -> str:
        """Digest of everything in the index, without a `data_scale` of 1 and without null `nodes` and `latents`."""
        unsaid = {"data_scale": self.data_scale == 1, "nodes": self.nodes is None, "latents": self.latents is None}
        said = self.model_dump_json(exclude={name for name, left_out in unsaid.items() if left_out})
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    @property
    def arrays(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape of a row and type of each array of a shard."""
        shapes: dict[str, tuple[tuple[int, ...], str]] = dict.fromkeys(("x_0", "x_1"), (self.shape, self.dtype))
        if self.num_classes:
            shapes["labels"] = ((), "int64")
        if self.segments is not None or self.nodes is not None:
            shapes["interval"] = ((2,), "float32")
        return shapes
