"""Sizes of networks, states that they take, and widths that heads divide."""

import math
from typing import Annotated

from pydantic import Field

Layers = Annotated[int, Field(gt=0, le=1_000)]
"""Blocks of a network. A configuration of the most is checked within seconds."""
Width = Annotated[int, Field(gt=0, le=1_048_576)]
"""Width of a layer; a matrix of the widest has fewer bytes than numbers of 64 bits count."""


def check_image(shape: tuple[int, ...], field: str, length: int, *, limit: int = 0, otherwise: str) -> None:
    """Refuses states that cannot be cut into squares.

    Args:
        shape: of a state.
        field: setting that gives the length of a side.
        length: pixels of a side.
        limit: the longest side; 0: any.
        otherwise: remedy where the state is no image.
    """
    if len(shape) != 3:
        raise ValueError(
            f"data.path: its examples have shape {list(shape)}, which is not that of an image; {otherwise}"
        )
    if shape[1] % length or shape[2] % length:
        pixels = " x ".join(map(str, sorted(set(shape[1:]))))
        raise ValueError(
            f"{field}: {length} does not divide images of {pixels} pixels; "
            f"use one of {divisors(math.gcd(*shape[1:], limit))}"
        )


def check_vector(shape: tuple[int, ...], kind: str) -> None:
    """Refuses states that are no vectors."""
    if len(shape) != 1 or shape[0] < 2:
        raise ValueError(
            f"data.path: its examples have shape {list(shape)}, and an {kind} takes vectors of 2 values or more; "
            "use a dit model for images"
        )


def squares(shape: tuple[int, ...], length: int) -> int:
    """Squares of `length` x `length` pixels in an image [C, H, W]."""
    _, height, width = shape
    return (height // length) * (width // length)


def check_heads(hidden: int, num_heads: int, multiple: int) -> None:
    """Refuses a width that `num_heads` heads do not divide into multiples of `multiple`."""
    step = multiple * num_heads
    if hidden % step:
        raise ValueError(
            f"hidden: {hidden} is not a multiple of {multiple} x num_heads {num_heads}; "
            f"choose {step * max(1, round(hidden / step))}"
        )


def divisors(number: int) -> str:
    """All divisors of a number from 1, in a row for a person."""
    return ", ".join(str(d) for d in range(1, number + 1) if number % d == 0)
