"""Sequences of letters in a text file: lines with counts and classes, or FASTA."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt, model_validator
from torch import Tensor

from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.data.files import DataFiles, facts_of, text_lines
from trainer.data.protocol import Batch, Listed, shuffled_splits
from trainer.data.shard.index import ClassNames

COLUMNS = ("sequence", "count", "label")
MOST_EXAMPLES = 50_000_000
"""Occurrences of all sequences, which are held in memory."""
BACK = "bring the file back that the run began with"


class SequencesConfig(Section):
    """Sequences of letters of one length, as one-hot vectors, from a text file."""

    kind: Literal["sequences"]
    path: Path
    """FASTA, or a line for each sequence, with a count behind a tab where it occurs several times. A first line of
    `sequence` and perhaps `count` and `label`, with tabs between, names the columns. Lines with # are left out."""
    held_out: PositiveInt
    """Occurrences of sequences that are kept out of training, the last of a fixed shuffle."""
    pad: str | None = None
    """A letter that shorter sequences end with, such as "-"; null: all have one length."""
    alphabet: str
    """Letters of the sequences, the pad among them; left out: those of the file in their order, then the pad."""
    length: PositiveInt
    """Number of letters of a sequence; left out: as many as the longest in the file has."""
    class_names: ClassNames = ()
    """Names of the labels; left out: the labels of the file in their order."""

    @model_validator(mode="after")
    def _letters_differ(self) -> Self:
        if len(self.alphabet) < 2 or len(set(self.alphabet)) < len(self.alphabet):
            raise ValueError(f"alphabet: {self.alphabet!r} is not two or more different letters; leave it out")
        if self.pad is not None and self.pad not in self.alphabet:
            raise ValueError(f"pad: {self.pad!r} is not a letter of the alphabet {self.alphabet}; use one, or null")
        return self

    @classmethod
    def resolved(cls, document: dict[str, Any]) -> dict[str, Any]:
        path, pad, alphabet = (document.get(name) for name in ("path", "pad", "alphabet"))
        if not isinstance(path, str | Path) or not isinstance(pad, str | None) or not isinstance(alphabet, str | None):
            return document
        if pad is not None and len(pad) != 1:
            raise ValueError(f"pad: {pad!r} is not one letter; use one, or null")
        facts = facts_of(f"{path}: {pad} {alphabet}", lambda: _examined(Path(path), pad, alphabet))
        held_out, total = document.get("held_out"), facts.pop("total")
        if isinstance(held_out, int) and held_out >= total:
            raise ValueError(f"held_out: {held_out} leaves none of the {total:,} occurrences; use {total - 1} or less")
        return {**facts, **document}

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.alphabet), 1, self.length

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def open(self) -> "Sequences":
        return Sequences(self)


class Sequences(Listed):
    """One-hot sequences float32 [V, 1, L]; an example is one occurrence of a sequence."""

    def __init__(self, config: SequencesConfig) -> None:
        self.shape, self.num_classes = config.shape, config.num_classes
        self.files = (DataFiles(config.path.parent, [config.path.name]),)
        listed = read_sequences(config.path)
        self._letters = torch.from_numpy(codes(listed, config.alphabet, config.pad, config.length))
        unknown = sorted(set(listed.labels) - set(config.class_names))
        if unknown or bool(listed.labels) != bool(config.class_names):
            named = f"has the label {unknown[0]}" if unknown else "has no labels"
            raise Refusal(config.path, "label", f"{named}, where the run has {list(config.class_names)}", BACK)
        numbers = {name: number for number, name in enumerate(config.class_names)}
        self._labels = torch.tensor([numbers[label] for label in listed.labels]) if listed.labels else None
        self._sequence_of = torch.arange(len(listed.counts)).repeat_interleave(torch.from_numpy(listed.counts))
        self.splits = shuffled_splits(len(self._sequence_of), config.held_out)

    def get(self, indices: Tensor) -> Batch:
        rows = self._sequence_of[indices]
        labels = None if self._labels is None else self._labels[rows]
        return Batch(one_hot(self._letters[rows], self.shape[0]), labels, indices)


def one_hot(letters: Tensor, num_letters: int) -> Tensor:
    """Returns sequences of letter numbers [B, L] as one-hot vectors, float32 [B, V, 1, L]."""
    return torch.nn.functional.one_hot(letters.long(), num_letters).float().transpose(1, 2)[:, :, None]


def texts(sequences: Tensor, alphabet: str, pad: str | None = None) -> list[str]:
    """Returns one-hot sequences [N, V, 1, L] as strings, without the pads at their ends."""
    letters = np.array(list(alphabet))[sequences.argmax(1).flatten(1).numpy()]
    return ["".join(row).rstrip(pad or "\0") for row in letters.tolist()]


