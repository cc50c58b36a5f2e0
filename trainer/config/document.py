"""A YAML file of sections, and the changes of the command line to it; its keys are not checked here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from netsim.foundation.complaint import validated
from netsim.foundation.documents import check_mapping, parse_yaml, read_shipped
from netsim.foundation.refusal import Refusal, problem_and_remedy


def read_document(path: Path, examples: str = "configs/runs") -> dict[str, Any]:
    """Reads a YAML file of sections by its path, or by its name in the folder `examples` of the package."""
    folder = Path(examples).name
    such = "run, model, optim" if folder == "runs" else f"those of the files in {examples}"
    document = read_shipped(path, "a YAML file", folder, "*")
    return dict(check_mapping(document, path, f"write sections such as {such}"))


def check_is_of_a_run(path: Path, document: dict[str, Any]) -> None:
    """Refuses a file that names the format of a scenario or a sweep."""
    kind = str(document.get("format", ""))
    if kind.startswith(("flowfabric.scenario/", "flowfabric.sweep/")):
        remedy = f"give it to python -m netsim {'sweep' if 'sweep' in kind else 'compare'}"
        raise Refusal(path, "format", f"{kind} is not a run configuration", remedy)


def apply_override(path: Path, document: dict[str, Any], override: str) -> None:
    """Changes a document in place by ``dotted.key=value`` with the value in YAML; `path` is for messages."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise Refusal(
            path, override, "is not a setting", "write dotted.key=value without spaces, for example optim.steps=200"
        )
    if key == "stages":
        remedy = "write them in the file; stages.NAME.key=value changes one"
        raise Refusal(path, key, "cannot be replaced as a whole", remedy)
    try:
        value = parse_yaml(text)
    except Refusal as error:
        raise Refusal(path, key, *problem_and_remedy(error)) from error
    except ValueError as error:
        raise Refusal(path, key, f"its value is not YAML ({text})", "quote it") from error
    *sections, last = key.split(".")
    node = document
    for depth, section in enumerate(sections, start=1):
        child = {} if node.get(section) is None else node[section]
        if not isinstance(child, dict):
            parent = ".".join(sections[:depth])
            raise Refusal(path, key, f"{parent} is not a section ({child})", f"write {parent}=VALUE")
        node[section] = node = dict(child)
    node[last] = value


R = TypeVar("R", bound=BaseModel)

REQUESTS = "configs/requests"
"""Folder of the packaged requests, which are found by name."""


def load_request(path: Path, overrides: Sequence[str], kind: type[R], **changes: Any) -> R:
    """Reads and validates a request, after the overrides in order and then the `changes` of sections by options.

    Keys of a change replace those of the file; a change of kind replaces the whole section. None: no change.
    """
    document = read_document(path, REQUESTS)
    for override in overrides:
        apply_override(path, document, override)
    for name, change in changes.items():
        if change is not None:
            document[name] = _changed(document.get(name), change)
    return validated(document, path, kind)


def _changed(section: Any, change: Mapping[str, Any]) -> Any:
    if not isinstance(section, dict):
        return dict(change)
    other = "kind" in change and section.get("kind") != change["kind"]
    return {**({} if other else section), **change}


def merged(document: Any, changes: Any) -> Any:
    """A document with `changes` written over it key by key; a section of another kind replaces the one before."""
    if not isinstance(document, dict) or not isinstance(changes, dict):
        return changes
    if any(name in changes and changes[name] != document.get(name) for name in ("kind", "class")):
        return changes
    changed = {key: merged(document[key], value) if key in document else value for key, value in changes.items()}
    return {**document, **changed}
