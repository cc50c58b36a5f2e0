"""Reading what an index needs to know of one tar: its headers and its labels."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt

from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.data.tar.examples import TarExample, walk_examples
from trainer.data.tar.files import open_tar
from trainer.data.tar.members import Read, TarDamage

LOCAL_BYTES, REMOTE_BYTES = 4 << 10, 1 << 20
"""Read at once, so that headers which lie close to each other take one request."""

MOST_LABEL_BYTES = 16 << 20
MOST_SHOWN = 200
"""Letters of a key, or of a wrong label, in messages."""

_LABEL = re.compile(r"([^:]+)(?::(.+))?")


class Kind(Section):
    """Examples of one tar that have the same members: how many, and the key of the first."""

    extensions: tuple[str, ...]
    num_examples: PositiveInt
    first: str


class Scan(Section):
    """What one tar holds; each list has an entry for each example."""

    name: str
    size: PositiveInt
    starts: tuple[NonNegativeInt, ...]
    ends: tuple[NonNegativeInt, ...]
    checks: tuple[NonNegativeInt, ...]
    labels: tuple[Annotated[int, Field(strict=True)] | str | None, ...]
    """A number, a name, or None where the example tells no class."""
    unlabelled: str | None
    """Why the first example without a class has none."""
    kinds: tuple[Kind, ...]


def scan(url: str, name: str, label: str | None) -> Scan:
    """Reads the headers of a tar, and of the contents between them the labels alone.

    Args:
        name: of the tar in the index.
        label: member that tells the class: ``EXTENSION`` with a number or a name in it, or ``EXTENSION:FIELD`` of JSON,
            where dots in the field lead into what it holds. None: there are no classes.

    Raises:
        Refusal: the tar cannot be read, or is damaged.
        Unreachable: the network failed several times.
    """
    tar = open_tar(url)
    read = _window(tar.read, LOCAL_BYTES if tar.local else REMOTE_BYTES)
    examples: list[TarExample] = []
    labels: list[int | str | None] = []
    unlabelled: str | None = None
    kinds: dict[tuple[str, ...], tuple[int, str]] = {}
    try:
        for example in walk_examples(read):
            if example.end > tar.size:
                raise TarDamage(f"is cut off: {example.key} ends at byte {example.end:,} of {tar.size:,}")
            examples.append(example)
            extensions = tuple(sorted(example.members))
            count, first = kinds.get(extensions, (0, example.key[:MOST_SHOWN]))
            kinds[extensions] = count + 1, first
            if label is not None:
                value, reason = _label(example, read, label)
                labels.append(value)
                unlabelled = unlabelled or (reason and f"{name}: {example.key[:MOST_SHOWN]}: {reason}")
    except TarDamage as error:
        remedy = "fetch or write it again, or leave it out of the path"
        raise Refusal(url, "tar", str(error), remedy) from error
    except OSError as error:
        raise Refusal(url, "tar", f"cannot be read ({error.strerror})", "bring it back") from error
    return Scan(
        name=name,
        size=tar.size,
        starts=tuple(example.start for example in examples),
        ends=tuple(example.end for example in examples),
        checks=tuple(example.check for example in examples),
        labels=tuple(labels) or (None,) * len(examples),
        unlabelled=unlabelled,
        kinds=tuple(
            Kind(extensions=extensions, num_examples=count, first=first)
            for extensions, (count, first) in sorted(kinds.items())
        ),
    )


def label_parts(label: str) -> tuple[str, str | None]:
    """Extension and field of a member that tells the class; raises ValueError if it is no such member."""
    found = _LABEL.fullmatch(label)
    if found is None:
        raise ValueError(f"--label: {label} is not a member; give cls, EXTENSION, json:FIELD or none")
    return found[1].lower().lstrip("."), found[2]


def _label(example: TarExample, read: Read, label: str) -> tuple[int | str | None, str | None]:
    """What an example says of its class, or why it says nothing."""
    extension, field = label_parts(label)
    place = example.members.get(extension)
    if place is None:
        return None, f"has no member {extension}, only {', '.join(sorted(example.members))[:MOST_SHOWN]}"
    if place.size > MOST_LABEL_BYTES:
        return None, f"{extension} has {place.size:,} bytes, too many for a label"
    content = bytes(read(place.offset, place.offset + place.size))
    try:
        value = _inside(json.loads(content), field) if field else content.decode().strip()
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:MOST_SHOWN]}"
        return None, f"{label} cannot be read ({reason})"
    number = value if isinstance(value, int) and not isinstance(value, bool) else None
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value):
        number = int(value)
    if number is not None and 0 <= number < 2**31:
        return number, None
    if isinstance(value, str) and value and number is None:
        return value, None
    return None, f"{label} is {value!r:.200}, neither a number from 0 nor a name"


def _inside(document: Any, field: str) -> Any:
    for part in field.split("."):
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def _window(read: Read, ahead: int) -> Read:
    """Reads with a stretch kept, so that short reads close to each other are one of the file."""
    first, kept = 0, b""

    def through(start: int, end: int) -> bytes:
        nonlocal first, kept
        if not first <= start <= end <= first + len(kept):
            first, kept = start, bytes(read(start, max(end, start + ahead)))
        return kept[start - first : end - first]

    return through
