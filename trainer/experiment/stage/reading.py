"""The stages of a configuration file, and the list of every kind."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from netsim.foundation.refusal import Refusal
from trainer.checkpoint.directory import check_possible
from trainer.config.document import apply_override, read_document
from trainer.config.trust import trust
from trainer.experiment.stage.prepare import FitPathStage, MeasureStage, PairsStage, StepsStage
from trainer.experiment.stage.protocol import Stage
from trainer.experiment.stage.train import TrainStage

_ALL: tuple[type[Stage], ...] = (TrainStage, PairsStage, FitPathStage, StepsStage, MeasureStage)
KINDS: dict[str, type[Stage]] = {kind.verb: kind for kind in _ALL}
"""Kinds of stages by their key in a file."""


def load_stages(path: Path | str, overrides: Sequence[str] = ()) -> list[Stage]:
    """Reads the stages of a configuration in their order; one without a name if the file has none.

    ``stages.NAME.key=value`` changes one stage, whose own settings win.
    """
    path = Path(path)
    return stages_of(path, read_document(path), overrides)


def stages_of(path: Path, document: dict[str, Any], overrides: Sequence[str] = ()) -> list[Stage]:
    """The stages of the sections of a file; the overrides change `document` in place."""
    listed = document.pop("stages", None)
    addressed = [override for override in overrides if override.startswith("stages.")]
    for override in overrides:
        if override not in addressed:
            apply_override(path, document, override)
    trust(document)
    run = document.get("run")
    base = run.get("dir") if isinstance(run, dict) else None
    if listed is None and not addressed:
        check_possible(Path(str(base)) / "checkpoints")
        return [TrainStage("", path, Path(str(base)), document)]
    if not isinstance(base, str):
        raise Refusal(path, "run.dir", f"is not a folder ({base})", "name the folder of all stages")
    entries = _entries(path, listed)
    for override in addressed:
        name, _, rest = override.removeprefix("stages.").partition(".")
        if name not in entries:
            raise Refusal(path, override, f"there is no stage {name}", f"use one of {', '.join(entries)}")
        apply_override(path, entries[name][1], rest)
    trust([settings for _, settings in entries.values()])
    stages = [KINDS[verb].of(path, name, base, document, settings) for name, (verb, settings) in entries.items()]
    for stage in stages:
        check_possible(stage.folder / "checkpoints")
    return stages


def chosen(stages: Sequence[Stage], name: str | None) -> Stage:
    """One of the stages by its name; the only one of a configuration without stages."""
    for stage in stages:
        if stage.name == (name or ""):
            return stage
    known = [stage.name for stage in stages if stage.name]
    remedy = f"use one of {', '.join(known)}" if known else "leave it out, for there are no stages"
    raise ValueError(f"--stage: there is no stage {name} in {stages[0].path}; {remedy}")


def _entries(path: Path, listed: Any) -> dict[str, tuple[str, dict[str, Any]]]:
    """Verb and settings of each stage by its name."""
    if not isinstance(listed, list) or not listed:
        raise Refusal(path, "stages", "is not a list of stages", "write - {name: NAME, train: {...}} for each")
    entries: dict[str, tuple[str, dict[str, Any]]] = {}
    for number, entry in enumerate(listed):
        where = f"stages.{number}"
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
            raise Refusal(
                path, where, f"its name cannot be that of a folder ({name})", "write name: NAME, of letters and digits"
            )
        if name in entries:
            raise Refusal(path, where, f"{name} is given twice", "name each stage differently")
        verbs = [key for key in entry if key != "name"]
        if len(verbs) != 1 or verbs[0] not in KINDS:
            *others, last = KINDS
            remedy = f"give it exactly one of {', '.join(others)} or {last}"
            raise Refusal(path, where, f"has {', '.join(map(str, verbs)) or 'no verb'}", remedy)
        settings = entry[verbs[0]] or {}
        if not isinstance(settings, dict):
            raise Refusal(path, where, f"{verbs[0]} is not a section ({settings})", "write sections under it")
        entries[name] = verbs[0], settings
    return entries
