"""Reading what is asked of a trained run from a YAML file and the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from netsim.foundation.complaint import first_complaint
from netsim.foundation.refusal import Refusal
from trainer.config.document import apply_override, read_document

R = TypeVar("R", bound=BaseModel)

REQUESTS = "configs/requests"
"""Where the requests that come with the package are looked up by their names."""


def load_request(path: Path, overrides: Sequence[str], kind: type[R], **changes: Any) -> R:
    """Reads and validates a request.

    Args:
        path: YAML file, or the name of one that comes with the package.
        overrides: ``dotted.key=value`` with the value in YAML, applied in order.
        kind: model of the request.
        **changes: sections that options of the command line make, whose keys replace those of the file; where they
            name another kind, nothing else of that section is kept. None: not given.
    """
    document = read_document(path, REQUESTS)
    for override in overrides:
        apply_override(path, document, override)
    for name, change in changes.items():
        if change is not None:
            document[name] = _changed(document.get(name), change)
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        complaint = first_complaint(error, document, kind)
        remedy = complaint.remedy or "correct the value"
        raise Refusal(path, complaint.field, complaint.problem, remedy) from complaint.cause or error


def _changed(section: Any, change: Mapping[str, Any]) -> Any:
    if not isinstance(section, dict):
        return dict(change)
    other = "kind" in change and section.get("kind") != change["kind"]
    return {**({} if other else section), **change}
