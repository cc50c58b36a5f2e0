"""Weights that a run takes from other runs: its frozen base, its first weights, and modules of adapters."""

from pathlib import Path

import torch
from torch import nn

from netsim.foundation.files import files_digest
from netsim.foundation.refusal import Refusal
from netsim.foundation.run_reference import ReferenceConfig
from trainer.checkpoint.intact import weights_file
from trainer.checkpoint.manifest import NAME, Manifest
from trainer.config.derived import frozen_modules, of_base, routed_adapters, task_names
from trainer.config.document import read_document
from trainer.config.file import load_run
from trainer.config.model.protocol import RoutedAdaptersConfig
from trainer.config.run import RunConfig
from trainer.model.adapted import read_base, read_modules
from trainer.model.build import inherited_shapes, parameter_shapes
from trainer.model.values import check_meaning, check_weights
from trainer.model.weight_files import files_of

FIELD = "model.adapters.base"
_REMEDY = f"give the run with the same model settings to {FIELD}"


def base_weights(base: ReferenceConfig, field: str = FIELD) -> Path:
    """The averaged weights of a base: of a run's newest intact checkpoint, or of a folder that export wrote."""
    path = weights_file(base.run)
    if path == base.run or not all(file.is_file() for file in files_of(path)):
        problem = "holds neither a checkpoint nor exported weights" if base.run.is_dir() else "is no folder of a run"
        raise Refusal(base.run, field, problem, "give the run.dir of a run that has saved a checkpoint")
    if base.digest is not None and base.digest != digest_of(path):
        problem = f"is {digest_of(path)} but the run began with {base.digest}"
        raise Refusal(path, f"{field}.digest", problem, "bring those weights back, or start another run")
    return path


def digest_of(path: Path) -> str:
    """Returns the SHA-256 of averaged weights: as recorded in their checkpoint, or of the files that export wrote."""
    if (path.parent / NAME).exists():
        return Manifest.read(path.parent).weights_sha256()
    return files_digest(files_of(path))


def with_digest(config: RunConfig) -> RunConfig:
    """Returns the configuration with the digest of its base, if any, so that a run resumes with the same base only.

    The reference to another run's frozen modules gets a digest too. The number of tasks of routed adapters is also
    recorded, since samples may be compared with data that have other sources.
    """
    adapters = config.model.adapters
    if adapters is None:
        return config
    named = {"base": adapters.base} | ({"init_from": modules} if (modules := frozen_modules(config)) else {})
    pinned = {
        name: run.model_copy(update={"digest": digest_of(base_weights(run, f"model.adapters.{name}"))})
        for name, run in named.items()
    }
    tasks = {"tasks": len(task_names(config))} if routed_adapters(config) is not None else {}
    model = config.model.model_copy(update={"adapters": adapters.model_copy(update={**pinned, **tasks})})
    return config.model_copy(update={"model": model})


def check_base(config: RunConfig) -> None:
    """Refuses a base that a run cannot adapt, without reading the values of its weights."""
    if config.model.adapters is None:
        return
    path = base_weights(config.model.adapters.base)
    beside = path.parent / "config.yaml"
    written = read_document(beside).get("model") if beside.is_file() else None
    if isinstance(written, dict):
        if written.get("adapters") is not None:
            run = config.model.adapters.base.run
            named = run if (run / "checkpoints").is_dir() else "the run that they are from"
            remedy = f"merge them (python -m trainer export {named} --merged --out DIR), and give DIR"
            raise Refusal(beside, FIELD, "has adapters itself", remedy)
        kind = written.get("kind", written.get("class"))
        if kind != config.model.kind:
            raise Refusal(beside, "model.kind", f"is {kind}, not {config.model.kind}", _REMEDY)
    parameter_shapes(config)
    check_weights(path, parameter_shapes(of_base(config)), _REMEDY)
    check_meaning(path, config.model, f"give another {FIELD}")


