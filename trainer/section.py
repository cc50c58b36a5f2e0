"""What every section of a configuration has in common."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from moe.sections import with_kinds


class Section(BaseModel):
    """Settings that are checked when they are read and never change: no unknown key, no infinity.

    Where a part has a default, settings of it without a kind are of the default's kind.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _kinds_follow_the_defaults(cls, document: Any) -> Any:
        return with_kinds(cls, document)
