"""A folder with the results of many pictures, one file each, that the same command completes where it was killed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from netsim.foundation.files import replacing
from netsim.foundation.refusal import Refusal

RECORD = "request.json"
"""What the results are a function of."""
ARRAYS, ENDING = "arrays", ".safetensors"
"""Sub-folder of the results, and what the names of its files end with."""
MADE_BY, OF_REQUEST, OF_PICTURE, PROBLEM = "made_by", "request", "picture", "problem"
"""Under which a file of results says what was asked for, what tells its picture from others of that name, and why that
picture has no results."""


class ResultsFolder:
    """Results of a request: a record of it, and a file for each picture, written under another name and renamed.

    Args:
        path: the folder, which may be missing.
        record: everything that the results are a function of, as JSON can hold it: the request, the digest of the
            weights.
    """

    def __init__(self, path: Path, record: Mapping[str, Any]) -> None:
        self.path = path
        self.record: dict[str, Any] = json.loads(json.dumps(record))
        self._mark = hashlib.sha256(json.dumps(self.record, sort_keys=True).encode()).hexdigest()[:16]

    def check(self) -> None:
        """Refuses a folder that holds results of another request; leaves nothing behind."""
        existing = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        try:
            with TemporaryFile(dir=existing):
                pass
        except OSError as error:
            if existing != self.path or self.path.is_dir():
                problem = f"cannot be written ({error.strerror})"
                raise Refusal(self.path, "--out", problem, "choose a writable path") from error
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise Refusal(self.path, "--out", "is a file", "name a folder")
        record = self.path / RECORD
        if not record.exists():
            return
        try:
            found = json.loads(record.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Refusal(record, "record", f"cannot be read ({error})", "delete the folder") from error
        for field, there, here in _differences(found, self.record):
            problem = f"is {json.dumps(there)} there but {json.dumps(here)} is asked for"
            raise Refusal(record, field, problem, "give another folder, or ask for the same again")

    def begin(self) -> None:
        """Writes the record, and removes what was never finished; on one rank."""
        for unfinished in [*self.path.rglob(".*.partial")]:
            unfinished.unlink(missing_ok=True)
        self.write_json(RECORD, self.record)

    def has(self, name: str, mark: str = "") -> bool:
        """Whether there are results of a picture; `mark` distinguishes it from another one of its name."""
        if not self.file_of(name).exists():
            return False
        found = self._metadata(name)
        return found.get(OF_REQUEST) == self._mark and found.get(OF_PICTURE) == mark

    def problem(self, name: str) -> str:
        """Why a picture whose turn has come has no results; empty if it has some."""
        return self._metadata(name).get(PROBLEM, "")

    def write(self, name: str, results: Mapping[str, Tensor], mark: str = "", *, problem: str = "") -> None:
        """Writes the results of a picture; none where there is a problem."""
        held = {key: value.detach().cpu().contiguous() for key, value in results.items()}
        told = {OF_REQUEST: self._mark, OF_PICTURE: mark, PROBLEM: problem}
        with replacing(self.file_of(name)) as temporary:
            save_file(held, temporary, metadata={MADE_BY: json.dumps(told)})  # several would stand in any order

    def read(self, name: str, wanted: Collection[str] | None = None) -> dict[str, Tensor]:
        """The results of a picture that has some; `wanted` limits them to these names."""
        file = self.file_of(name)
        try:
            with safe_open(file, framework="pt") as opened:
                names = [key for key in opened.keys() if wanted is None or key in wanted]  # noqa: SIM118  no mapping
                return {key: opened.get_tensor(key) for key in names}
        except (OSError, SafetensorError) as error:
            raise Refusal(file, "results", f"cannot be read ({error})", "delete it; it is then made again") from error

    def write_json(self, name: str, document: Mapping[str, Any]) -> Path:
        """Writes a file of JSON."""
        with replacing(self.path / name) as temporary:
            temporary.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return self.path / name

    def write_text(self, name: str, text: str) -> Path:
        """Writes a file of text."""
        with replacing(self.path / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return self.path / name

    def names(self) -> list[str]:
        """The pictures whose turn has come, in the order of their names."""
        files = (self.path / ARRAYS).rglob(f"*{ENDING}")
        return sorted(file.relative_to(self.path / ARRAYS).as_posix().removesuffix(ENDING) for file in files)

    def _metadata(self, name: str) -> dict[str, str]:
        file = self.file_of(name)
        try:
            with safe_open(file, framework="pt") as opened:
                return json.loads((opened.metadata() or {})[MADE_BY])
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise Refusal(file, "results", f"cannot be read ({error})", "delete it; it is then made again") from error

    def file_of(self, name: str) -> Path:
        """The file of the results of a picture."""
        return self.path / ARRAYS / f"{name}{ENDING}"


def _differences(there: Any, here: Any, field: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two documents differ: the dotted field and both values, of which a missing one is null."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys([*there, *here]):
            yield from _differences(there.get(key), here.get(key), f"{field}.{key}" if field else key)
    elif there != here:
        yield field, there, here
