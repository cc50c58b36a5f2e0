"""Which classes are imported: those that the configuration of a command names, and on request those of run folders.

A run folder may come from a stranger, and cannot prove that it does not. So a class that its files name is code that
is not run without being asked for: the command names it in its own configuration, or carries ``--trust-code``.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from netsim.foundation.contract import importing_only

OPTION = "--trust-code"
_REMEDY = f"add {OPTION} if you trust whoever wrote the folder, and start where its module is"

_named: set[str] = set()
_folders = False


@contextmanager
def trusting(*, folders: bool) -> Iterator[None]:
    """The time of one command: it trusts nothing that an earlier one did, nor a later one what it does."""
    global _folders
    before, named = _folders, frozenset(_named)
    _folders = folders
    _named.clear()
    try:
        yield
    finally:
        _folders = before
        _named.clear()
        _named.update(named)


def trust(document: Any) -> None:
    """Trusts the classes that a user's document names, wherever they are named again."""
    _named.update(_classes(document))


def importing_trusted() -> AbstractContextManager[None]:
    """A block in which no class is imported that is not trusted."""
    return importing_only(None if _folders else frozenset(_named), _REMEDY)


def options() -> list[str]:
    """Arguments by which a command of the trainer's trusts what this process trusts."""
    return [OPTION] if _folders else []


def _classes(document: Any) -> Iterator[str]:
    waiting = [document]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if isinstance(node.get("class"), str):
                yield node["class"]
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
