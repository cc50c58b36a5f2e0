"""The file that says which shares the sources of a mixture have: mixture.json, ``flowfabric.mixture/1``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from moe.files import FileError, replacing
from moe.validation.complaint import first_complaint
from moe.validation.document import parse_json
from moe.validation.section import Section

REMEDY = "write it again, or give the shares in the configuration"
TOLERANCE = 1e-6
"""By which the sum of shares may miss 1."""

Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]
"""Of a source: it becomes the end of names of figures."""


class MixtureFile(Section):
    """Shares of sources, and what they were chosen by."""

    format: Literal["flowfabric.mixture/1"]
    shares: Annotated[dict[Name, Share], Field(min_length=1)]
    """Of the positions of training that each source takes; together 1."""
    figures: dict[str, Any] | None = None
    """What the shares were chosen by, for a person."""

    @model_validator(mode="after")
    def _make_one(self) -> MixtureFile:
        check_sum(self.shares)
        return self

    def write(self, path: Path) -> None:
        """Writes the file.

        Args:
            path: where to.
        """
        with replacing(path) as temporary:
            temporary.write_text(self.model_dump_json(indent=1, exclude_none=True) + "\n", encoding="utf-8")


def check_sum(shares: dict[str, float]) -> None:
    """Refuses shares that do not make a whole.

    Args:
        shares: by the names of sources.

    Raises:
        ValueError: their sum is not 1.
    """
    total = sum(shares.values())
    if abs(total - 1) > TOLERANCE:
        scaled = ", ".join(f"{name}: {share / total:.4g}" for name, share in shares.items()) if total else "{NAME: 1}"
        raise ValueError(f"shares: sum to {total:g}, not to 1; write such as {{{scaled}}}")


def read_mixture(path: Path) -> MixtureFile:
    """Reads shares.

    Args:
        path: a mixture.json.

    Raises:
        FileError: it is missing or malformed; names file, field and remedy.
    """
    try:
        document = parse_json(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except OSError as error:
        raise FileError(path, "mixture file", f"cannot be read ({error.strerror})", REMEDY) from error
    except ValueError as error:
        raise FileError(path, "mixture file", f"is not JSON ({error})", REMEDY) from error
    try:
        return MixtureFile.model_validate(document)
    except ValidationError as error:
        found = first_complaint(error, document, MixtureFile)
        raise FileError(path, found.field, found.problem, found.remedy or REMEDY) from error


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number in JSON")
