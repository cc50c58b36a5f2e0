"""The network that a run trains and its specification: first values, frozen weights, and how blocks compute.

Engines divide parameters, optimisers update them, averages follow them and checkpoints hold them. Frozen weights are
non-persistent buffers, which all of these ignore: to them, only the trained parameters exist. No engine divides frozen
weights, so every rank holds all of them: in bf16 two bytes each, 16 GB for 8 billion.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from moe.repetition import passes
from trainer.config.model import NetworkConfig
from trainer.config.sections import DeepSpeedConfig, FSDPConfig


@dataclass(frozen=True)
class Constant:
    value: float

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        del generator
        return torch.full(shape, self.value)


@dataclass(frozen=True)
class Normal:
    std: float

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.empty(shape).normal_(0.0, self.std, generator=generator)


@dataclass(frozen=True)
class Uniform:
    bound: float

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.empty(shape).uniform_(-self.bound, self.bound, generator=generator)


Initial = Constant | Normal | Uniform


def xavier(shape: tuple[int, ...]) -> Uniform:
    """For matrices [outputs, inputs], or a stack of them: Glorot and Bengio, 2010, equation 16."""
    *_, outputs, inputs = shape
    return Uniform(math.sqrt(6 / (inputs + outputs)))


def by_inputs(num_inputs: int) -> Uniform:
    """Torch's default for the weights of linear layers and convolutions of `num_inputs` inputs."""
    return Uniform(1 / math.sqrt(num_inputs))


@runtime_checkable
class StatesInitial(Protocol):
    """A module that defines the initial values of its parameters, unless a module inside it defines them."""

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        """First values of a parameter, by its name in this module and the shape of the undivided parameter."""
        ...


def steered(
    name: str, shape: tuple[int, ...], *, at_zero: tuple[str, ...] = (), embeddings: tuple[str, ...] = ("embed_label",)
) -> Initial:
    """First values in a network whose layers `modulation`, and those in `at_zero`, start at zero."""
    layer, _, kind = name.rpartition(".")
    if kind == "bias" or layer in at_zero or layer.endswith("modulation"):
        return Constant(0.0)
    return Normal(0.02) if layer in embeddings else xavier(shape)


C = TypeVar("C", bound=NetworkConfig, covariant=True)


class Network(nn.Module):
    """The module that a run trains: any module of torch with `blocks`, called as its task does.

    It is no protocol, since engines accept modules alone. Engines compile, recompute and gather the blocks one by one;
    traces count them as layers. A :class:`StatesInitial` is never whole in the memory of a rank that trains a part of
    it: its constructor sees parameters without memory, and values are drawn one parameter at a time. Any other draws
    its values itself.
    """

    blocks: nn.ModuleList


@runtime_checkable
class GivesFeatures(Protocol):
    """A network trained without labels whose features are used to compare examples."""

    def features(self, images: Tensor) -> Tensor:
        """Features of images [B, C, H, W]: float32 [B, W]."""
        ...


@dataclass(frozen=True, kw_only=True)
class NetworkSpec(Generic[C]):
    """Everything that a network is built from.

    Attributes:
        state_shape: shape of the state of an example, which `config.check_states` accepts.
        num_classes: labels 0 to num_classes - 1; one more, `null_label`, stands for no label.
        num_fields: number of quantities that a prediction holds, joined along the channels.
        mixture: from a block's index to a mixture of experts [B, N, D] -> [B, N, D], which is its feed-forward layer;
            None: the feed-forward layers are dense.
        context_channels: channels of the condition's context, read beside those of the state.
        read_context: called with the state and its context, makes the input [B, C + C', H, W] of the network of them;
            None: they are put side by side.
        caption_width: of the vectors of captions that the condition holds; 0: it holds none.
        predicts_data: whether a prediction is a data point, located where the examples are, and no difference of two.
        generator: for a network that draws its initial weights itself; None: there is nothing to draw.
    """

    config: C
    state_shape: tuple[int, ...]
    num_classes: int = 0
    num_fields: int = 1
    mixture: Callable[[int], nn.Module] | None = None
    context_channels: int = 0
    read_context: nn.Module | None = None
    caption_width: int = 0
    predicts_data: bool = False
    generator: torch.Generator | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.state_shape
        return channels, height, width

    @property
    def num_values(self) -> int:
        (values,) = self.state_shape
        return values


Builders = dict[type[NetworkConfig], Callable[[NetworkSpec[Any]], Network]]
"""From the settings of networks to their classes."""
_NAMES = "_frozen_names"
"""Attribute of a module that maps its frozen buffers to the names of the parameters that they were."""


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
    seen = set()
    for part in module.modules():
        for name, known_as in vars(part).get(_NAMES, {}).items():
            if known_as not in seen:
                seen.add(known_as)
                yield known_as, part.get_buffer(name)


def put_frozen(module: nn.Module, name: str, values: Tensor) -> None:
    """Copies values into a frozen weight; the tensor itself is kept."""
    for part in module.modules():
        for own, known_as in vars(part).get(_NAMES, {}).items():
            if known_as == name:
                part.register_buffer(own, values, persistent=False)


def computing_dtype(module: nn.Module) -> torch.dtype:
    """Type of a module's frozen weights, or else of its parameters; ZeRO 3 would gather parameters read by name."""
    for part in module.modules():
        for name in vars(part).get(_NAMES, {}):
            return part.get_buffer(name).dtype
        for parameter in part.parameters(recurse=False):
            return parameter.dtype
    raise AssertionError("a network without weights computes in no type")


def prepare_blocks(blocks: nn.ModuleList, config: DeepSpeedConfig | FSDPConfig) -> None:
    """Makes each block compute as the engine's settings say, in place, before an engine puts its hooks around it.

    Checkpointing repeats draws, collectives and bits (Chen et al., arXiv 1604.06174); ``compile`` keeps the draws.
    """
    for block in blocks:
        compute: Any = block.forward
        if config.compile:
            compute = torch.compile(compute, fullgraph=True, options={"fallback_random": True})
        if config.activation_checkpointing:
            # Stopping early would leave out the collectives behind the last tensor that is needed.
            compute = partial(
                checkpoint, _recomputed_first(compute), use_reentrant=False, early_stop=False, context_fn=passes
            )
        vars(block)["forward"] = compute


class _RecomputesFirst(torch.autograd.Function):
    """The identity, whose backward pass reads its saved output, which triggers recomputation."""

    @staticmethod
    def forward(ctx: Any, output: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(output)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        _ = ctx.saved_tensors
        return gradient


def _recomputed_first(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Makes recomputation precede all of the block's backward pass, including collectives that do not depend on it."""

    def recomputed(*arguments: Any, **named: Any) -> Any:
        output = compute(*arguments, **named)
        if isinstance(output, Tensor):
            return _RecomputesFirst.apply(output)
        first, *others = output
        return _RecomputesFirst.apply(first), *others

    return recomputed
