"""Damage to the meaning of a JSON or YAML document: keys dropped, doubled, misspelt, values of another type."""

import json
import random
from collections.abc import Iterator
from typing import Any

import yaml

from tests.fuzz.oddities import JSON, YAML, Verbatim, odd


class _Pairs(list[list[Any]]):
    """A mapping in which a key may stand twice: [key, value] each."""


def damaged_json(content: bytes, rng: random.Random) -> bytes:
    """A JSON document with one to three changes."""
    return _damaged(json.loads(content), rng, JSON)


def damaged_yaml(content: bytes, rng: random.Random) -> bytes:
    """A YAML document with one to three changes, in flow style."""
    return _damaged(yaml.safe_load(content), rng, YAML)


def damaged_lines(content: bytes, rng: random.Random) -> bytes:
    """JSON lines of which one is changed, or dropped, doubled or moved; the first is the likeliest."""
    lines = content.splitlines()
    at = 0 if rng.random() < 0.3 else rng.randrange(len(lines))
    match rng.randrange(10):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[at])
        case 2:
            lines.insert(rng.randrange(len(lines)), lines.pop(at))
        case 3:
            lines.insert(at, rng.choice([b"", b" ", b"null", b"[]", b"1", b"{}", b'"a"', b"{" * 3000]))
        case _:
            lines[at] = damaged_json(lines[at], rng).replace(b"\n", b" ")
    return b"".join(line + b"\n" for line in lines)


def _damaged(document: Any, rng: random.Random, own: list[str]) -> bytes:
    whole: list[Any] = [_loose(document)]
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        _change(whole, rng, own)
    return _written(whole[0]).encode("utf-8", "surrogatepass")


def _loose(value: Any) -> Any:
    match value:
        case dict():
            return _Pairs([key, _loose(inner)] for key, inner in value.items())
        case list():
            return [_loose(inner) for inner in value]
    return value


def _places(container: list[Any]) -> Iterator[tuple[list[Any], int]]:
    """Every value of a document as the list that holds it and its number there."""
    for number, value in enumerate(container):
        place = (value, 1) if isinstance(container, _Pairs) else (container, number)
        yield place
        inner = place[0][place[1]]
        if isinstance(inner, list):
            yield from _places(inner)


def _change(whole: list[Any], rng: random.Random, own: list[str]) -> None:
    places = list(_places(whole))
    holder, at = rng.choice(places)
    value = holder[at]
    maps = [inner for one, number in places if isinstance(inner := one[number], _Pairs) and inner]
    match rng.randrange(12):
        case 0 if maps:
            chosen = rng.choice(maps)
            del chosen[rng.randrange(len(chosen))]
        case 1 if maps:
            chosen = rng.choice(maps)
            key, old = rng.choice(chosen)
            chosen.insert(rng.randrange(len(chosen) + 1), [key, rng.choice([old, odd(rng, own)])])
        case 2 if maps:
            pair = rng.choice(rng.choice(maps))
            pair[0] = _misspelt(str(pair[0]), rng)
        case 3 if maps:
            rng.choice(maps).append(
                [rng.choice(["x", "kind", "class", "", "<<", "path", odd(rng, own)]), odd(rng, own)]
            )
        case 4:
            other, number = rng.choice(places)
            holder[at] = _written_value(other[number])
        case 5:
            holder[at] = rng.choice(
                [
                    [value],
                    _Pairs([["kind", value]]),
                    _Pairs([["a", value]]),
                    [value, value],
                    Verbatim("[" * 500 + _written(value) + "]" * 500),
                ]
            )
        case 6 if isinstance(value, list) and value:
            value[:] = rng.choice([[], list(value) * 2, list(value[:1]), list(value[::-1])])
        case 7 if isinstance(value, int | float) and not isinstance(value, bool):
            holder[at] = rng.choice([-value, value + 1, value - 1, value * 1000, float(value), str(value), value / 3])
        case 8 if isinstance(value, str):
            holder[at] = rng.choice([value + "x", value[1:], value.upper(), value * 50, f" {value}", value + "\n"])
        case _:
            holder[at] = odd(rng, own)


def _misspelt(key: str, rng: random.Random) -> str:
    at = rng.randrange(len(key) + 1)
    return rng.choice([key[:at] + key[at + 1 :], key[:at] + "x" + key[at:], key.upper(), key * 2, f"{key} ", key[::-1]])


def _written_value(value: Any) -> Verbatim:
    """A copy, so that a document that was put into itself ends."""
    return Verbatim(_written(value))


def _written(value: Any) -> str:
    """The document as text."""
    match value:
        case Verbatim():
            return str(value)
        case _Pairs():
            keys = (str(key) if isinstance(key, Verbatim) else json.dumps(str(key)) for key, _ in value)
            inner = (_written(one) for _, one in value)
            return "{" + ", ".join(f"{key}: {one}" for key, one in zip(keys, inner, strict=True)) + "}"
        case list():
            return "[" + ", ".join(map(_written, value)) + "]"
    return json.dumps(value, ensure_ascii=False, default=str)
