"""What all sections of a scenario share: unknown keys are errors, nothing changes after reading."""

import reprlib
from typing import Any, get_args

from pydantic import BaseModel, BeforeValidator, model_validator
from pydantic.fields import FieldInfo


class Section(BaseModel, extra="forbid", frozen=True):
    """Base of every part of a scenario."""

    @model_validator(mode="before")
    @classmethod
    def _no_truth_is_a_number(cls, document: Any) -> Any:
        """Pydantic takes true for 1 and 1 for true, and YAML takes yes and on for true."""
        for name, value in document.items() if isinstance(document, dict) else ():
            field = cls.model_fields.get(name)
            if field is None:
                continue
            if isinstance(value, bool) and takes_numbers_alone(field):
                raise ValueError(f"{name} is {str(value).lower()}, not a number; write a number")
            if field.annotation is bool and not isinstance(value, bool):
                raise ValueError(f"{name} is {reprlib.repr(value)}, neither true nor false; write true or false")
        return document


def takes_numbers_alone(field: FieldInfo) -> bool:
    """Whether a field takes numbers as they are, but neither true nor false.

    Args:
        field: Quantities, which are text with a unit, say themselves what they take.
    """
    if any(isinstance(part, BeforeValidator) for part in field.metadata):
        return False
    parts = get_args(field.annotation) or (field.annotation,)
    found = {inner for part in parts for inner in (get_args(part) or (part,))}
    return bool(found & {int, float}) and bool not in found
