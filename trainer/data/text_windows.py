"""Windows of the tokens of a folder that ``trainer encode-text`` wrote, and the tokenizer of a run on them."""

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from netsim.foundation.files import reading
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.data.files import DataFiles, found_once
from trainer.data.protocol import Batch, Dataset
from trainer.data.shard.file import NumberedFiles
from trainer.data.shard.index import SPLITS, Split, completed
from trainer.data.shards import check_same
from trainer.data.text.tokens import (
    NUMPY_TYPES,
    TOKENIZER,
    TextIndex,
    TextSplit,
    Tokenizer,
    read_tokenizer,
    sha256_of,
    tokenizer_content,
)


class TextConfig(Section):
    """Your own text: a folder that `python -m trainer encode-text` wrote; only its index is read at start."""

    num_classes: ClassVar[int] = 0
    class_names: ClassVar[tuple[str, ...]] = ()

    kind: Literal["text"]
    path: Path
    """The folder, with its index.json."""
    context: PositiveInt = 256
    """Tokens of a window that are predicted; the token before them is the first that is read."""
    held_out: PositiveInt | None = None
    """Tokens of the held-out documents on which the loss is taken, at most; null: all."""
    vocabulary: PositiveInt
    """Tokens are 0 to vocabulary - 1. Left out: what the index says."""
    bytes_per_token: PositiveFloat
    """Mean number of bytes of a token in the held-out documents, by which losses are given in bits per byte. Left out:
    what the index says."""
    tokenizer: str | None = None
    """SHA-256 of the folder's tokenizer.json; null: tokens are bytes, or what the index says."""
    digest: str
    """Digest of the index, so that a run resumes with the data it began with. Left out: taken from it."""

    @property
    def shape(self) -> tuple[int]:
        return (self.context + 1,)

    @model_validator(mode="after")
    def _a_window_is_held_out(self) -> Self:
        if self.held_out is not None and self.held_out <= self.context:
            problem = f"{self.held_out} tokens hold no window of context {self.context} and one"
            raise ValueError(f"held_out: {problem}; use at least {self.context + 1}")
        return self

    @classmethod
    def resolved(cls, document: dict[str, Any]) -> dict[str, Any]:
        index = TextIndex.at_path(document, ("vocabulary", "bytes_per_token", "digest"))
        if index is None:
            return document
        context = document.get("context", cls.model_fields["context"].default)
        for split in SPLITS:
            num_tokens = index.split(split).num_tokens
            if isinstance(context, int) and num_tokens <= context:
                remedy = {"train": "encode more text", "held_out": "encode more text with a larger --held-out"}[split]
                raise ValueError(
                    f"context: {context} is not below the {num_tokens} tokens of the {split} documents in "
                    f"{document['path']}; use a shorter one, or {remedy}"
                )
        names = ("vocabulary", "bytes_per_token", "tokenizer", "digest")
        return completed(document, {name: getattr(index, name) for name in names})

    def open(self) -> "Text":
        return Text(self)


