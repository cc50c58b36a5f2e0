"""What all sections of a scenario share: unknown keys are errors, nothing changes after reading."""

from pydantic import BaseModel


class Section(BaseModel, extra="forbid", frozen=True):
    """Base of every part of a scenario."""