@dataclass(frozen=True)
class SequenceFile:
    """Sequences of a file with their line numbers, their counts int64 [N], and their labels; no labels if empty."""

    path: Path
    sequences: list[str]
    lines: list[int]
    counts: NDArray[np.int64]
    labels: list[str]


def read_sequences(path: Path) -> SequenceFile:
    """Reads a file of FASTA or of plain lines; a Refusal names the line that is neither."""
    stripped = [(number, line.rstrip()) for number, line in enumerate(text_lines(path), 1)]
    written = [(number, line) for number, line in stripped if line and not line.startswith("#")]
    fasta = bool(written) and written[0][1].startswith(">")
    rows = [*_fasta(path, written)] if fasta else [*_lines(path, written)]
    if not rows:
        raise Refusal(path, "file", "holds no sequence", "give a line for each, or FASTA")
    lines, sequences, counts, labels = (list(column) for column in zip(*rows, strict=True))
    if (total := sum(counts)) > MOST_EXAMPLES:
        problem = f"has {total:,} occurrences, more than the {MOST_EXAMPLES:,} that are held in memory"
        raise Refusal(path, "count", problem, "divide the counts by a number")
    return SequenceFile(path, sequences, lines, np.array(counts, np.int64), [one for one in labels if one is not None])


Row = tuple[int, str, int, str | None]
"""Line, sequence, count and label."""


def _fasta(path: Path, written: Sequence[tuple[int, str]]) -> Iterator[Row]:
    starts = [place for place, (_, line) in enumerate(written) if line.startswith(">")]
    for start, end in zip(starts, [*starts[1:], len(written)], strict=True):
        parts = [line.strip() for _, line in written[start + 1 : end]]
        if not parts:
            raise Refusal(path, f"line {written[start][0]}", "is a name without a sequence", "remove it")
        yield written[start][0], "".join(parts), 1, None


def _lines(path: Path, written: Sequence[tuple[int, str]]) -> Iterator[Row]:
    first = [cell.strip().lower() for cell in written[0][1].split("\t")] if written else []
    names = first if "sequence" in first else ["sequence", "count"]
    unknown = [name for name in names if name not in COLUMNS]
    if unknown or len(set(names)) < len(names):
        wrong = unknown[0] if unknown else "one of them twice"
        raise Refusal(path, f"line {written[0][0]}", f"names the column {wrong}", f"use {', '.join(COLUMNS)}")
    for number, line in written["sequence" in first :]:
        cells = [cell.strip() for cell in line.split("\t")]
        bare = names is not first and len(cells) == 1
        if len(cells) != len(names) and not bare:
            problem = f"has {len(cells)} columns between tabs, not {' and '.join(names)}"
            raise Refusal(path, f"line {number}", problem, "correct it")
        row = dict(zip(names, cells, strict=False))
        count = row.get("count", "1")
        if not (count.isascii() and count.isdigit()):
            raise Refusal(path, f"line {number}", f"has the count {count}", "use a whole number of 0 or more")
        if not row["sequence"] or row.get("label") == "":
            raise Refusal(path, f"line {number}", "lacks a sequence or a label", "remove it")
        yield number, row["sequence"], int(count), row.get("label")


def codes(listed: SequenceFile, alphabet: str, pad: str | None, length: int) -> NDArray[np.integer]:
    """Returns the letters of sequences as numbers [N, L], shorter ones padded; refuses a sequence that does not fit."""
    for line, sequence in zip(listed.lines, listed.sequences, strict=True):
        if len(sequence) > length or (pad is None and len(sequence) < length):
            problem = f"has {len(sequence)} letters, where the length is {length}"
            remedy = "give sequences of one length, or set data.pad to a letter that fills them up, such as '-'"
            raise Refusal(listed.path, f"line {line}", problem, remedy)
        odd = set(sequence) - set(alphabet)
        if odd:
            problem = f"holds the letter {min(odd)!r}, which the alphabet {alphabet} lacks"
            raise Refusal(listed.path, f"line {line}", problem, "remove the line, or leave data.alphabet out")
    numbers = {letter: number for number, letter in enumerate(alphabet)}
    rows = [[numbers[letter] for letter in sequence.ljust(length, pad or " ")] for sequence in listed.sequences]
    return np.array(rows, np.uint8 if len(alphabet) <= 256 else np.int32)


def _examined(path: Path, pad: str | None, alphabet: str | None) -> dict[str, Any]:
    listed = read_sequences(path)
    letters = "".join(sorted(set().union(*listed.sequences) - {pad})) + (pad or "")
    length = max(map(len, listed.sequences))
    codes(listed, alphabet or letters, pad, length)
    facts = {"alphabet": letters, "length": length, "class_names": sorted(set(listed.labels))}
    return {**facts, "total": int(listed.counts.sum())}
