"""Writing examples as a folder of shards."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from netsim.foundation.files import replacing
from trainer.data.shard.index import LatentsEntry, ShapedShardEntry, ShardIndex, check_new


class Examples(NamedTuple):
    """Examples that are written together.

    Attributes:
        data: [B, *shape] float32, float16, or uint8 for 8-bit images.
        labels: integers [B] of classes, or None.
        context: [B, C, H, W] what belongs to each example and is not drawn, such as masks, or None; of the types that
            `data` may have.
    """

    data: NDArray[Any]
    labels: NDArray[np.integer] | None = None
    context: NDArray[Any] | None = None

    def rows(self, first: int, end: int) -> "Examples":
        """Returns the examples from `first` to before `end`."""
        labels, context = (None if part is None else part[first:end] for part in (self.labels, self.context))
        return Examples(self.data[first:end], labels, context)


Labelled = tuple[NDArray[Any], NDArray[np.integer] | None]
"""Data [B, *shape] and labels [B], or None."""


def write_shards(
    folder: Path,
    examples: Iterable[Examples | Labelled],
    *,
    num_classes: int = 0,
    class_names: tuple[str, ...] = (),
    shard_examples: int = 4096,
    file_type: Literal["safetensors", "npz"] = "safetensors",
    standardise: bool = False,
    latents: Callable[[], LatentsEntry] | None = None,
    alphabet: str = "",
) -> ShardIndex:
    """Writes a folder that ``data: {kind: shards, path: FOLDER}`` reads, the index last; no more than a shard is held.

    Args:
        folder: to write to; it must not hold an index yet.
        examples: pieces of any length, all of one shape and one type.
        num_classes: labels are 0 to num_classes - 1; 0 without labels.
        class_names: names of the classes 0, 1, ...; empty if they have none.
        shard_examples: examples of each shard but the last.
        standardise: whether readers see each channel with mean 0 and variance 1.
        latents: called when all examples have been taken, returns what they are latents of; None if they are no
            latents.
        alphabet: letters of sequences, whose data are the letters' numbers, uint8 [B, L]; empty for other examples.

    Raises:
        Refusal: the folder holds shards already or cannot be written.
        ValueError: there are no examples, their shapes or types differ, values are not finite, a label is no class,
            or a number is no letter.
    """
    check_new(folder)
    entries: list[ShapedShardEntry] = []
    moments: list[NDArray[np.float64]] = []
    shape, dtype, context_entry = (), "", None
    for data, labels, context in _pieces(examples, shard_examples, num_classes):
        of_context = context if context is None else {"shape": context.shape[1:], "dtype": context.dtype.name}
        if entries and (data.shape[1:], data.dtype.name, of_context) != (shape, dtype, context_entry):
            raise ValueError(
                f"examples: {data.dtype.name} {list(data.shape[1:])} differs from {dtype} {list(shape)} before it; "
                "give examples of one shape and type"
            )
        shape, dtype, context_entry = data.shape[1:], data.dtype.name, of_context
        if alphabet:
            _check_letters(data, alphabet)
        entry = ShapedShardEntry(file=f"shard_{len(entries):05d}.{file_type}", num_examples=len(data))
        arrays = {"data": data, "labels": None if labels is None else labels.astype(np.int64), "context": context}
        save_shard(folder / entry.file, {name: values for name, values in arrays.items() if values is not None})
        entries.append(entry)
        if standardise:
            moments.append(moments_of(data))
    if not entries:
        raise ValueError("examples: there are none; give at least one")
    shape = (len(alphabet), 1, *shape) if alphabet else shape
    said = {"shape": shape, "dtype": dtype, "context": context_entry, "alphabet": alphabet, "shards": entries}
    said |= {"num_classes": num_classes, "class_names": class_names, "latents": latents and latents()}
    if standardise:
        said["shift"], said["scale"] = statistics_of(moments)
    index = ShardIndex.model_validate(said)
    index.write(folder)
    return index


def _check_letters(numbers: NDArray[Any], alphabet: str) -> None:
    if numbers.dtype != np.uint8 or numbers.ndim != 2:
        described = f"{numbers.dtype.name} {list(numbers.shape)}"
        raise ValueError(f"examples: {described} are no sequences of letters; give their numbers, uint8 [B, L]")
    if numbers.size and numbers.max() >= len(alphabet):
        raise ValueError(f"examples: {numbers.max()} is no number of the {len(alphabet)} letters from 0; correct them")


def _pieces(examples: Iterable[Examples | Labelled], length: int, num_classes: int) -> Iterator[Examples]:
    """The examples in pieces of `length`, the last one shorter."""
    waiting: list[Examples] = []
    count = 0
    for one in examples:
        piece = one if isinstance(one, Examples) else Examples(*one)
        data, labels, context = piece
        for name, values in (("examples", data), ("context", context)):
            if values is not None and values.dtype.name not in ("float32", "float16", "uint8"):
                raise ValueError(f"{name}: {values.dtype.name} is not read; give float32, float16 or uint8")
            if values is not None and not np.isfinite(values).all():
                raise ValueError(f"{name}: contain values that are not finite; look at what made them")
        if context is not None and len(context) != len(data):
            raise ValueError(f"context: {len(context)} do not fit {len(data)} examples; give each example one")
        if (labels is None) != (num_classes == 0) or (labels is not None and labels.shape != (len(data),)):
            raise ValueError(f"labels: do not give each example one of {num_classes} classes; give int [B], or None")
        if labels is not None and len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
            raise ValueError(f"labels: {labels.min()} to {labels.max()} exceed the {num_classes} classes from 0")
        waiting.append(piece)
        count += len(data)
        while count >= length:
            joined = _joined(waiting)
            yield joined.rows(0, length)
            waiting, count = [joined.rows(length, count)], count - length
    if count:
        yield _joined(waiting)


def _joined(pieces: list[Examples]) -> Examples:
    columns = {}
    for name in Examples._fields:
        values = columns[name] = [part for one in pieces if (part := getattr(one, name)) is not None]
        kinds = {(one.dtype.name, one.shape[1:]) for one in values if len(one) and name != "labels"}
        if len(kinds) > 1 or len(values) not in (0, len(pieces)):
            names = sorted(kinds, key=str)
            raise ValueError(f"{name}: {names} stand side by side; give examples of one shape and type")
    joined = {name: np.concatenate(values) for name, values in columns.items() if values}
    return Examples(**joined)


def save_shard(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: dict[str, str] | None = None) -> None:
    """Writes a shard of the type that its ending names; npz files have no metadata."""
    with replacing(path) as temporary:
        if path.suffix == ".safetensors":
            save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, temporary, metadata)
            return
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]  the stubs take the keys for allow_pickle


def moments_of(data: NDArray[Any]) -> NDArray[np.float64]:
    """Count, sum and sum of squares of each channel of [B, C, ...]: float64 [3, C], before standardising."""
    values = data.astype(np.float64)
    if data.dtype == np.uint8:
        values = values / 127.5 - 1
    values = np.moveaxis(values, 1, 0).reshape(data.shape[1], -1)
    return np.stack([np.full(len(values), values.shape[1]), values.sum(1), np.square(values).sum(1)])


def statistics_of(moments: list[NDArray[np.float64]]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel from moments [3, C] of parts; 1 in place of a deviation of 0."""
    count, total, squares = np.sum(moments, axis=0)
    mean = total / count
    spread = np.sqrt((squares / count - mean**2).clip(min=0))
    return mean.tolist(), np.where(spread > 0, spread, 1.0).tolist()
