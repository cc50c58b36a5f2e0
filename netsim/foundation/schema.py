"""JSON Schemas of sections, with the meaning of each key, from which editors complete and `keys` prints."""

from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import ModelSchema

from netsim.foundation.meaning import meanings, summary

_DRAFT = {"$schema": "https://json-schema.org/draft/2020-12/schema"}


def described(document: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of a document, with the meaning of each key.

    Args:
        document: the section that is the whole file.
    """
    return _DRAFT | document.model_json_schema(by_alias=True, schema_generator=_Generator)


def described_kinds(kinds: Any) -> dict[str, Any]:
    """The same of a document that is one of several sections.

    Args:
        kinds: their union, with its validators.
    """
    return _DRAFT | TypeAdapter(kinds).json_schema(by_alias=True, schema_generator=_Generator)


class _Generator(GenerateJsonSchema):
    """Writes meanings into the schema."""

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        """See pydantic."""
        built = super().model_schema(schema)
        section = schema["cls"]
        built["description"] = summary(section)
        told = meanings(section)
        for name, field in section.model_fields.items():
            node = built["properties"][field.alias or name]
            if name in told:
                node["description"] = told[name]
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
