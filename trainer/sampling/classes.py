"""The classes that somebody asks for on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from trainer.config.run import RunConfig

SHOWN = 10
"""Names that a complaint lists."""


def chosen_classes(config: RunConfig, words: Sequence[str]) -> tuple[int, ...]:
    """The numbers of classes, in the order of `words`: names (which go first) or numbers, each perhaps several with
    commas.
    """
    if not words:
        return ()
    count, names = config.data.num_classes, config.data.class_names
    if config.flow is not None and (config.flow.context is not None or config.flow.captions is not None):
        raise ValueError("--class: the run draws for held-out examples, which have their classes; leave it out")
    if count == 0:
        raise ValueError("--class: the data of the run have no classes; leave it out")
    found: list[int] = []
    for word in (part.strip() for text in words for part in ([text] if text in names else text.split(","))):
        number = class_number(config, "--class", word)
        if number in found:
            raise ValueError(f"--class: {word} is asked for twice; give each class once")
        found.append(number)
    return tuple(found)


def class_number(config: RunConfig, field: str, word: str) -> int:
    """The number of a class that `field` names; a name goes before a number."""
    count, names = config.data.num_classes, config.data.class_names
    if word in names:
        return names.index(word)
    if word.isdecimal() and int(word) < count:
        return int(word)
    raise ValueError(f"{field}: there is no class {word}; {_remedy(word, count, names)}")


def names_or_numbers(config: RunConfig) -> tuple[str, ...]:
    """What the classes 0, 1, ... of a run are called; their numbers where they have no names."""
    return config.data.class_names or tuple(map(str, range(config.data.num_classes)))


def _remedy(word: str, count: int, names: Sequence[str]) -> str:
    numbers = f"a number from 0 to {count - 1}"
    if not names or tuple(names) == tuple(map(str, range(count))):
        return f"give {numbers}"
    near = get_close_matches(word, names, n=1)
    if near:
        return f"perhaps {near[0]} is meant"
    listed = ", ".join(names[:SHOWN]) + ", ..." * (len(names) > SHOWN)
    return f"give one of {listed}, or {numbers}"
