"""Pictures in WebDataset tar files, local or reached through fsspec, read as a stream."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from netsim.foundation.picture_file import read_picture
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.data.files import DataFiles, found_once
from trainer.data.picture import Augment, check_augment, scaled
from trainer.data.protocol import BadExamples, Batch, Listed, Split, check_left, shuffled_splits
from trainer.data.shard.index import check_held_out, completed
from trainer.data.shards import check_same
from trainer.data.tar.files import find_tars, local_path, names_of
from trainer.data.tar.index import Example, TarIndex, TarReader, check_tars, read_class_names


def streamed_order(
    stretches: Sequence[NDArray[np.int64]], *, seed: int, epoch: int, global_batch: int, streams: int, shuffle: int
) -> NDArray[np.int64]:
    """Orders the ids in each tar so that each rank reads a few tars from front to back: int64 [N], whatever the ranks.

    The tars are shuffled and laid end to end in a circle, which is cut at a random place and then into S = `streams`
    pieces of equal length (S at most G, the global batch), so that neighbours part from epoch to epoch. Inside a
    stream, runs of `shuffle` neighbours are shuffled among each other. Example j of the G of a step is one of stream
    floor(j S / G), and example k of an epoch is number (epoch * N + k) % G of its step. Ranks take consecutive parts of
    the global batch, so rank r of W reads the streams from r S / W to (r + 1) S / W alone, from beginning to end. Where
    S is at least W, each byte is read once, else ranks share streams. WebDataset's shuffles are of this kind, with a
    stream a worker.
    """
    generator = np.random.default_rng([seed, epoch])
    line = np.concatenate([stretches[tar] for tar in generator.permutation(len(stretches))])
    line = np.roll(line, generator.integers(len(line)))
    streams = min(streams, global_batch, 2**16)
    stream = ((epoch * len(line) + np.arange(len(line))) % global_batch * streams // global_batch).astype(np.uint16)
    lengths = np.bincount(stream, minlength=streams)
    place = np.arange(len(line)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    runs = np.cumsum(place % shuffle == 0)
    shuffled = line[np.argsort(runs + generator.random(len(line)), kind="stable")]
    order = np.empty_like(line)
    order[np.argsort(stream, kind="stable")] = shuffled
    return order


IMAGES = ("jpg", "jpeg", "png", "webp")


class WebDatasetConfig(Section):
    """Pictures in tars, cut to their middle square, made `size` pixels a side and scaled to [-1, 1].

    The verb index-tars reads the tars once before the first run.
    """

    kind: Literal["webdataset"]
    path: str | tuple[str, ...]
    """Tars: a folder, a pattern such as ``train-{000000..000146}.tar``, URLs that fsspec reads, or a list of them."""
    index: Path
    """Folder that the index-tars verb wrote for the tars."""
    size: PositiveInt
    """Pixels a side of a picture."""
    channels: Literal[1, 3] = 3
    """1: grey, 3: red, green and blue."""
    held_out: PositiveInt
    """Examples that are kept out of training."""
    image: Annotated[tuple[str, ...], Field(min_length=1)] = IMAGES
    """Extensions of members that are the picture; the first that an example has is read."""
    streams: PositiveInt = 64
    """Places of the data set that a step reads side by side; with more ranks than that, bytes are read repeatedly."""
    shuffle: PositiveInt = 64
    """Neighbours in a stream that are shuffled among each other."""
    augment: Augment = None
    """Flips and crops of the pictures that are trained on; null: none."""
    num_classes: NonNegativeInt
    """Number of classes; left out: what the index says."""
    class_names: tuple[str, ...]
    """Names of the classes 0, 1, ..., or a text file with one a line; left out: what the index says."""
    digest: str
    """Digest of the index, so that a run resumes with the data it began with; left out: taken from it."""

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    @property
    def patterns(self) -> tuple[str, ...]:
        return (self.path,) if isinstance(self.path, str) else self.path

    def caution(self, ranks: int) -> str | None:
        """Returns a warning if `ranks` fetch the same bytes; None: each byte is fetched about once an epoch."""
        if ranks <= self.streams or all(local_path(pattern) is not None for pattern in self.patterns):
            return None
        times = -(-ranks // self.streams)
        return f"data.streams: each byte is fetched up to {times} times an epoch by {ranks} ranks; set {ranks} or more"

    @model_validator(mode="after")
    def _can_be_augmented_and_named(self) -> Self:
        check_augment(self.augment, self.shape)
        if self.class_names and len(self.class_names) != self.num_classes:
            problem = f"{len(self.class_names)} names do not fit the {self.num_classes} classes"
            raise ValueError(f"class_names: {problem}; give as many, or none")
        return self

    @classmethod
    def resolved(cls, document: dict[str, Any]) -> dict[str, Any]:
        if isinstance(document.get("image"), str):
            document = {**document, "image": tuple(name.strip(" .").lower() for name in document["image"].split(";"))}
        if isinstance(document.get("class_names"), str | Path):
            document = {**document, "class_names": read_class_names(Path(document["class_names"]))}
        said = ("num_classes", "class_names", "digest")
        if all(document.get(name) is not None for name in said):
            return document
        if not isinstance(document.get("index"), str | Path):
            path = document.get("path", "PATH")
            made = f"make it with: python -m trainer index-tars '{path}' --out DIR"
            raise ValueError(f"index: is missing; {made}, and give DIR")
        index = TarIndex.at_path(document, said, "index")
        assert index is not None
        image = document.get("image", IMAGES)
        wanted = set(image) if isinstance(image, list | tuple) else set()
        if wanted and not any(wanted & set(entry.extensions) for entry in index.members):
            problem = f"no example has a member {', '.join(image)} ({index.extensions()})"
            raise ValueError(f"image: {problem}; give one of these")
        check_held_out(document, index.num_examples)
        return completed(document, {name: getattr(index, name) for name in said})

    def open(self) -> "WebDataset":
        return WebDataset(self)


class WebDataset(Listed):
    """Pictures in tars; the index says where each is, so that a step reads its examples and no others.

    The last of a fixed shuffle are held out, so that a larger held-out part contains a smaller one; streams skip them.
    Raises Refusal if index or tars have changed, Unreachable if a server does not answer.
    """

    def __init__(self, config: WebDatasetConfig) -> None:
        self.shape, self.num_classes = config.shape, config.num_classes
        self._config, self.augment = config, config.augment
        index = TarIndex.read(config.index)
        check_same(config.index, index, config, ("digest", "num_classes"))
        check_left(config.index, index.num_examples, config.held_out)
        urls = _tars(config, index)
        # Nodes may have copies of local tars; those of a server are the same for all.
        shared = config.index if all(local_path(url) is None for url in urls) else None
        found_once(f"{config.index}: tars of {index.digest}", lambda: check_tars(config.index, index, urls), shared)
        local = [path for url in urls if (path := local_path(url)) is not None]
        if local:
            folder = Path(os.path.commonpath([Path(path).absolute().parent for path in local]))
            names = [Path(path).absolute().relative_to(folder).as_posix() for path in local]
            self.files = (DataFiles(folder, names),)
        self.splits = shuffled_splits(index.num_examples, config.held_out)
        self._dealt = np.ones(index.num_examples, np.bool_)
        self._dealt[self.splits["held_out"].numpy()] = False
        self._reader = TarReader(config.index, index, urls, self._dealt, streams=config.streams, shuffle=config.shuffle)

    def order(self, split: Split, *, seed: int, epoch: int, global_batch: int) -> Tensor:
        """Returns the order of an epoch; the training part is read as streams, by :func:`streamed_order`."""
        if split == "held_out":
            return super().order(split, seed=seed, epoch=epoch, global_batch=global_batch)
        dealt_before = np.concatenate([[0], np.cumsum(self._dealt)])
        order = streamed_order(
            np.split(np.flatnonzero(self._dealt), dealt_before[self._reader.tars.ends[:-1]]),
            seed=seed,
            epoch=epoch,
            global_batch=global_batch,
            streams=self._config.streams,
            shuffle=self._config.shuffle,
        )
        return torch.from_numpy(order)

    def read(self, indices: Tensor) -> list[Example]:
        """Reads examples by id, all members of each; raises BadExamples, Refusal and Unreachable."""
        examples, reasons = self._reader.read(indices.tolist())
        if reasons:
            raise BadExamples(reasons)
        return [examples[number] for number in indices.tolist()]

    def get(self, indices: Tensor) -> Batch:
        examples, reasons = self._reader.read(indices.tolist())
        labels = torch.from_numpy(self._reader.labels[indices.numpy()].astype(np.int64))
        images = []
        for number, label in zip(indices.tolist(), labels.tolist(), strict=True):
            if number in reasons:
                continue
            try:
                if self.num_classes and label < 0:
                    raise ValueError("has no class")
                images.append(self._picture(examples[number]))
            except ValueError as error:
                reasons[number] = f"{self._reader.where(number)}: {examples[number].key}: {error}"
        if reasons:
            raise BadExamples(reasons)
        return Batch(scaled(images), labels if self.num_classes else None, indices)

    def _picture(self, example: Example) -> Any:
        content = next((example.members[name] for name in self._config.image if name in example.members), None)
        if content is None:
            has = ", ".join(example.members)
            raise ValueError(f"has no member {' or '.join(self._config.image)}, only {has}")
        return read_picture(io.BytesIO(content), *self.shape)


def _tars(config: WebDatasetConfig, index: TarIndex) -> list[str]:
    where = "::".join(config.patterns)
    try:
        urls: list[str] = found_once(f"{where}: tars", lambda: find_tars(config.patterns))
    except ValueError as error:
        raise Refusal(where, "data.path", str(error).removeprefix("path: "), "") from error
    names, known = names_of(urls), [tar.name for tar in index.tars]
    if names != known:
        problem = f"names {len(names)} tars, from {names[0]} to {names[-1]}, but the index {config.index} knows "
        numbers = f"{len(known)}, from {known[0]} to {known[-1]}"
        raise Refusal(where, "data.path", problem + numbers, "correct data.path or data.index, or make another index")
    return urls