class Text(Dataset):
    """Windows of tokens; after the first of a split, each begins with the last token of the previous window.

    Documents are packed with end tokens between them; rows are mapped into memory that processes share.
    """

    num_classes = 0
    keyed_order = True

    def __init__(self, config: TextConfig) -> None:
        index = TextIndex.read(config.path)
        check_same(config.path, index, config, ("digest", "vocabulary", "tokenizer"))
        found_once(f"{config.path}: shards of {index.digest}", lambda: _check_files(config.path, index))
        self.files = (DataFiles(config.path, [one.file for split in SPLITS for one in index.split(split).shards]),)
        self.shape, self._context = config.shape, config.context
        self._streams: dict[Split, _Stream] = {
            split: _Stream(config.path, index.split(split), NUMPY_TYPES[index.dtype]) for split in SPLITS
        }
        lengths: dict[Split, int] = {split: stream.num_tokens for split, stream in self._streams.items()}
        if config.held_out is not None:
            lengths["held_out"] = min(lengths["held_out"], config.held_out)
        self._counts: dict[Split, int] = {split: (lengths[split] - 1) // config.context for split in SPLITS}
        for split in SPLITS:
            if self._counts[split] < 1:
                problem = f"is {config.context}, and the {split} documents have {lengths[split]} tokens"
                raise Refusal(config.path, "data.context", problem, "use a shorter context, or encode more text")

    def count(self, split: Split) -> int:
        return self._counts[split]

    def indices(self, split: Split) -> Tensor:
        """Returns the ids of a split; the held-out windows have the numbers after the training windows."""
        first = self._counts["train"] if split == "held_out" else 0
        return torch.arange(first, first + self._counts[split])

    def get(self, indices: Tensor) -> Batch:
        border = self._counts["train"]
        windows = np.empty((len(indices), *self.shape), np.int64)
        for window, number in zip(windows, indices.tolist(), strict=True):
            split, own = ("train", number) if number < border else ("held_out", number - border)
            self._streams[split].read(own * self._context, window)
        return Batch(torch.from_numpy(windows), None, indices)


class _Stream:
    """The tokens of a split as if they were one file."""

    def __init__(self, folder: Path, split: TextSplit, dtype: str) -> None:
        def mapped(shard: int) -> NDArray[Any]:
            return np.memmap(folder / split.shards[shard].file, np.dtype(dtype), "r").view(np.ndarray)

        self.num_tokens = split.num_tokens
        self._shards = NumberedFiles((shard.num_tokens for shard in split.shards), mapped)

    def read(self, first: int, window: NDArray[np.int64]) -> None:
        """Fills a window with the tokens from `first` on."""
        filled = 0
        while filled < len(window):
            shard, begin = self._shards.place(first + filled)
            tokens = self._shards.open(shard)[begin:][: len(window) - filled]
            window[filled : filled + len(tokens)] = tokens
            filled += len(tokens)


def _check_files(folder: Path, index: TextIndex) -> None:
    """Refuses files of other lengths than the index says, without reading them."""
    remedy = "bring it back, or write the folder again (python -m trainer encode-text)"
    itemsize = np.dtype(NUMPY_TYPES[index.dtype]).itemsize
    for split in SPLITS:
        for shard in index.split(split).shards:
            path = folder / shard.file
            with reading(path, remedy, "shard"):
                size = path.stat().st_size
            if size != shard.num_tokens * itemsize:
                problem = f"has {size} bytes but the index says {shard.num_tokens} tokens of {itemsize} bytes"
                raise Refusal(path, "shard", problem, remedy)
    if index.tokenizer is not None and sha256_of(tokenizer_content(folder / TOKENIZER)) != index.tokenizer:
        raise Refusal(folder / TOKENIZER, "tokenizer", "is not the one that the text was encoded by", remedy)


def run_tokenizer(data: Any, folder: Path | None = None) -> Tokenizer:
    """Tokenizer of a run's prompts and samples; bytes unless `data` is text with a tokenizer.

    `folder` has the run's tokenizer.json, as a checkpoint does; None: the folder that `data` names.
    """
    text = _with_tokenizer(data)
    if text is None:
        return read_tokenizer(None)
    path = (text.path if folder is None else folder) / TOKENIZER
    _same_content(text, path)
    return read_tokenizer(path)


def tokenizer_file(data: Any) -> bytes | None:
    """Returns the tokenizer.json that every checkpoint of a run keeps; None if its tokens are of no such file."""
    text = _with_tokenizer(data)
    return None if text is None else _same_content(text, text.path / TOKENIZER)


def _with_tokenizer(data: Any) -> TextConfig | None:
    """Returns the section of text that has a tokenizer, in a mixture the first source; None without a tokenizer."""
    one = next(iter(data.sources.values())) if getattr(data, "kind", None) == "mixture" else data
    return one if isinstance(one, TextConfig) and one.tokenizer is not None else None


def _same_content(data: TextConfig, path: Path) -> bytes:
    content = tokenizer_content(path)
    if sha256_of(content) != data.tokenizer:
        remedy = "bring back the one that the text was encoded by"
        raise Refusal(path, "data.tokenizer", f"has another SHA-256 than {data.tokenizer}", remedy)
    return content
