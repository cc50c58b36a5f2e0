"""Sections that are JSON files of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, Self

from pydantic import ValidationError

from moe.files import FileError, replacing
from moe.validation.complaint import first_complaint
from moe.validation.document import check_document, parse_json
from moe.validation.section import Section


class JsonFile(Section):
    """A section that is read from a JSON file, whoever wrote it, and written to one.

    Attributes:
        remedy: what to do about a file that cannot be used.
    """

    remedy: ClassVar[str]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a file.

        Args:
            path: the file.

        Raises:
            FileError: it is missing or malformed.
        """
        try:
            document = parse_json(path.read_text(encoding="utf-8"))
            check_document(document)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else f"it is not JSON: {error}"
            raise FileError(path, "file", f"cannot be read ({reason})", cls.remedy) from error
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            found = first_complaint(error, document)
            raise FileError(path, found.field, found.problem, found.remedy or cls.remedy) from found.cause or error

    def write(self, path: Path) -> None:
        """Writes the file.

        Args:
            path: its place.
        """
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
