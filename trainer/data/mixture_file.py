"""The file that says which shares the sources of a mixture have: mixture.json, ``flowfabric.mixture/1``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from netsim.foundation.documents import JsonFile

TOLERANCE = 1e-6
"""By which the sum of shares may miss 1."""

Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]
"""Of a source: it becomes the end of names of figures."""


class MixtureFile(JsonFile):
    """Shares of sources, and what they were chosen by."""

    remedy: ClassVar[str] = "write it again, or give the shares in the configuration"

    format: Literal["flowfabric.mixture/1"]
    shares: Annotated[dict[Name, Share], Field(min_length=1)]
    """Of the positions of training that each source takes; together 1."""
    figures: dict[str, Any] | None = None
    """What the shares were chosen by, for a person."""

    @model_validator(mode="after")
    def _make_one(self) -> MixtureFile:
        check_sum(self.shares)
        return self


def check_sum(shares: dict[str, float]) -> None:
    """Refuses, with a ValueError, shares whose sum is not 1."""
    total = sum(shares.values())
    if abs(total - 1) > TOLERANCE:
        scaled = ", ".join(f"{name}: {share / total:.4g}" for name, share in shares.items()) if total else "{NAME: 1}"
        raise ValueError(f"shares: sum to {total:g}, not to 1; write such as {{{scaled}}}")
