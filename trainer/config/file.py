"""Reading a configuration of a run, completed from its base and from the files that it names.

With ``task: {kind: grpo, base: runs/digits}`` the sections of :data:`SECTIONS` are those of the newest checkpoint of
``runs/digits``, changed by what is written in them, and the network begins with its averaged weights. Sections that
name other files have a class method ``resolved``, which fills in what these say, such as the shape of examples. The
configuration that a run records is whole, with digests, and is read without base and files.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

import trainer.data
import trainer.flow.path
from netsim.foundation.complaint import first_complaint
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import by_kind
from trainer.config.document import apply_override, check_is_of_a_run, merged, read_document
from trainer.config.run import FLOWLESS, RunConfig, with_fitting_kinds
from trainer.config.trust import importing_trusted, trust
from trainer.data.shards import LatentsConfig, latents_of

SECTIONS = ("model", "moe", "flow", "data", "sample")
"""What a run takes from its base."""
FIELD = "task.base"
CHECKPOINT, COMPLETE = r"step_\d{8,}", "COMPLETE"
"""Name of a checkpoint's folder, and of the file that is written last into it."""


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads and validates a configuration; overrides are ``dotted.key=value`` in YAML, applied in order.

    :func:`trainer.config.rules.plan.plan_layout` checks what depends on the number of ranks. A Refusal names file,
    field, value and remedy of a missing or malformed file, an unknown key or a value out of range.
    """
    path = Path(path)
    document = read_document(path)
    for override in overrides:
        apply_override(path, document, override)
    return validated(path, document)


def load_run(folder: Path) -> RunConfig:
    """Reads ``config.yaml`` of a run folder, a checkpoint, or beside weights; refuses classes that are not trusted."""
    path = folder / "config.yaml"
    return _validated(path, read_document(path))


def validated(path: Path, document: dict[str, Any]) -> RunConfig:
    """Trusts a document's classes, completes it from base and files, and validates it; errors of files come last."""
    trust(document)
    return _validated(path, document)


def _validated(path: Path, document: dict[str, Any]) -> RunConfig:
    check_is_of_a_run(path, document)
    document = with_base(document)
    with importing_trusted():
        complete, unresolved = resolve(document)
        try:
            return RunConfig.model_validate(complete)
        except ValidationError as error:
            complaint = first_complaint(with_unresolved(error, unresolved), document, RunConfig)
            remedy = complaint.remedy or "correct the value"
            raise Refusal(path, complaint.field, complaint.problem, remedy) from complaint.cause or error


def with_base(document: dict[str, Any]) -> dict[str, Any]:
    """A configuration completed by the run that its task continues; unchanged without a base, or where it is whole."""
    task = document.get("task")
    base = task.get("base") if isinstance(task, dict) and "class" not in task else None
    folder = base.get("run") if isinstance(base, dict) else base
    if not isinstance(folder, str | Path) or _is_whole(document, base):
        return document
    record = _record(Path(folder), document)
    completed = {**document}
    for name in SECTIONS:
        if name not in document:
            completed[name] = record.get(name)
        elif document[name] is not None:
            completed[name] = _changed(record.get(name), document[name])
    written = document.get("model")
    completed["model"] = _going_on(completed["model"], written if isinstance(written, dict) else {}, str(folder))
    return completed


def _is_whole(document: dict[str, Any], base: Any) -> bool:
    """Whether a document is the record of a run: all sections present, and the digest of the base."""
    return isinstance(base, dict) and base.get("digest") is not None and all(name in document for name in SECTIONS)


def _changed(recorded: Any, written: Any) -> Any:
    """Merges a written section over the recorded one; a section with another `path` replaces it."""
    both = isinstance(recorded, dict) and isinstance(written, dict)
    if both and "path" in written and str(written["path"]) != str(recorded.get("path")):
        return written
    return merged(recorded, written)


def _going_on(model: Any, written: dict[str, Any], folder: str) -> Any:
    """The section of a network that begins with the weights of the base, or adapts them."""
    if not isinstance(model, dict):
        return model
    adapters = written.get("adapters")
    if isinstance(adapters, dict) and adapters.get("base") is None:
        return {**model, "init_from": written.get("init_from"), "adapters": {**model["adapters"], "base": folder}}
    begun = {"init_from": folder, **({"init_new": []} if "init_new" in model else {})}  # the base has all parts
    return {**model, **{key: value for key, value in begun.items() if key not in written}}


def _record(folder: Path, document: dict[str, Any]) -> dict[str, Any]:
    steps = [path for path in (folder / "checkpoints").glob("step_*") if re.fullmatch(CHECKPOINT, path.name)]
    complete = [path for path in steps if (path / COMPLETE).exists()]
    if not complete:
        problem = "holds no complete checkpoint" if folder.is_dir() else "does not exist"
        raise Refusal(folder, FIELD, problem, _remedy(document))
    path = max(complete, key=lambda step: int(step.name.removeprefix("step_"))) / "config.yaml"
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else "is not YAML"
        raise Refusal(path, FIELD, f"cannot be read ({reason})", _remedy(document)) from error
    if not isinstance(record, dict):
        raise Refusal(path, FIELD, "is no configuration", _remedy(document))
    return record


def _remedy(document: dict[str, Any]) -> str:
    run = document.get("run")
    own = Path(str(run.get("dir"))) / "config.yaml" if isinstance(run, dict) else None
    named = "name the folder of a run that has saved a checkpoint"
    return f"{named}, or resume with {own}" if own is not None and own.is_file() else named


Place = tuple[str, ...]
"""Keys from the top of a document."""


class Resolution(NamedTuple):
    """A document completed as far as its files could be read, and an error for each section that could not."""

    document: dict[str, Any]
    unresolved: dict[Place, ValueError]


def resolve(document: dict[str, Any]) -> Resolution:
    """Completes a document from the files that it names; returns errors of unreadable files and raises none."""
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
    """Replaces errors about sections that `unresolved` lists by its errors, which come after all others."""
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


PLACES: dict[Place, dict[str, type[BaseModel]]] = {
    ("data",): by_kind(trainer.data.AnyConfig),
    ("flow", "source"): by_kind(trainer.data.AnyConfig),
    ("flow", "latent"): {"": LatentsConfig},
    ("flow", "captions"): {"": trainer.data.CaptionsConfig},
    ("flow", "path"): {"tabulated": trainer.flow.path.TabulatedConfig},
}
"""The sections that a file may have to complete, by their kind."""


def _with_vocabulary(document: dict[str, Any]) -> dict[str, Any]:
    """Returns the document with the vocabulary of the data in a gpt model that does not set its own."""
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
    """Returns the document with the section at a place resolved; puts an error into `unresolved` if that fails."""
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