def check_beginning(weights: Path, config: RunConfig) -> None:
    """Refuses weights of `model.init_from` (those of adapters where the run has some) without reading their values.

    The configuration names the digest of its base already.
    """
    adapters = config.model.adapters
    if adapters is None:
        check_weights(weights, inherited_shapes(config))
        return
    remedy = f"give a run with the same adapters to model.init_from; what they adapt goes to {FIELD}"
    check_weights(weights, inherited_shapes(config), remedy)
    beside = weights.parent / "config.yaml"
    if not beside.is_file():
        return
    theirs = load_run(beside.parent).model.adapters
    assert theirs is not None, "there are weights of adapters"
    for name, value, own in (
        ("kind", theirs.kind, adapters.kind),
        ("alpha", theirs.alpha, adapters.alpha),
        ("base.digest", theirs.base.digest, adapters.base.digest),
    ):
        if value != own:
            problem = f"is {value}, and this run has {own}"
            remedy = "give a run with the same adapters of the same base, or leave model.init_from out"
            raise Refusal(beside, f"model.adapters.{name}", problem, remedy)


def write_base(network: nn.Module, config: RunConfig, device: torch.device, *, trains: bool) -> None:
    """Fills the frozen weights of this rank's network, one after the other; does nothing without adapters.

    `trains`: whether an engine will train the network. If so, and its precision is bf16, the weights are in bfloat16,
    else in float32.
    """
    if config.model.adapters is None:
        return
    rounded = trains and config.engine.precision == "bf16"
    path = base_weights(config.model.adapters.base)
    dtype, modules = torch.bfloat16 if rounded else torch.float32, frozen_modules(config)
    read_base(network, path, dtype, device)
    if modules is not None:
        read_modules(network, base_weights(modules, "model.adapters.init_from"), dtype, device)


MODULES_FIELD = "model.adapters.init_from"
_SAME = ("rank", "alpha", "modules", "heads")
"""Settings of adapters that say what their modules compute."""


def modules_weights(config: RunConfig) -> Path | None:
    """The averaged weights whose modules a run begins with; None if it draws new ones, or has no routed adapters."""
    adapters = config.model.adapters
    if not isinstance(adapters, RoutedAdaptersConfig) or adapters.init_from is None:
        return None
    return base_weights(adapters.init_from, MODULES_FIELD)


def check_modules(config: RunConfig) -> None:
    """Refuses modules of other sizes, and modules beside another base, without reading the values of weights."""
    path, adapters = modules_weights(config), config.model.adapters
    if path is None:
        return
    assert isinstance(adapters, RoutedAdaptersConfig)
    beside = path.parent / "config.yaml"
    written = (read_document(beside).get("model") or {}).get("adapters") if beside.is_file() else None
    if not isinstance(written, dict) or written.get("kind") != adapters.kind or written.get("mode") == "mean":
        raise Refusal(
            beside, "model.adapters", "is no section of routed adapters", f"give another run to {MODULES_FIELD}"
        )
    for name in _SAME:
        own, theirs = getattr(adapters, name), written.get(name, type(adapters).model_fields[name].default)
        if own != theirs:
            shown = "null" if theirs is None else theirs
            remedy = f"set model.adapters.{name}={shown}, or give another {MODULES_FIELD}"
            raise Refusal(beside, f"model.adapters.{name}", f"is {shown}, and this run has {own}", remedy)
    base = digest_of(base_weights(adapters.base))
    theirs = (written.get("base") or {}).get("digest")
    if theirs not in (None, base):
        remedy = f"give that base to model.adapters.base, or another {MODULES_FIELD}"
        raise Refusal(beside, "model.adapters.base.digest", f"is {theirs}, and that of this run {base}", remedy)
    routed = adapters.model_copy(update={"mode": "all", "tasks": 1, "init_from": None})
    whole = config.model_copy(update={"model": config.model.model_copy(update={"adapters": routed})})
    shapes = {name: shape for name, shape in parameter_shapes(whole).items() if ".routing." not in name}
    check_weights(path, shapes, f"name the same layers with model.adapters.on, or give another {MODULES_FIELD}")
