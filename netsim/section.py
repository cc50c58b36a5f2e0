"""What all sections of a scenario share: unknown keys are errors, nothing changes after reading."""

from collections.abc import Callable

from pydantic import BaseModel


class Section(BaseModel, extra="forbid", frozen=True):
    """Base of every part of a scenario."""


def not_yet(today: tuple[str, ...], planned: tuple[str, ...]) -> Callable[[object], object]:
    """A validator that turns words of the grammar which nothing implements yet into a clear refusal.

    Args:
        today: Words that work.
        planned: Words of the grammar that do not work yet.

    Returns:
        A function for `pydantic.BeforeValidator`: it looks at the value, or at its ``kind`` if it is a mapping.
    """

    def check(value: object) -> object:
        kind = value.get("kind") if isinstance(value, dict) else value
        if kind in planned:
            raise ValueError(f"'{kind}' is not built yet; use {' or '.join(today)}")
        return value

    return check
