"""The names of the classes of a data set, as its configuration, its files and its pages hold them."""

from typing import Annotated

from pydantic import Field

LISTED = 20

ClassNames = Annotated[tuple[str, ...], Field(exclude_if=lambda names: not names)]
"""Of the classes 0, 1, ...; empty: they have none. Empty ones are not written: files from before there were names keep
their digests."""


def check_class_names(names: tuple[str, ...], num_classes: int) -> None:
    """Refuses names, unless none are given, that are not one for each class."""
    if len(names) not in (0, num_classes):
        raise ValueError(f"class_names: {len(names)} names do not fit {num_classes} classes; name each class once")


def listed(names: tuple[str, ...]) -> str:
    """Number of classes and their names in order; of many, the first and the last."""
    shown = names if len(names) <= LISTED else (*names[: LISTED - 1], "...", names[-1])
    return f"{len(names)} ({', '.join(shown)})"
