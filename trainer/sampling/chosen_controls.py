"""The controls that somebody asks for on the command line, in place of the run's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from netsim.foundation.complaint import Complaint, first_complaint
from netsim.foundation.documents import parse_yaml, read_yaml
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.config.rules.drawing import of_drawn
from trainer.config.rules.objection import refuse
from trainer.config.run import RunConfig
from trainer.config.sample import Controls
from trainer.flow import sampler
from trainer.flow.control import AnyConfig

_OPTION = "--controls"
_REMEDY = "give a list such as '[{kind: cost_gradient, cost: {class: \"my_costs:Ink\"}}]' or a YAML file, '[]' for none"


class _Asked(Section):
    controls: Controls


def read_controls(text: str) -> tuple[AnyConfig, ...]:
    """The controls of a list as YAML or JSON, of a single control, or of a YAML file of either (perhaps under
    ``controls``).
    """
    if text.lstrip()[:1] not in ("[", "{", "-", ""):
        return _in_file(Path(text))
    try:
        document = parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"{_OPTION}: {text} cannot be read ({error}); {_REMEDY}") from error
    if not isinstance(document, list | dict):
        raise ValueError(f"{_OPTION}: {text!r} lists no controls; {_REMEDY}")
    found = _validated(document)
    if isinstance(found, Complaint):
        raise ValueError(f"--{found.field}: {found.problem}; {found.remedy or _REMEDY}") from found.cause
    return found


def check_chosen_controls(config: RunConfig, drawn_by: sampler.AnyConfig, guidance: float) -> None:
    """Refuses controls that do not suit a run or a sampler."""
    try:
        refuse(of_drawn(config, drawn_by, guidance))
    except ValueError as error:
        raise ValueError(f"{_OPTION}: {error}") from error


def _in_file(path: Path) -> tuple[AnyConfig, ...]:
    try:
        document = read_yaml(path, "another file")
    except OSError as error:
        raise Refusal(path, "file", f"cannot be read ({error.strerror})", _REMEDY) from error
    if not isinstance(document, list | dict):
        raise Refusal(path, "document", "lists no controls", "write a list such as - {class: my_module:Mine}")
    found = _validated(document)
    if isinstance(found, Complaint):
        raise Refusal(path, found.field, found.problem, found.remedy or "correct the value") from found.cause
    return found


def _validated(document: list[Any] | dict[str, Any]) -> tuple[AnyConfig, ...] | Complaint:
    if isinstance(document, dict):
        document = document["controls"] if list(document) == ["controls"] else [document]
    asked = {"controls": document}
    try:
        return _Asked.model_validate(asked).controls
    except ValidationError as error:
        return first_complaint(error, asked, _Asked)
