"""Groups of keys on a terminal, or one line a key where the output is piped."""

import os
import re
import sys
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from netsim.foundation.keys import Group, Key, groups
from netsim.foundation.refusal import Refusal, nearest

WIDEST = 120


def matching(schema: dict[str, Any], prefix: str | None, document: str) -> list[Group]:
    """The groups of a schema whose keys begin with a dotted prefix; a refusal names the nearest key of the document."""
    if not prefix:
        return groups(schema)
    everything = groups(schema, whole=True)
    parts = tuple(prefix.removesuffix(".").split("."))
    matched = [
        Group(group.place, group.meaning, keys)
        for group in everything
        if (keys := tuple(key for key in group.keys if group.matches(parts, key.name.rpartition(".")[2])))
        or (group.matches(parts) and not group.keys)
    ]
    if matched:
        return matched
    names = {".".join(part.name for part in group.place) for group in everything}
    names |= {key.name for group in everything for key in group.keys}
    near = nearest(prefix, sorted(names))
    remedy = f"use {near}, or leave it out to see all" if near else "leave it out to see all"
    raise Refusal("", "PREFIX", f"{prefix} is not a key of {document}", remedy)


def print_groups(shown: list[Group], *, whole: bool) -> None:
    """Prints groups of keys, with the whole meaning of each or its first sentence."""
    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        try:
            print("\n".join(plain(group, key, whole=whole) for group in shown for key in group.keys), flush=True)
        except BrokenPipeError:  # the reader of the pipe has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    console.width = min(console.width, WIDEST)
    for group in shown:
        title = Text(group.title or "top level", "bold")
        console.print(Text.assemble("\n", title, "  ", (group.meaning if whole else _first(group.meaning), "dim")))
        for key in group.keys:
            facts = [(key.name, "cyan"), "  ", key.values, *([("  " + _default(key), "green")] if key.default else [])]
            console.print(Padding(Text.assemble(*facts, *([f"  {key.unit}"] if key.unit else [])), (0, 0, 0, 2)))
            if key.meaning and key.meaning != group.meaning:
                console.print(Padding(Text(key.meaning if whole else _first(key.meaning), "dim"), (0, 0, 0, 6)))


def plain(group: Group, key: Key, *, whole: bool) -> str:
    """A key on one line, with its whole meaning or its first sentence."""
    condition = f" ({group.condition})" if group.condition else ""
    facts = ", ".join(part for part in (key.values, _default(key), key.unit) if part)
    return f"{key.name}{condition}: {facts}. {key.meaning if whole else _first(key.meaning)}".strip()


def _default(key: Key) -> str:
    return key.default if key.default in ("", "required") else f"default {key.default}"


def _first(meaning: str) -> str:
    """The first sentence of a meaning."""
    return re.split(r"(?<=[.;])\s+(?=[A-Z])", meaning, maxsplit=1)[0]
