"""What all sections of a scenario share: unknown keys are errors, nothing changes after reading."""

import reprlib
from typing import Any

from pydantic import BaseModel, BeforeValidator, model_validator

from netsim.foundation.settings import takes_numbers_alone


class Section(BaseModel, extra="forbid", frozen=True):
    """Base of every part of a scenario."""

    @model_validator(mode="before")
    @classmethod
    def _no_truth_is_a_number(cls, document: Any) -> Any:
        """Pydantic takes true for 1 and 1 for true, and YAML takes yes and on for true.

        Quantities, which are text with a unit, say themselves what they take.
        """
        for name, value in document.items() if isinstance(document, dict) else ():
            field = cls.model_fields.get(name)
            if field is None:
                continue
            is_quantity = any(isinstance(part, BeforeValidator) for part in field.metadata)
            if isinstance(value, bool) and not is_quantity and takes_numbers_alone(field.annotation):
                raise ValueError(f"{name} is {str(value).lower()}, not a number; write a number")
            if field.annotation is bool and not isinstance(value, bool):
                raise ValueError(f"{name} is {reprlib.repr(value)}, neither true nor false; write true or false")
        return document
