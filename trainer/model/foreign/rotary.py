"""The rotary settings of language models in the config.json of transformers, as versions 4 and 5 write them."""

from typing import Any

from trainer.model.foreign.document import Document

_REMEDY = "give weights with plain rotary positions (rope_type default)"


def rotary_base(document: Document, key: str) -> float:
    """The base of the frequencies; refuses scaled positions. Version 4 writes it under `key`."""
    return _settings(document).number("rope_theta", document.number(key, 10_000.0))


def rotary_share(document: Document, key: str, default: float) -> float:
    """The share of a head's coordinates that positions turn. Version 4 writes it under `key`."""
    return _settings(document).number("partial_rotary_factor", document.number(key, default))


def written(base: float, share: float | None = None) -> dict[str, Any]:
    """The settings as version 5 writes them."""
    partial = {} if share is None else {"partial_rotary_factor": share}
    return {"rope_theta": base, "rope_type": "default", **partial}


def _settings(document: Document) -> Document:
    document.expect_none("rope_scaling", remedy=_REMEDY)
    found = document.values.get("rope_parameters") or {}
    if not isinstance(found, dict):
        document.refuse("rope_parameters", found, _REMEDY)
    inside = Document(document.path, found)
    inside.expect("rope_type", "default", _REMEDY)
    return inside
