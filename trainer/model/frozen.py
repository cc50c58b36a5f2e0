"""Weights that stay as they are: buffers in place of parameters.

Engines divide parameters, optimisers update them, averages follow them and checkpoints hold them. Of buffers that are
in no state they know nothing, so a network with frozen weights is to all of them what is trained of it.

They cost their memory on every rank, whole: in bf16 two bytes each, 16 GB for 8 billion. No engine divides them.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

_NAMES = "_frozen_names"
"""Where a module keeps which of its buffers were parameters, and the names of these in the frozen network."""


def freeze(module: nn.Module) -> None:
    """Turns all parameters of a module that no engine has divided into buffers that are in no state, in place."""
    first: dict[int, str] = {}
    values: dict[int, Tensor] = {}
    for path, part in module.named_modules():
        names = {}
        for name, parameter in [*part.named_parameters(recurse=False, remove_duplicate=False)]:
            names[name] = first.setdefault(id(parameter), f"{path}.{name}" if path else name)
            frozen = values.setdefault(id(parameter), parameter.detach())
            delattr(part, name)
            part.register_buffer(name, frozen, persistent=False)
        if names:
            vars(part)[_NAMES] = names


def freeze_some(module: nn.Module, path: str, names: Iterable[str]) -> None:
    """Turns some of the parameters of a module itself into buffers that are in no state, in place."""
    for name in names:
        values = module.get_parameter(name).detach()
        delattr(module, name)
        module.register_buffer(name, values, persistent=False)
        vars(module).setdefault(_NAMES, {})[name] = f"{path}.{name}"


def frozen_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The frozen weights of a module, each once, by the names that they had when it was frozen."""
    told = set()
    for part in module.modules():
        for name, known_as in vars(part).get(_NAMES, {}).items():
            if known_as not in told:
                told.add(known_as)
                yield known_as, part.get_buffer(name)


def put_frozen(module: nn.Module, name: str, values: Tensor) -> None:
    """Copies values into a frozen weight; the tensor itself is kept."""
    for part in module.modules():
        for own, known_as in vars(part).get(_NAMES, {}).items():
            if known_as == name:
                part.register_buffer(own, values, persistent=False)


def computing_dtype(module: nn.Module) -> torch.dtype:
    """The type of a module's frozen weights, or of its parameters where it has none.

    Asking a parameter by its name would have ZeRO 3 gather it.
    """
    for part in module.modules():
        for name in vars(part).get(_NAMES, {}):
            return part.get_buffer(name).dtype
        for parameter in part.parameters(recurse=False):
            return parameter.dtype
    raise AssertionError("a network without weights computes in no type")
