"""What the fields of a section mean, as their docstrings say it."""

import ast
import inspect
import re
import sys
from functools import cache
from pathlib import Path

from pydantic import BaseModel

_LISTED = re.compile(r"(?m)^(?:Args|Attributes):\n((?:(?: .*)?\n?)+)")
_ENTRY = re.compile(r"(?ms)^ {4}(\w+): (.*?)(?=^ {4}\w+: |\Z)")


def meanings(section: type[BaseModel]) -> dict[str, str]:
    """The meaning of each field of a section, on one line.

    It is the text under the field, or its entry under ``Args`` or ``Attributes`` in the docstring of the class; that of
    a subclass comes before that of its base.

    Args:
        section: a class of the packages, whose source can be read.

    Returns:
        The meanings by the names of the fields; a field without one is missing.
    """
    found: dict[str, str] = {}
    for base in reversed(section.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            found |= _listed(base) | _below_fields(base.__module__).get(base.__qualname__, {})
    fields = section.model_fields.items()
    return {name: _capital(found[key]) for name, field in fields for key in (field.alias, name) if key in found}


def summary(section: type[BaseModel]) -> str:
    """The first paragraph of the docstring of a section, on one line."""
    return _one_line((inspect.cleandoc(section.__doc__ or "")).partition("\n\n")[0])


def _listed(section: type[BaseModel]) -> dict[str, str]:
    """The entries of a class's own docstring."""
    text = inspect.cleandoc(section.__dict__.get("__doc__") or "") + "\n"
    return {name: _one_line(meaning) for block in _LISTED.findall(text) for name, meaning in _ENTRY.findall(block)}


@cache
def _below_fields(module: str) -> dict[str, dict[str, str]]:
    """The texts under the fields of a module's classes, by class and field."""
    source = Path(inspect.getfile(sys.modules[module])).read_text(encoding="utf-8")
    found: dict[str, dict[str, str]] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            pairs = zip(node.body, node.body[1:], strict=False)
            found[node.name] = {
                field.target.id: _one_line(below.value.value)
                for field, below in pairs
                if isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            }
    return found


def _capital(text: str) -> str:
    """A sentence with a capital at its start, unless it starts with a value or a symbol."""
    return text[0].upper() + text[1:] if re.match(r"[a-z]{2,}[ ,]", text) else text


def _one_line(text: str) -> str:
    """A text without line breaks and without the marks of cross-references."""
    return re.sub(r":\w+:`~?([^`]*)`|``([^`]*)``", r"`\1\2`", " ".join(text.split()))
