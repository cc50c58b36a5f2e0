"""The index of tars, the names of their classes, and examples read where the index says that they are."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from netsim.foundation.files import file_digest, replacing
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.data.shard.file import NumberedFiles, mapped_file
from trainer.data.shard.index import FolderIndex
from trainer.data.tar.files import PIECE_BYTES, THREADS, Pieces, TarFile, local_path, open_tar
from trainer.data.tar.members import TarDamage, walk_examples


def read_class_names(path: Path) -> tuple[str, ...]:
    """Names of the classes 0, 1, ..., one a line; raises ValueError on none or the same twice."""
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"class_names: {path} cannot be read ({error}); give a text file, a name a line") from error
    if not names or len(set(names)) < len(names):
        twice = next((name for name in names if names.count(name) > 1), None)
        problem = "contains no names" if twice is None else f"names {twice} twice"
        raise ValueError(f"class_names: {path} {problem}; give each class a line of its own")
    return names


EXAMPLES = "examples.npy"
ROW = np.dtype([("start", "<i8"), ("end", "<i8"), ("check", "<u4"), ("label", "<i4")])
"""Row of an example: start and end in its tar, CRC-32 of its headers, and class (-1 if it has none)."""
SHOWN = 5
"""Sets of members that messages list."""
REMEDY = "make the index with: python -m trainer index-tars PATH --out DIR"


class TarEntry(Section):
    """One tar."""

    name: Annotated[str, Field(min_length=1)]
    """Its path below the folder that holds all tars, wherever that lies."""
    size: PositiveInt
    """Bytes of the tar."""
    num_examples: NonNegativeInt


class MembersEntry(Section):
    """Examples that have the same members."""

    extensions: tuple[str, ...]
    """What the members are, in the order of the alphabet."""
    num_examples: PositiveInt
    first: str
    """The first of these examples: its tar and its key."""


class TarIndex(FolderIndex):
    """index.json, beside ``examples.npy`` with a row for each example, in the order of the tars."""

    format: Literal["flowfabric.tars/1"] = "flowfabric.tars/1"
    label: str | None
    """Member that has the class, such as ``cls`` or ``json:label``; None: there are no classes."""
    num_classes: NonNegativeInt
    """Labels are 0 to num_classes - 1; 0: there are none."""
    class_names: tuple[str, ...] = ()
    """Names of the classes 0, 1, ...; empty: they have none."""
    members: tuple[MembersEntry, ...]
    examples_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of ``examples.npy``."""
    tars: Annotated[tuple[TarEntry, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_fit_the_classes(self) -> Self:
        if self.class_names and len(self.class_names) != self.num_classes:
            problem = f"{len(self.class_names)} names do not fit the {self.num_classes} classes"
            raise ValueError(f"class_names: {problem}; {REMEDY}")
        return self

    @property
    def num_examples(self) -> int:
        return sum(tar.num_examples for tar in self.tars)

    @classmethod
    def read(cls, folder: Path) -> Self:
        try:
            return super().read(folder)
        except Refusal as error:
            raise Refusal(error.file, error.field, error.problem, REMEDY) from error

    def extensions(self) -> str:
        """In words for messages, how many examples have which members."""
        largest = sorted(self.members, key=lambda entry: -entry.num_examples)
        lines = [f"{entry.num_examples:,} have {', '.join(entry.extensions)}" for entry in largest[:SHOWN]]
        return "; ".join(lines + ["..."] * (len(largest) > SHOWN))


def write_tar_index(folder: Path, rows: NDArray[np.void], said: dict[str, object]) -> TarIndex:
    """Writes an index, index.json last: :data:`ROW` rows, and the fields of :class:`TarIndex` but their checksum."""
    with replacing(folder / EXAMPLES) as temporary, temporary.open("wb") as file:
        np.save(file, rows, allow_pickle=False)
    index = TarIndex.model_validate({**said, "examples_sha256": file_digest(folder / EXAMPLES)})
    index.write(folder)
    return index


def open_examples(folder: Path, index: TarIndex) -> NDArray[np.void]:
    """Maps the rows of an index, :data:`ROW` [N], into memory; the ranks of a node share it."""
    path = folder / EXAMPLES
    rows = mapped_file(path, "index", f"bring it back, or {REMEDY}")
    if rows.dtype != ROW or rows.shape != (index.num_examples,):
        problem = f"holds {rows.dtype} {list(rows.shape)}, not a row for each of {index.num_examples} examples"
        raise Refusal(path, "index", problem, REMEDY)
    return rows


def check_examples(folder: Path, index: TarIndex) -> None:
    """Reads all of ``examples.npy`` and refuses one that is not the index's."""
    try:
        digest = file_digest(folder / EXAMPLES)
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise Refusal(folder / EXAMPLES, "index", problem, f"bring it back, or {REMEDY}") from error
    if digest != index.examples_sha256:
        problem = f"is not the one that the index was written with ({digest[:16]}, not {index.examples_sha256[:16]})"
        raise Refusal(folder / EXAMPLES, "examples_sha256", problem, REMEDY)


BACK = "bring it back, or make the index again and leave data.digest out to start another run"


class Example(NamedTuple):
    """Contents by extension of an example in a tar, and the key that the names of its members share."""

    key: str
    members: Mapping[str, memoryview]


class TarReader:
    """Reads examples where an index says; refuses tars that differ from it; `labels` are int32 [N], -1 if absent."""

    def __init__(
        self,
        folder: Path,
        index: TarIndex,
        urls: Sequence[str],
        dealt: NDArray[np.bool_],
        *,
        streams: int,
        shuffle: int,
    ) -> None:
        """Maps the index into memory and opens no tar yet; `urls` are in the index's order; the rest as in `Pieces`."""
        self._urls, self._rows = urls, open_examples(folder, index)
        self.labels: NDArray[np.int32] = self._rows["label"]
        counts = [tar.num_examples for tar in index.tars]
        self.tars = NumberedFiles(counts, lambda number: open_indexed(urls[number], index.tars[number]))
        run_bytes = shuffle * sum(tar.size for tar in index.tars) // index.num_examples
        ends = self.tars.ends
        self._pieces = Pieces(self.tars.open, self._rows, ends, dealt, streams=streams, run_bytes=run_bytes)
        self._expected: set[tuple[int, int]] = set()

    def read(self, numbers: Sequence[int]) -> tuple[dict[int, Example], dict[int, str]]:
        """Reads sound examples by id, and faults of the others; from several threads; Refusal or Unreachable."""
        places = [(self.tars.place(number)[0], number) for number in numbers]
        remote = [place for place in places if local_path(self._urls[place[0]]) is None]
        contents = dict(zip(remote, self._pieces.read(remote), strict=True)) if remote else {}
        examples: dict[int, Example] = {}
        reasons: dict[int, str] = {}
        for tar, number in places:
            try:
                content = contents[tar, number] if (tar, number) in contents else self._local(tar, number)
                examples[number] = self._parsed(tar, number, content)
            except (TarDamage, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                reasons[number] = f"{self._urls[tar]}: example {self.tars.place(number)[1]}: {reason}"
        return examples, reasons

    def where(self, number: int) -> str:
        return self._urls[self.tars.place(number)[0]]

    def _local(self, tar: int, number: int) -> bytes:
        start, end = int(self._rows["start"][number]), int(self._rows["end"][number])
        file, part = self.tars.open(tar), start // PIECE_BYTES
        if (tar, part) not in self._expected:
            if len(self._expected) > 4 * THREADS * THREADS:
                self._expected.clear()
            self._expected.add((tar, part))
            file.expect(start, start + 2 * PIECE_BYTES)
        return file.read(start, end)

    def _parsed(self, tar: int, number: int, content: bytes) -> Example:
        view = memoryview(content)

        def read(start: int, end: int) -> memoryview:
            return view[start:end]

        if len(content) == self._rows["end"][number] - self._rows["start"][number]:
            examples = list(walk_examples(read, 0, len(content), verify=False))
            if len(examples) == 1 and examples[0].check == self._rows["check"][number]:
                places = examples[0].members
                return Example(examples[0].key, {name: view[at : at + size] for name, (at, size) in places.items()})
        for _ in walk_examples(read, 0, len(content)):  # raises where a header is damaged
            pass
        problem = f"has other headers than the index says at example {self.tars.place(number)[1]}"
        raise Refusal(self._urls[tar], "check", problem, BACK)


def check_tars(folder: Path, index: TarIndex, urls: Sequence[str]) -> None:
    """Refuses tars whose sizes, or an index whose rows, are not as the index says; raises Unreachable, too."""
    check_examples(folder, index)
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda url, entry: open_indexed(url, entry).size, urls, index.tars))


def open_indexed(url: str, entry: TarEntry) -> TarFile:
    """Opens a tar of an index; refuses one of another size."""
    tar = open_tar(url)
    if tar.size != entry.size:
        raise Refusal(url, "size", f"has {tar.size:,} bytes but the index says {entry.size:,}", BACK)
    return tar
