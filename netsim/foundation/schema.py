"""JSON Schemas of sections, with the meaning of each key, from which editors complete and `keys` prints."""

import ast
import inspect
import re
import sys
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import ModelSchema

_DRAFT = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
_LISTED = re.compile(r"(?m)^(?:Args|Attributes):\n((?:(?: .*)?\n?)+)")
_ENTRY = re.compile(r"(?ms)^ {4}(\w+): (.*?)(?=^ {4}\w+: |\Z)")


def described(document: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of the section that is a whole document, with the meaning of each key."""
    return _DRAFT | document.model_json_schema(by_alias=True, schema_generator=_Generator)


def described_kinds(kinds: Any) -> dict[str, Any]:
    """The JSON Schema of a document that is one of several sections: `kinds` is their union, with validators."""
    return _DRAFT | TypeAdapter(kinds).json_schema(by_alias=True, schema_generator=_Generator)


class _Generator(GenerateJsonSchema):
    """Writes meanings and defaults into a schema."""

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        """Writes the meaning of a section and of each of its fields."""
        built = super().model_schema(schema)
        section = schema["cls"]
        built["description"] = summary(section)
        texts = meanings(section)
        for name, field in section.model_fields.items():
            node = built["properties"][field.alias or name]
            if name in texts:
                node["description"] = texts[name]
            if "default" in node:
                node["default"] = _default(field)
        return built


def _default(field: FieldInfo) -> Any:
    """The default of a field as a file would write it: quantities with their units, of a section its kind alone."""
    default = field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        written = default.model_dump(mode="json", by_alias=True, exclude_unset=True)
        kind = getattr(default, "kind", None)
        return written if kind is None else {"kind": kind}
    annotated: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    return TypeAdapter(annotated).dump_python(default, mode="json")


def meanings(section: type[BaseModel]) -> dict[str, str]:
    """The meaning of each field of a section on one line, by name, as far as it has one.

    It is the text under the field, or its entry under ``Args`` or ``Attributes`` in the docstring of the class; that
    of a subclass comes before that of its base.
    """
    texts: dict[str, str] = {}
    for base in reversed(section.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            texts |= _listed(base) | _below_fields(base.__module__).get(base.__qualname__, {})
    fields = section.model_fields.items()
    return {name: _capital(texts[key]) for name, field in fields for key in (field.alias, name) if key in texts}


def summary(section: type[BaseModel]) -> str:
    """The first paragraph of the docstring of a section, on one line."""
    return _one_line((inspect.cleandoc(section.__doc__ or "")).partition("\n\n")[0])


def _listed(section: type[BaseModel]) -> dict[str, str]:
    """The entries of a class's own docstring."""
    text = inspect.cleandoc(section.__dict__.get("__doc__") or "") + "\n"
    return {name: _one_line(meaning) for block in _LISTED.findall(text) for name, meaning in _ENTRY.findall(block)}


@cache
def _below_fields(module: str) -> dict[str, dict[str, str]]:
    """The texts below the fields of a module's classes, by class and field."""
    source = Path(inspect.getfile(sys.modules[module])).read_text(encoding="utf-8")
    texts: dict[str, dict[str, str]] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            pairs = zip(node.body, node.body[1:], strict=False)
            texts[node.name] = {
                field.target.id: _one_line(below.value.value)
                for field, below in pairs
                if isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            }
    return texts


def _capital(text: str) -> str:
    """A sentence with a capital at its start, unless it starts with a value or a symbol."""
    return text[0].upper() + text[1:] if re.match(r"[a-z]{2,}[ ,]", text) else text


def _one_line(text: str) -> str:
    """A text without line breaks and without the marks of cross-references."""
    return re.sub(r":\w+:`~?([^`]*)`|``([^`]*)``", r"`\1\2`", " ".join(text.split()))
