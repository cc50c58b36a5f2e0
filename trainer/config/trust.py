"""Which classes are imported: those that the configuration of a command names, and on request those of run folders.

A run folder may come from a stranger, and cannot prove that it does not. A class that its files name is therefore
imported only on request: the command names the class in its own configuration, or has the option ``--trust-code``.
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
    """A context for one command with its own set of trusted classes, separate from earlier and later commands."""
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
    """Adds the classes that a user's document names to the trusted ones, wherever they are named later."""
    _named.update(_classes(document))


def importing_trusted() -> AbstractContextManager[None]:
    """A context in which only trusted classes are imported."""
    return importing_only(None if _folders else frozenset(_named), _REMEDY)


def options() -> list[str]:
    """Returns the arguments by which a trainer command trusts classes of run folders if this process does."""
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
