"""Weights for exchange: one safetensors file with every parameter by its logical name."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from moe.files import FileError
from trainer.model.parameters import named_parameters


@torch.no_grad()
def initialise_from(model: nn.Module, path: Path) -> None:
    """Fills a network, or this rank's part of it, from an ``ema.safetensors``.

    Args:
        model: the network.
        path: the file; experts are found by logical id, wherever they live now.

    Raises:
        FileError: the file is missing or malformed, or a parameter is missing or has another shape.
    """
    remedy = "give the ema.safetensors of a run with the same model"
    try:
        with safe_open(path, framework="pt") as file:
            present = set(file.keys())
            for named in named_parameters(model):
                if named.name not in present:
                    raise FileError(path, named.name, "is missing", remedy)
                value = file.get_tensor(named.name)
                if value.shape != named.parameter.shape:
                    raise FileError(
                        path, named.name, f"has shape {tuple(value.shape)}, not {tuple(named.parameter.shape)}", remedy
                    )
                named.parameter.copy_(value)
    except (OSError, SafetensorError) as error:
        raise FileError(path, "weights", f"cannot be read ({error})", remedy) from error
