"""COMPLETE: the file that declares a folder a checkpoint, with the checksums of all other files in it."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from netsim.foundation.documents import parse_json
from netsim.foundation.files import file_digest, flush, reading, replacing
from netsim.foundation.refusal import Refusal
from trainer.model.weight_files import WEIGHTS, belongs_to

FORMAT = "flowfabric.checkpoint/2"
NAME = "COMPLETE"
REMEDY = "restore it from a copy, or delete the folder"


@dataclass(frozen=True)
class FileRecord:
    """Length of a file, and the SHA-256 of its content in hexadecimal."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What is in a checkpoint.

    Attributes:
        step: optimiser steps done.
        updates: optimiser steps that changed the weights.
        identity: settings that every continuation shares with the run, by dotted key.
        division: how the state was divided over the ranks, by dotted key; another division is no obstacle.
        files: every other file of the folder by its path in it.
    """

    step: int
    updates: int
    identity: dict[str, Any]
    division: dict[str, Any]
    files: dict[str, FileRecord]

    def write(self, folder: Path) -> None:
        """Declares a checkpoint complete; the last thing that a save does, when all other files have been flushed."""
        document = {"format": FORMAT, **asdict(self)}
        with replacing(folder / NAME) as temporary:
            temporary.write_text(json.dumps({**document, "sha256": _digest(document)}, indent=1) + "\n")
            flush([temporary])
        flush([folder])

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Reads what :meth:`write` wrote."""
        path = folder / NAME
        try:
            document = parse_json(path.read_text(encoding="utf-8"))
            if document["format"] != FORMAT:
                raise Refusal(path, "format", f"is {document['format']}, and this version reads {FORMAT}", REMEDY)
            if document.pop("sha256") != _digest(document):
                raise Refusal(path, "checksum", "does not match what was saved", REMEDY)
            files = {name: FileRecord(**record) for name, record in document["files"].items()}
            return cls(
                document["step"], document["updates"], dict(document["identity"]), dict(document["division"]), files
            )
        except Refusal:
            raise
        except FileNotFoundError as error:
            raise Refusal(path, "marker", "is missing: the save did not end", REMEDY) from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise Refusal(path, "marker", f"is malformed ({error})", REMEDY) from error

    def weights_sha256(self) -> str:
        """Hash of the averaged weights: that of their file, or of the hashes of their index and parts."""
        own = [record.sha256 for name, record in sorted(self.files.items()) if belongs_to(name, WEIGHTS)]
        return own[0] if len(own) == 1 else hashlib.sha256("".join(own).encode()).hexdigest()

    def smallest(self, limit_bytes: int) -> set[str]:
        """The smallest files that together hold no more than a number of bytes."""
        chosen, total = set(), 0
        for name, record in sorted(self.files.items(), key=lambda file: (file[1].size_bytes, file[0])):
            total += record.size_bytes
            if total <= limit_bytes:
                chosen.add(name)
        return chosen

    def check_files(self, folder: Path, wanted: Callable[[str], bool], *, content: bool) -> None:
        """Refuses missing and damaged files among those `wanted`; with `content`, reads them and verifies checksums."""
        for name, record in self.files.items():
            if not wanted(name):
                continue
            path = folder / name
            with reading(path, REMEDY):
                size = path.stat().st_size
                if size != record.size_bytes:
                    raise Refusal(path, "length", f"is {size} bytes and was saved with {record.size_bytes}", REMEDY)
                if content and file_digest(path) != record.sha256:
                    raise Refusal(path, "checksum", "does not match what was saved", REMEDY)

    def check_identity(self, folder: Path, identity: dict[str, Any]) -> None:
        """Refuses to continue a checkpoint as another run; a field that the checkpoint lacks is let through."""
        for name, value in identity.items():
            if self.identity.get(name, value) != value:
                raise Refusal(
                    folder / NAME,
                    name,
                    f"is {self.identity[name]} but this run has {value}",
                    "continue with the former, or give another run.dir",
                )


def records(folder: Path, paths: Iterable[Path]) -> dict[str, FileRecord]:
    """Records of files, read back from the disk, by their path in the folder."""
    return {path.relative_to(folder).as_posix(): FileRecord(path.stat().st_size, file_digest(path)) for path in paths}


def _digest(document: dict[str, Any]) -> str:
    """Checksum of the marker's own content."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
