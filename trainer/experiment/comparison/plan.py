"""Which methods are compared, and which are left out and why; decided before anything is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from trainer.experiment.comparison.method import Base, Method, method_of, read_base, read_own
from trainer.experiment.stage import ConfiguredStage, check_stages
from trainer.sampling.latent_space import check_latents


@dataclass(frozen=True)
class Plan:
    """Methods that are trained, and the names of those left out with the reason."""

    base: Base
    methods: list[Method]
    left_out: dict[str, str]


def prepare(words: Sequence[str], base: Path, out: Path, ranks: int) -> Plan:
    """Decides what is trained, before anything is written; `words`: configurations and ``dotted.key=value``."""
    overrides = [word for word in words if "=" in word]
    of_stages = [override for override in overrides if override.startswith("stages.")]
    paths = [Path(word) for word in words if "=" not in word]
    if not paths:
        raise ValueError("CONFIG: there is no method to compare; give configurations such as configs/methods/*.yaml")
    for path, count in ((path, sum(other.stem == path.stem for other in paths)) for path in paths):
        if count > 1:
            raise ValueError(f"CONFIG: {count} files are called {path.stem}; a method has the name of its file")
    shared = read_base(base, [word for word in overrides if word not in of_stages], out)
    own = {path: read_own(path) for path in paths}
    known = {entry["name"] for document in own.values() for entry in document.get("stages") or ()}
    for override in of_stages:
        if override.removeprefix("stages.").partition(".")[0] not in known:
            raise ValueError(f"{override}: no method has that stage; use one of {', '.join(sorted(known)) or 'none'}")
    methods: list[Method] = []
    left_out: dict[str, str] = {}
    for path, document in own.items():
        try:
            method = method_of(path, document, shared, of_stages, out)
            _check(method, shared, methods, ranks)
        except ValueError as error:
            if _malformed(error):
                raise
            left_out[path.stem] = " ".join(str(error).split()).removeprefix(f"{path}: ")
        else:
            methods.append(method)
    if not methods:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise ValueError(f"CONFIG: no method goes with {base}: {reasons}")
    return Plan(shared, methods, left_out)


def _malformed(error: BaseException | None) -> bool:
    """Whether what is said is that a method's flow has a key or a kind that there is not."""
    while error is not None and not isinstance(error, ValidationError):
        error = error.__cause__
    details = [] if error is None else error.errors()
    return any(detail["loc"][:1] == ("flow",) and detail["type"] != "value_error" for detail in details)


def _check(method: Method, base: Base, others: Sequence[Method], ranks: int) -> None:
    """Refuses a method that cannot be trained, whose samples begin elsewhere, or that equals another one."""
    for other in others:
        if _without_folder(other) == _without_folder(method):
            raise ValueError(f"it is the same run as {other.name}: their flow and stages are equal")
    stages = method.stages(Path(method.document["run"]["dir"]), 0)
    first = stages[0]
    if not isinstance(first, ConfiguredStage):
        raise ValueError(
            f"stages.{first.name}: the budget contains no training of its teacher; train one in a stage before it"
        )
    check_stages(stages, ranks)
    config = first.config()
    check_latents(config)
    if config.source_data != base.config.source_data:
        raise ValueError("flow.path.kind: its samples start at data, and those of the comparison at noise")


def _without_folder(method: Method) -> dict[str, object]:
    return {**method.document, "run": {**method.document["run"], "dir": None}}
