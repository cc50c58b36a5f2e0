"""The run whose modules routed adapters begin with."""

from pathlib import Path

from netsim.foundation.refusal import Refusal
from trainer.checkpoint.base import base_weights, digest_of
from trainer.config.document import read_document
from trainer.config.model.protocol import RoutedAdaptersConfig
from trainer.config.run import RunConfig
from trainer.model.build import parameter_shapes
from trainer.model.values import check_weights

FIELD = "model.adapters.init_from"
_SAME = ("rank", "alpha", "modules", "heads")
"""Settings of adapters that say what their modules compute."""


def modules_weights(config: RunConfig) -> Path | None:
    """The averaged weights whose modules a run begins with; None: it draws new ones, or has no routed adapters."""
    adapters = config.model.adapters
    if not isinstance(adapters, RoutedAdaptersConfig) or adapters.init_from is None:
        return None
    return base_weights(adapters.init_from, FIELD)


def check_modules(config: RunConfig) -> None:
    """Refuses modules of other sizes, and modules beside another base, without reading the values of weights."""
    path, adapters = modules_weights(config), config.model.adapters
    if path is None:
        return
    assert isinstance(adapters, RoutedAdaptersConfig)
    beside = path.parent / "config.yaml"
    written = (read_document(beside).get("model") or {}).get("adapters") if beside.is_file() else None
    if not isinstance(written, dict) or written.get("kind") != adapters.kind or written.get("mode") == "mean":
        raise Refusal(beside, "model.adapters", "is no section of routed adapters", f"give another run to {FIELD}")
    for name in _SAME:
        own, theirs = getattr(adapters, name), written.get(name, type(adapters).model_fields[name].default)
        if own != theirs:
            shown = "null" if theirs is None else theirs
            remedy = f"set model.adapters.{name}={shown}, or give another {FIELD}"
            raise Refusal(beside, f"model.adapters.{name}", f"is {shown}, and this run has {own}", remedy)
    base = digest_of(base_weights(adapters.base))
    theirs = (written.get("base") or {}).get("digest")
    if theirs not in (None, base):
        remedy = f"give that base to model.adapters.base, or another {FIELD}"
        raise Refusal(beside, "model.adapters.base.digest", f"is {theirs}, and that of this run {base}", remedy)
    routed = adapters.model_copy(update={"mode": "all", "tasks": 1, "init_from": None})
    whole = config.model_copy(update={"model": config.model.model_copy(update={"adapters": routed})})
    shapes = {name: shape for name, shape in parameter_shapes(whole).items() if ".routing." not in name}
    check_weights(path, shapes, f"name the same layers with model.adapters.on, or give another {FIELD}")
