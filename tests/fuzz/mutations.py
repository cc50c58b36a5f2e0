"""How a file is damaged: by its format, or as bytes."""

import random
from collections.abc import Callable
from enum import Enum
from typing import Literal

from tests.fuzz.arrays import damaged_npy, damaged_npz, damaged_safetensors
from tests.fuzz.damage import damaged_bytes, damaged_words
from tests.fuzz.documents import damaged_json, damaged_lines, damaged_yaml

Format = Literal["yaml", "json", "jsonl", "words", "npy", "npz", "safetensors", "bytes"]

BY_FORMAT: dict[Format, Callable[[bytes, random.Random], bytes]] = {
    "yaml": damaged_yaml,
    "json": damaged_json,
    "jsonl": damaged_lines,
    "words": damaged_words,
    "npy": damaged_npy,
    "npz": damaged_npz,
    "safetensors": damaged_safetensors,
    "bytes": damaged_bytes,
}


class Instead(Enum):
    """What is there in place of a file."""

    NOTHING = "nothing"
    FOLDER = "a folder"


def damaged(content: bytes, form: Format, rng: random.Random) -> bytes | Instead:
    """A file that went wrong.

    Args:
        content: of the sound file.
        form: its format.
        rng: of all choices.
    """
    draw = rng.random()
    if draw < 0.01:
        return rng.choice(list(Instead))
    return damaged_bytes(content, rng) if draw < 0.25 else BY_FORMAT[form](content, rng)
