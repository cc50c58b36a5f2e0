"""Weights for exchange: every parameter by its logical name, in one safetensors file or in parts of it."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from netsim.foundation.refusal import Refusal
from trainer.config.document import read_document
from trainer.config.model import NetworkConfig
from trainer.model.parallel.parameters import held_pieces
from trainer.model.values import SavedValues, fill
from trainer.model.weight_files import open_weights

ROUTERS = "routers.safetensors"
_REMEDY = "give the ema.safetensors of a run with the same model"
_DAMAGED = "restore it from a copy, or delete the folder"


def check_weights(path: Path, shapes: Mapping[str, tuple[int, ...]], remedy: str = _REMEDY) -> None:
    """Refuses weights that :func:`initialise_from` could not use, without reading their values."""
    try:
        with open_weights(path) as weights:
            found = {name: weights.shape(name) for name in weights.names}
    except (OSError, SafetensorError) as error:
        raise Refusal(path, "weights", f"cannot be read ({error})", remedy) from error
    for name, shape in shapes.items():
        if name not in found:
            raise Refusal(path, name, "is missing", remedy)
        if found[name] != shape:
            raise Refusal(path, name, f"has shape {found[name]}, not {shape}", remedy)


def check_meaning(path: Path, model: NetworkConfig, otherwise: str = "begin without model.init_from") -> None:
    """Refuses weights that have the right shapes and were trained to compute something else.

    Weights without a configuration beside them are let through.
    """
    beside = path.parent / "config.yaml"
    if not beside.is_file():
        return
    written = read_document(beside).get("model")
    if not isinstance(written, dict) or written.get("kind", model.kind) != model.kind:
        return
    for name in model.unseen_in_shapes:
        own = getattr(model, name)
        theirs = written.get(name, type(model).model_fields[name].default)
        if theirs != own:
            shown = str(theirs).lower() if isinstance(theirs, bool) else theirs
            remedy = f"set model.{name}={shown}, or {otherwise}"
            raise Refusal(beside, f"model.{name}", f"is {shown}, and this run has {own}", remedy)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file of a checkpoint."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise Refusal(path, "tensors", f"cannot be read ({error})", _DAMAGED) from error


def load_routers(model: nn.Module, folder: Path) -> None:
    """Fills what routers learn besides their weights, as far as ``routers.safetensors`` in the folder has it."""
    path = folder / ROUTERS
    if path.exists():
        own = model.state_dict()
        learned = {
            name: value for name, value in read_tensors(path).items() if name in own and own[name].shape == value.shape
        }
        model.load_state_dict(learned, strict=False)


def initialise_from(model: nn.Module, path: Path, new: tuple[str, ...] = ()) -> None:
    """Fills a network, or this rank's part of it, from checked weights; experts are found by logical id.

    What the routers had learned besides is in the file beside it, if any. Parameters that begin with `new` stay.
    """
    with open_weights(path) as weights:
        fill(held_pieces(model), SavedValues(weights, new=new))
    load_routers(model, path.parent)
