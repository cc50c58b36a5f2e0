"""The JSON Schema of a run configuration, from which editors complete and `trainer keys` prints.

It accepts what the loader accepts. A section may omit its kind, every key with a default, and every key that a file
named in it gives. A configuration with stages may leave any key to them, and one with a base any key to that run.
Required keys are therefore kept apart: the schema of a section requires none, and the schema that `complete` makes of
it contains nothing else.
"""

import re
from typing import Any

from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue, models_json_schema
from pydantic_core.core_schema import ModelSchema

from netsim.foundation.own_class import OwnClass
from netsim.foundation.schema import meanings, summary
from netsim.foundation.settings import sections_in
from trainer.config.run import RunConfig
from trainer.config.task.environment import MeasureRequest
from trainer.sampling.edit_request import EditRequest
from trainer.sampling.pairs_request import PairsRequest
from trainer.sampling.restore_request import RestoreRequest
from trainer.sampling.step_search import StepsRequest
from trainer.training.path_fit import FitRequest

Node = dict[str, Any]
PREFIX = "#/$defs/"


def complete(node: Node, definitions: Node) -> Node:
    """Makes a schema that requires the keys marked ``x-required`` in a node and below; adds to `definitions`."""
    return _required(node, definitions) or {}


def _required(node: Node, definitions: Node) -> Node | None:
    if "$ref" in node:
        return _referred(node["$ref"].removeprefix(PREFIX), definitions)
    if "discriminator" in node:
        by_kind = {
            kind: _required({"$ref": place}, definitions) for kind, place in node["discriminator"]["mapping"].items()
        }
        branches = [
            {"if": {"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]}, "then": inner}
            for kind, inner in by_kind.items()
            if inner
        ]
        return {"allOf": branches} if branches else None
    if "else" in node and "x-class" in node:
        inner = _required(node["else"], definitions)
        return inner and {"if": {"type": "object", "required": ["class"]}, "else": inner}
    if "anyOf" in node:
        objects = [inner for one in node["anyOf"] if (inner := _required(one, definitions))]
        return {"if": {"type": "object"}, "then": objects[0]} if len(objects) == 1 else None
    properties: Node = node.get("properties", {})
    required = [name for name, inner in properties.items() if inner.get("x-required")]
    below = {name: keys for name, inner in properties.items() if (keys := _required(inner, definitions))}
    both = {"required": required, "properties": below}
    return {key: value for key, value in both.items() if value} or None


def _referred(name: str, definitions: Node) -> Node | None:
    """A reference to the schema of the keys that a definition requires; None if it requires none."""
    complete_name = f"{name}.complete"
    if complete_name not in definitions:
        definitions[complete_name] = None  # a section that holds itself
        definitions[complete_name] = _required(definitions[name], definitions)
        if definitions[complete_name] is None:
            del definitions[complete_name]
            return None
    return {"$ref": f"{PREFIX}{complete_name}"}


DOCUMENT = f"#/$defs/{RunConfig.__name__}"
"""The sections of a configuration, each of which may be left out."""
GOES_ON: Node = {"required": ["task"], "properties": {"task": {"type": "object", "required": ["base"]}}}
"""A configuration that may omit what its base sets."""
REQUESTS: dict[str, type[BaseModel]] = {
    "pairs": PairsRequest,
    "fit-path": FitRequest,
    "steps": StepsRequest,
    "measure": MeasureRequest,
}
"""Requests of stages that do not train, by their verb."""
IN_FILES: dict[str, type[BaseModel]] = {"restore": RestoreRequest, "edit": EditRequest}
"""Requests that are files in configs/requests, by their verb."""
UNITS = (
    *("bytes", "classes", "draws", "elements", "evaluations", "examples", "experts", "images", "layers", "nodes"),
    *("noises", "pairs", "pictures", "pixels", "points", "ranks", "steps", "threads", "tokens", "windows"),
)
"""Units of numbers whose meaning begins with them."""
SUFFIXES = {"_s": "s", "_ns": "ns", "_bytes": "bytes", "_steps": "steps"}
"""Units by the end of a name."""


def run_schema() -> Node:
    """The JSON Schema of configs/schemas/run.schema.json."""
    mode: JsonSchemaMode = "validation"
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [(RunConfig, mode)]
    models.extend((request, mode) for request in REQUESTS.values())
    _, described = models_json_schema(models, schema_generator=_Generator)
    definitions: Node = described["$defs"]
    document = definitions[RunConfig.__name__]
    properties = {name: {"$ref": f"{DOCUMENT}/properties/{name}"} for name in document["properties"]}
    whole = complete(document, definitions)
    for request in REQUESTS.values():
        definition = definitions[request.__name__]
        definition["allOf"] = [complete(definition, definitions)]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "flowfabric run configuration",
        "description": summary(RunConfig),
        "type": "object",
        "properties": {**properties, "stages": _stages()},
        "additionalProperties": False,
        "if": {"anyOf": [{"required": ["stages"]}, GOES_ON]},
        "then": {"required": ["run"]},
        "else": whole,
        "$defs": dict(sorted(definitions.items())),
    }


def request_schema(verb: str) -> Node:
    """The JSON Schema of a verb's requests as files: configs/schemas/VERB.schema.json."""
    request = IN_FILES[verb]
    _, described = models_json_schema([(request, "validation")], schema_generator=_Generator)
    definitions: Node = described["$defs"]
    place = f"#/$defs/{request.__name__}/properties"
    whole = complete(definitions[request.__name__], definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"flowfabric request of python -m trainer {verb}",
        "description": summary(request),
        "type": "object",
        "properties": {name: {"$ref": f"{place}/{name}"} for name in definitions[request.__name__]["properties"]},
        "additionalProperties": False,
        **({"allOf": [whole]} if whole else {}),
        "$defs": dict(sorted(definitions.items())),
    }


def _stages() -> Node:
    verbs = {"train": DOCUMENT, **{verb: f"#/$defs/{request.__name__}" for verb, request in REQUESTS.items()}}
    meaning = {
        "train": "Train a network; sections here replace those beside `stages`.",
        "pairs": "Draw pairs of source and data points with the network of an earlier stage.",
        "fit-path": "Fit the path of least kinetic energy to the data.",
        "steps": "Search times of few steps whose results come near those of many steps.",
        "measure": "Measure the true objectives of objects that a policy builds, for fitting a surrogate.",
    }
    return {
        "description": "Stages that run one after the other, each in its own folder below run.dir.",
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "properties": {
                "name": {
                    "type": "string",
                    "pattern": r"^[\w-]+$",
                    "description": "Name of the stage and of its folder.",
                    "x-required": True,
                },
                **{
                    verb: {"anyOf": [{"$ref": place}, {"type": "null"}], "description": meaning[verb]}
                    for verb, place in verbs.items()
                },
            },
            "required": ["name"],
            "oneOf": [{"required": [verb]} for verb in verbs],
            "additionalProperties": False,
        },
    }


