"""Weights from one safetensors file, or from the parts that an index names."""

import json

from safetensors.torch import load_file
from torch import Tensor, nn


def read(file: str) -> dict[str, Tensor]:
    """Reads weights by the names of the parameters."""
    if not file.endswith(".index.json"):
        return load_file(file)
    with open(file, encoding="utf-8") as index:  # noqa: PTH123  a page imports no pathlib
        parts = sorted(set(json.load(index)["weight_map"].values()))
    return {name: tensor for part in parts for name, tensor in load_file(part).items()}


def load(network: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """Fills a network, from which no parameter may be missing, and puts it into evaluation mode."""
    own = network.state_dict()
    network.load_state_dict({name: tensor for name, tensor in weights.items() if name in own})
    return network.eval()
