"""Networks whose parameters take no memory until somebody gives it to them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@contextmanager
def bare_parameters() -> Iterator[None]:
    """While entered, every parameter that a module registers is on the meta device, and drawing it costs nothing."""
    registered = nn.Module.register_parameter

    def register(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta:
            param = _like(param, torch.empty_like(param, device="meta"))
        registered(module, name, param)

    with patch.object(nn.Module, "register_parameter", register), NothingDrawn():
        yield


class NothingDrawn(TorchFunctionMode):
    """Leaves out Gaussian draws on the meta device, for the first of which torch imports 800 modules."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Calls a function of torch, unless it would draw nothing."""
        del types
        kwargs = kwargs or {}
        if func in (Tensor.normal_, nn.init.normal_):
            values = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if values.is_meta:
                return values
        return func(*args, **kwargs)


def is_bare(module: nn.Module) -> bool:
    """Whether parameters of a network still lack memory."""
    return any(parameter.is_meta for parameter in module.parameters())


def give_memory(module: nn.Module, memory: Callable[[Tensor], Tensor]) -> None:
    """Replaces parameters of the meta device by those of `memory`, under the same names and with the same marks."""
    given: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if parameter.is_meta:
                if id(parameter) not in given:
                    given[id(parameter)] = _like(parameter, memory(parameter))
                part.register_parameter(name, given[id(parameter)])


def _like(parameter: nn.Parameter, values: Tensor) -> nn.Parameter:
    made = nn.Parameter(values.detach(), requires_grad=parameter.requires_grad)
    vars(made).update(vars(parameter))
    return made
