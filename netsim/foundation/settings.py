"""Finds the sections that a pydantic model consists of, and the section that a kind chooses."""

import reprlib
from collections.abc import Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic.fields import FieldInfo


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a value of a type may be, such as those of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in sections_in(part)]


def kind_of(section: type[BaseModel]) -> str | None:
    """The `kind` by which a file chooses a section; None: there is no choice."""
    field = section.model_fields.get("kind")
    return None if field is None else field.default


def sections_at(model: type[BaseModel], path: Sequence[int | str]) -> list[type[BaseModel]]:
    """The sections of a model that may stand at a path.

    It consists of keys, also those of a mapping to sections, numbers of a list, and the kinds that pydantic puts in.
    """
    sections, mapped = [model], False
    for part in path:
        chosen = [section for section in sections if part in kinds_of(section)]
        fields = [
            field
            for section in sections
            for name, field in section.model_fields.items()
            if part in (name, field.alias) and not chosen
        ]
        inner = [section for field in fields for section in _sections_of(field)]
        named = mapped and not chosen and not fields
        sections = chosen or inner or (sections if isinstance(part, int) or named else [])
        mapped = any(get_origin(field.annotation) is dict for field in fields)
    return sections


def kinds_of(section: type[BaseModel]) -> tuple[str, ...]:
    """The values that `kind` may have in a section."""
    field = section.model_fields.get("kind")
    return () if field is None else get_args(field.annotation)


def by_kind(union: Any) -> dict[str, Any]:
    """The sections of a union by their kinds, in its order; classes of users have none."""
    return {kind: section for section in sections_in(union) for kind in kinds_of(section)}


def _sections_of(field: FieldInfo) -> list[type[BaseModel]]:
    """The models that the value of a field may be, in a file or when it has been read."""
    written = [part.json_schema_input_type for part in field.metadata if isinstance(part, BeforeValidator)]
    return list(dict.fromkeys(section for part in (field.annotation, *written) for section in sections_in(part)))


def with_kinds(model: type[BaseModel], document: Any) -> Any:
    """Adds the default kind to sections without one, and the default's other settings.

    A section that names a class has no kind.
    """
    if not isinstance(document, dict):
        return document
    return {
        key: _with_kind(model.model_fields[key].annotation, model.model_fields[key].default, value)
        if key in model.model_fields
        else value
        for key, value in document.items()
    }


def _with_kind(annotation: Any, default: Any, value: Any) -> Any:
    if not isinstance(value, dict) or "class" in value:
        return value
    if "kind" not in value and isinstance(default, BaseModel) and kind_of(type(default)) is not None:
        value = {"kind": kind_of(type(default)), **default.model_dump(exclude_unset=True), **value}
    sections = sections_in(annotation)
    fitting = [section for section in sections if len(sections) == 1 or kind_of(section) == value.get("kind")]
    return with_kinds(fitting[0], value) if fitting else value


class Section(BaseModel):
    """Settings that are checked when they are read and never change: no unknown key, no infinity.

    Where a part has a default, settings of it without a kind are of the default's kind.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _kinds_follow_the_defaults(cls, document: Any) -> Any:
        return with_kinds(cls, document)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_is_a_number(cls, document: Any) -> Any:
        """Refuses true for a number and 1 for true, which pydantic converts. YAML takes yes and on for true.

        Quantities, which are text with a unit, check their values themselves.
        """
        for name, value in document.items() if isinstance(document, dict) else ():
            field = cls.model_fields.get(name)
            if field is None:
                continue
            is_quantity = any(isinstance(part, BeforeValidator) for part in field.metadata)
            if isinstance(value, bool) and not is_quantity and takes_numbers_alone(field.annotation):
                raise ValueError(f"{name}: is {str(value).lower()}, not a number; write a number")
            if field.annotation is bool and not isinstance(value, bool):
                raise ValueError(f"{name}: is {reprlib.repr(value)}, neither true nor false; write true or false")
        return document


def takes_numbers_alone(annotation: Any) -> bool:
    """Whether a field of a type takes numbers, but neither true nor false."""
    parts = get_args(annotation) or (annotation,)
    types = {inner for part in parts for inner in (get_args(part) or (part,))}
    return bool(types & {int, float}) and bool not in types
