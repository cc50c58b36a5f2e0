"""What a configuration leaves out because the files that it names say it, such as the shape of their examples.

Sections that name such files have a class method ``resolved``. A resolved configuration is read without those files.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

import trainer.data
import trainer.flow.path
from netsim.foundation.own_class import OwnClass
from trainer.config.run import FLOWLESS, with_fitting_kinds
from trainer.data.latents import LatentsConfig, latents_of

Place = tuple[str, ...]
"""Keys from the top of a document."""


class Resolution(NamedTuple):
    """A document with what its files say.

    Attributes:
        document: as far as the files could be read.
        unresolved: why the section at a place could not be completed.
    """

    document: dict[str, Any]
    unresolved: dict[Place, ValueError]


def resolve(document: dict[str, Any]) -> Resolution:
    """Reads the files that a document names, and fills in what it leaves out because they say it; refuses nothing."""
    document = with_fitting_kinds(document)
    unresolved: dict[Place, ValueError] = {}
    if _kind(document.get("model")) not in FLOWLESS and isinstance(document.get("flow"), dict):
        flow = document["flow"]
        latent = latents_of(document.get("data")) if flow.get("latent") is None else None
        document = {**document, "flow": flow if latent is None else {**flow, "latent": latent}}
    for place, kinds in PLACES.items():
        document = _resolved_at(document, place, kinds, unresolved)
    return Resolution(_with_vocabulary(document), unresolved)


def with_unresolved(error: ValidationError, unresolved: Mapping[Place, ValueError]) -> ValidationError:
    """The complaints of a validation; about an unresolved section they say why, behind all others."""
    if not unresolved:
        return error
    others = [
        InitErrorDetails(
            type=PydanticCustomError(detail["type"], detail["msg"], detail.get("ctx")),  # pyright: ignore[reportArgumentType]  any text
            loc=detail["loc"],
            input=detail["input"],
        )
        for detail in error.errors()
        if not any(detail["loc"][: len(place)] == place for place in unresolved)
    ]
    causes = [
        InitErrorDetails(type="value_error", loc=place, input=None, ctx={"error": reason})
        for place, reason in unresolved.items()
    ]
    return ValidationError.from_exception_data(error.title, [*others, *causes]).with_traceback(error.__traceback__)


def _by_kind(union: Any) -> dict[str, type[BaseModel]]:
    """The members of a union by their kind."""
    kinds = (section for section in get_args(union) if not issubclass(section, OwnClass))
    return {get_args(section.model_fields["kind"].annotation)[0]: section for section in kinds}


PLACES: dict[Place, dict[str, type[BaseModel]]] = {
    ("data",): _by_kind(trainer.data.AnyConfig),
    ("flow", "source"): _by_kind(trainer.data.AnyConfig),
    ("flow", "latent"): {"": LatentsConfig},
    ("flow", "captions"): {"": trainer.data.CaptionsConfig},
    ("flow", "path"): {"tabulated": trainer.flow.path.TabulatedConfig},
}
"""The sections that a file may have to complete, by their kind."""


def _with_vocabulary(document: dict[str, Any]) -> dict[str, Any]:
    """A document whose gpt, where it says nothing of its vocabulary, has that of the data."""
    model, data = document.get("model"), document.get("data")
    if not (isinstance(model, dict) and isinstance(data, dict)) or _kind(model) != "gpt":
        return document
    sources = data.get("sources")
    if _kind(data) == "mixture" and isinstance(sources, dict) and sources:
        data = next(iter(sources.values()))
    if model.get("vocabulary") is not None or not isinstance(data, dict) or "vocabulary" not in data:
        return document
    return {**document, "model": {**model, "vocabulary": data["vocabulary"]}}


def _kind(section: Any) -> str:
    return str(section.get("kind", "")) if isinstance(section, dict) else ""


def _resolved_at(
    document: Any, place: Place, kinds: Mapping[str, Any], unresolved: dict[Place, ValueError], inside: Place = ()
) -> Any:
    """A document whose section at a place is resolved; notes it where that cannot be done."""
    if not isinstance(document, dict):
        return document
    if place:
        key, *rest = place
        if key not in document:
            return document
        return {**document, key: _resolved_at(document[key], tuple(rest), kinds, unresolved, (*inside, key))}
    resolved = getattr(kinds.get(_kind(document)), "resolved", None)
    if resolved is None:
        return document
    try:
        return resolved(document)
    except ValueError as error:
        unresolved[inside] = error
        return document
