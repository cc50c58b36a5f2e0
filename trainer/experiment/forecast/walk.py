"""In which order a network uses its parameters, found by one pass of tensors that hold no values."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.experiment.forecast.protocol import Place
from trainer.model.parallel.division import LinearShare


@dataclass(frozen=True, slots=True)
class Use:
    """One moment of a pass.

    Attributes:
        kind: a module starts ("enter") or has ended its part of the pass ("leave"), ranks add up what they computed in
            a divided layer ("sum"), or the gradient of a parameter is there ("gradient").
        place: block that the module belongs to.
        parameters: numbers of the module's own parameters in the order of the network, ascending; of a gradient its
            parameter alone.
    """

    kind: Literal["enter", "leave", "sum", "gradient"]
    place: Place
    parameters: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Walk:
    """What happens in a forward and a backward pass, in order."""

    forward: tuple[Use, ...]
    backward: tuple[Use, ...]


def walk(network: nn.Module, blocks: nn.ModuleList, call: Callable[[nn.Module], Tensor]) -> Walk:
    """Sends a micro batch through a meta network and back: starts, ends, sums, gradients in autograd's order."""
    numbers = {id(parameter): number for number, parameter in enumerate(network.parameters())}
    uses: list[Use] = []
    place: Place = "before"
    places: dict[int, Place] = {id(part): index for index, block in enumerate(blocks) for part in block.modules()}

    def note(kind: Any, module: nn.Module, parameter: nn.Parameter | None = None) -> None:
        nonlocal place
        place = places.setdefault(id(module), "after" if isinstance(place, int) or place == "after" else "before")
        named = module.parameters(recurse=False) if parameter is None else [parameter]
        uses.append(Use(kind, place, tuple(numbers[id(one)] for one in named)))

    with _hooks(network, note), patch.object(functional, "linear", _linear):
        loss = call(network)
        forward = tuple(uses)
        uses.clear()
        loss.backward()
    return Walk(forward, tuple(uses))


@contextmanager
def _hooks(network: nn.Module, note: Callable[..., None]) -> Iterator[None]:
    """Marks the values that enter and leave each module, so that the backward pass meets the marks in turn."""

    def before(module: nn.Module, values: tuple[Any, ...]) -> tuple[Any, ...]:
        note("enter", module)
        return _marked(values, partial(note, "leave", module))

    def after(module: nn.Module, _values: tuple[Any, ...], output: Any) -> Any:
        if _sums_in(module) == "forward":
            note("sum", module)
        note("leave", module)
        if _sums_in(module) == "backward":
            output = _marked(output, partial(note, "sum", module))
        return _marked(output, partial(note, "enter", module))

    with ExitStack() as stack:
        for module in network.modules():
            stack.callback(module.register_forward_pre_hook(before).remove)
            stack.callback(module.register_forward_hook(after).remove)
            for parameter in module.parameters(recurse=False):
                hook = parameter.register_post_accumulate_grad_hook(partial(note, "gradient", module))
                stack.callback(hook.remove)
        yield


def _sums_in(module: nn.Module) -> str | None:
    return module.sums if isinstance(module, LinearShare) else None


_linear_of_torch = functional.linear


def _linear(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What DeepSpeed puts in the place of torch's own: the gradient of its bias comes behind that of its weight."""
    return _Linear.apply(values, weight, bias)


class _Linear(torch.autograd.Function):
    """A linear layer whose gradients come together, in the order of its arguments."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        ctx.save_for_backward(*given)
        return _linear_of_torch(*given)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        pairs = zip(ctx.saved_tensors, ctx.needs_input_grad, strict=True)
        return tuple(torch.empty_like(value) if needed else None for value, needed in pairs)


class _Mark(torch.autograd.Function):
    """The identity; its backward pass tells that it was reached."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, told: Callable[[], None]) -> Tensor:
        ctx.told = told
        return value.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        ctx.told()
        return *gradients, None


def _marked(values: Any, told: Callable[[], None]) -> Any:
    """Marks the first tensor that has a gradient; a module is reached when that is."""
    if isinstance(values, Tensor):
        return _Mark.apply(values, told) if values.requires_grad else values
    if not isinstance(values, tuple):
        return values
    marked = list(values)
    for index, value in enumerate(values):
        if isinstance(value, Tensor) and value.requires_grad:
            marked[index] = _Mark.apply(value, told)
            break
    return tuple(marked)