class _Generator(GenerateJsonSchema):
    """Generates schemas with the meanings of fields, in which a section may leave out its kind."""

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        """Generates the schema of a section; required fields are only marked as ``x-required``."""
        built = super().model_schema(schema)
        section = schema["cls"]
        if issubclass(section, OwnClass):
            return {"type": "object", "properties": {"class": CLASS}, "required": ["class"]}
        required = set(built.pop("required", ()))
        texts = meanings(section)
        built.pop("title", None)
        built["description"] = summary(section)
        for name, field in section.model_fields.items():
            key = field.alias or name
            meaning = texts.get(name, "")
            built["properties"][key] = _property(built["properties"][key], section, name, field) | (
                {"description": meaning} if meaning else {}
            )
            noted = built["properties"][key]
            if key in required and key != "kind" and "left out" not in meaning.lower() and not _filled(section, name):
                noted["x-required"] = True
            unit = _unit(name, noted, meaning)
            if unit:
                noted["x-unit"] = unit
            for former in _former_names(field):
                built["properties"][former] = {**noted, "description": f"Former name of {key}.", "deprecated": True}
        return built


def _former_names(field: FieldInfo) -> list[str]:
    """Other names that a file may use for a field, so that old ones are still read."""
    alias = field.validation_alias
    return [str(name) for name in alias.choices[1:]] if isinstance(alias, AliasChoices) else []


def _filled(section: type[BaseModel], name: str) -> bool:
    """Whether the loader fills in this section of a run if a configuration omits it."""
    return section is RunConfig and name in ("data", "sample", "task")


def _property(node: Node, section: type[BaseModel], name: str, field: FieldInfo) -> Node:
    members = sections_in(field.annotation)
    takes_class = any(issubclass(member, OwnClass) for member in members) or (section is RunConfig and name == "model")
    node = _without_titles(_with_kinds(node))
    if takes_class:
        node = _or_class(node)
    if members:
        default = node.pop("default", "none")
        kind = default.get("kind") if isinstance(default, dict) else None
        if default is None or kind is not None:
            node["default"] = None if default is None else {"kind": kind}
    return node


def _with_kinds(node: Any) -> Any:
    """Returns a node in which unions are resolved by the ``kind`` of a section, if it has one."""
    if isinstance(node, list):
        return [_with_kinds(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    if "discriminator" not in node:
        return {key: _with_kinds(inner) for key, inner in node.items()}
    mapping: dict[str, str] = node["discriminator"]["mapping"]
    others = {key: inner for key, inner in node.items() if key not in ("discriminator", "oneOf")}
    branches = [
        {
            "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
            "then": {"$ref": place},
        }
        for kind, place in mapping.items()
    ]
    places = [{"$ref": place} for place in dict.fromkeys(mapping.values())]
    return {
        **others,
        "type": "object",
        "discriminator": {"propertyName": "kind", "mapping": mapping},
        "properties": {"kind": {"enum": list(mapping)}},
        "allOf": [*branches, {"if": {"not": {"required": ["kind"]}}, "then": {"anyOf": places}}],
    }


CLASS: Node = {"type": "string", "pattern": r"^[\w.]+:\w+$", "description": "Your own class, as module:Class."}


def _or_class(node: Node) -> Node:
    """Also accepts a section with a user's class and its settings; in a list or a mapping, for each element."""
    if node.get("type") == "array":
        return {**node, "items": _or_class(node["items"])}
    if "patternProperties" in node:
        named = {pattern: _or_class(inner) for pattern, inner in node["patternProperties"].items()}
        return {**node, "patternProperties": named}
    outer = {key: node[key] for key in ("default", "description") if key in node}
    inner = {key: value for key, value in node.items() if key not in outer}
    own = {
        "properties": {
            "class": CLASS,
            "kind": False,
        }
    }
    return {**outer, "if": {"type": "object", "required": ["class"]}, "then": own, "else": inner, "x-class": True}


def _without_titles(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_titles(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    return {key: _without_titles(inner) for key, inner in node.items() if key != "title" or not isinstance(inner, str)}


def _unit(name: str, node: Node, meaning: str) -> str | None:
    """Returns the unit of a field's number; None: it has no unit, or is no number."""
    if not re.search(r"'type': '(integer|number)'", repr({**node, "description": ""})):
        return None
    if node.get("items"):
        return None
    by_name = next((unit for end, unit in SUFFIXES.items() if f"_{name}".endswith(end)), None)
    first_words = (word.lower().rstrip(".,:;") for word in meaning.split()[:2])
    return by_name or next((word for word in first_words if word in UNITS), None)
