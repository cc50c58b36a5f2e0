"""Writing of tokens into shards, and the journal by which writing resumes after a crash."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from pydantic import NonNegativeInt

from netsim.foundation.documents import parse_json
from netsim.foundation.files import file_digest, write_text
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.data.shard.index import SPLITS, Split
from trainer.data.text.documents import EncodedChunk, SplitPart
from trainer.data.text.inputs import START, Place
from trainer.data.text.tokens import NUMPY_TYPES, TextSplit, TokenShard, TokenType

JOURNAL = "unfinished.json"
UNFINISHED = ".unfinished"
_SHARD = re.compile(rf"({'|'.join(SPLITS)})_\d{{5,}}\.bin({re.escape(UNFINISHED)})?")


class SplitState(Section):
    """What has been written of a split."""

    num_documents: NonNegativeInt = 0
    num_bytes: NonNegativeInt = 0
    shards: tuple[TokenShard, ...] = ()
    """The complete shards."""
    open_tokens: NonNegativeInt = 0
    """Tokens of the shard that is being written."""

    @property
    def split(self) -> TextSplit:
        """Entry of the split in the index, once its last shard is complete and not empty."""
        return TextSplit(
            num_documents=self.num_documents,
            num_bytes=self.num_bytes,
            num_tokens=sum(shard.num_tokens for shard in self.shards),
            shards=self.shards,
        )


class Journal(Section):
    """Progress of the writing; what the folder has beyond it is written again."""

    made_by: str
    """Digest of the files and options; a start with another digest must not resume."""
    file: NonNegativeInt = 0
    offset: NonNegativeInt = 0
    """Byte of file number `file` at which reading resumes."""
    left_out: NonNegativeInt = 0
    train: SplitState = SplitState()
    held_out: SplitState = SplitState()

    @property
    def place(self) -> Place:
        return Place(self.file, self.offset)


def read_journal(folder: Path, made_by: str) -> Journal:
    """Reads the note in a folder, or begins one; refuses a damaged note and one of other files or options."""
    path = folder / JOURNAL
    remedy = f"delete {folder}, or give another --out"
    try:
        journal = Journal.model_validate(parse_json(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return Journal(made_by=made_by)
    except (OSError, ValueError) as error:
        raise Refusal(path, "journal", "cannot be read", remedy) from error
    if journal.made_by != made_by:
        problem = "was begun with other files or options, so that it cannot be gone on with"
        raise Refusal(folder, "--out", problem, f"give those again, or {remedy}")
    return journal


class ShardWriter:
    """Appends tokens to the shards of both splits; a shard ends with the chunk that reaches `shard_tokens`.

    `journal` is the progress of the writing, and `noted` whether it is on the disk, so that a later start can resume.
    """

    def __init__(self, folder: Path, dtype: TokenType, shard_tokens: int, journal: Journal) -> None:
        self.journal, self.noted = journal, journal.place > START
        self._folder, self._dtype, self._shard_tokens = folder, np.dtype(NUMPY_TYPES[dtype]), shard_tokens
        self._states: dict[Split, SplitState] = {"train": journal.train, "held_out": journal.held_out}
        self._files: dict[Split, BinaryIO] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = f"cannot be written ({error.strerror})"
            raise Refusal(folder, "--out", problem, "choose a writable folder") from error
        for path in map(self._open_path, SPLITS):
            completed = path.with_name(path.name.removesuffix(UNFINISHED))
            if completed.exists():  # and nothing was noted before the crash
                completed.replace(path)
        known = {shard.file for state in self._states.values() for shard in state.shards}
        for path in _own_files(folder):
            if path.name not in known and path not in map(self._open_path, SPLITS):
                path.unlink()

    def take(self, chunk: EncodedChunk, after: Place) -> None:
        """Appends a chunk's tokens; the next chunk begins at `after`."""
        for split, part in chunk.splits.items():
            self._append(split, part)
        left_out = self.journal.left_out + len(chunk.left_out)
        self.journal = self.journal.model_copy(update={**after._asdict(), "left_out": left_out, **self._states})

    def note(self) -> None:
        """Writes the journal, after the tokens that it counts are on the disk."""
        for stream in self._files.values():
            stream.flush()
            os.fsync(stream.fileno())
        write_text(self._folder / JOURNAL, self.journal.model_dump_json() + "\n")
        self.noted = True

    def finish(self) -> Mapping[Split, SplitState]:
        """Completes the last shards and returns the state of both splits."""
        for split in SPLITS:
            self._complete(split)
        return self._states

    def close(self) -> None:
        for stream in self._files.values():
            stream.close()
        self._files.clear()

    def _append(self, split: Split, part: SplitPart) -> None:
        state = self._states[split]
        if len(part.tokens):
            self._stream(split).write(np.ascontiguousarray(part.tokens, self._dtype).data.cast("B"))
        added = {"num_documents": part.num_documents, "num_bytes": part.num_bytes, "open_tokens": len(part.tokens)}
        update = {name: getattr(state, name) + num for name, num in added.items()}
        self._states[split] = state.model_copy(update=update)
        if update["open_tokens"] >= self._shard_tokens:
            self._complete(split)

    def _stream(self, split: Split) -> BinaryIO:
        """The file of the split's incomplete shard, truncated to the length that the journal records."""
        if split not in self._files:
            path = self._open_path(split)
            size = self._states[split].open_tokens * self._dtype.itemsize
            if size and not (path.exists() and path.stat().st_size >= size):
                problem = f"is missing, or has lost some of the {size} bytes that were written"
                raise Refusal(path, "shard", problem, f"delete {self._folder} and start anew")
            stream = path.open("r+b" if size else "wb")
            stream.truncate(size)
            stream.seek(size)
            self._files[split] = stream
        return self._files[split]

    def _complete(self, split: Split) -> None:
        state = self._states[split]
        if not state.open_tokens:
            return
        stream = self._stream(split)
        stream.flush()
        os.fsync(stream.fileno())
        stream.close()
        del self._files[split]
        path = self._open_path(split)
        name = path.name.removesuffix(UNFINISHED)
        shard = TokenShard(file=name, num_tokens=state.open_tokens, sha256=file_digest(path))
        path.rename(self._folder / name)
        self._states[split] = state.model_copy(update={"shards": (*state.shards, shard), "open_tokens": 0})

    def _open_path(self, split: Split) -> Path:
        return self._folder / f"{split}_{len(self._states[split].shards):05d}.bin{UNFINISHED}"


def discard(folder: Path, made: Sequence[Path]) -> None:
    """Removes what an encoding has left in a folder, and the folders that it made, the innermost first."""
    for path in (*_own_files(folder), folder / JOURNAL):
        path.unlink(missing_ok=True)
    for path in made:
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _own_files(folder: Path) -> list[Path]:
    """The shards in a folder, whole or not."""
    return [path for path in folder.iterdir() if _SHARD.fullmatch(path.name)] if folder.is_dir() else []
