"""Runs that go on from another one: what their configuration leaves out is that of the other run.

With ``task: {kind: grpo, base: runs/digits}`` the sections of :data:`SECTIONS` are those of the newest checkpoint of
``runs/digits``, changed by what is written in them, and the network begins with its averaged weights. The
configuration that such a run records is whole, with the digest of those weights, and is read without the other run.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from netsim.foundation.refusal import Refusal
from trainer.config.merging import merged

SECTIONS = ("model", "moe", "flow", "data", "sample")
"""What a run takes from its base."""
FIELD = "task.base"
CHECKPOINT, COMPLETE = r"step_\d{8,}", "COMPLETE"
"""Name of a checkpoint's folder, and of the file that is written last into it."""


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
    """Whether a run has recorded the sections, complete and with the digest of the base."""
    return isinstance(base, dict) and base.get("digest") is not None and all(name in document for name in SECTIONS)


def _changed(recorded: Any, written: Any) -> Any:
    """A section with what is written in it; one that names other files has nothing of the recorded one."""
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
    """The configuration in the newest complete checkpoint of a run."""
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
    """How to go on without the base, where the run has begun."""
    run = document.get("run")
    own = Path(str(run.get("dir"))) / "config.yaml" if isinstance(run, dict) else None
    named = "name the folder of a run that has saved a checkpoint"
    return f"{named}, or resume with {own}" if own is not None and own.is_file() else named
