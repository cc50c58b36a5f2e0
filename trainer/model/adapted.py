"""A network whose own weights are frozen, with trained adapters beside some of its linear layers."""

import difflib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from moe.adapters import ROUTING_BOUND, LowRankLinear, RoutedLinear, RowTasks, merged, module_bound
from trainer.config.model.protocol import AdaptersConfig, RoutedAdaptersConfig
from trainer.flow.condition import Condition
from trainer.model.network import (
    Constant,
    Initial,
    Network,
    Uniform,
    by_inputs,
    freeze,
    freeze_some,
    frozen_tensors,
    put_frozen,
)
from trainer.model.weight_files import Weights, open_weights

_ARGUMENT = "tasks_of_rows"


def pass_tasks(network: Network, rows: RowTasks) -> None:
    """Makes a network pass a condition's tasks to layers that read `rows`; in place, before compiling and engines.

    A block gets the tasks as an argument. A block that is compiled or recomputed in the backward pass thus sees those
    of its own pass.
    """
    vars(network)["row_tasks"] = rows
    network.register_forward_pre_hook(_note, with_kwargs=True)
    network.register_forward_hook(_forget, always_call=True)
    for block in network.blocks:
        vars(block)["row_tasks"] = rows
        block.__class__ = _with_tasks(type(block))
        block.register_forward_pre_hook(_hand_on, with_kwargs=True)


def _note(network: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    conditions = (value for value in (*arguments, *named.values()) if isinstance(value, Condition))
    vars(network)["row_tasks"].now = next((condition.task for condition in conditions), None)


def _forget(network: nn.Module, arguments: Any, output: Any) -> None:  # noqa: ARG001
    vars(network)["row_tasks"].now = None


def _hand_on(
    block: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return arguments, {**named, _ARGUMENT: vars(block)["row_tasks"].now}


@cache
def _with_tasks(kind: type[nn.Module]) -> type[nn.Module]:
    """A subclass of a block that sets its tasks for each pass. A wrapper would change names and not survive a copy."""

    class Told(kind):
        def forward(self, *arguments: Any, tasks_of_rows: Tensor | None, **named: Any) -> Any:
            rows: RowTasks = vars(self)["row_tasks"]
            before, rows.now = rows.now, tasks_of_rows
            try:
                return super().forward(*arguments, **named)
            finally:
                rows.now = before

    Told.__name__, Told.__qualname__ = kind.__name__, kind.__qualname__
    return Told


N = TypeVar("N", bound=Network)
_ADAPTERS = (LowRankLinear, RoutedLinear)
"""The layers that are their base where they are not active."""
MODULES = ("A_HMIR", "B_HMRO")
"""Names of the modules of a routed layer, which are frozen where the routing alone is trained."""


def adapt(network: N, settings: AdaptersConfig | None, num_tasks: int = 0) -> N:
    """Freezes a network that no engine has divided and wraps the linear layers that settings name, in place.

    Refuses a name that fits no layer, and a layer smaller than the rank.
    """
    if settings is None:
        return network
    layers = _chosen(network, settings.on)
    freeze(network)
    rows = RowTasks()
    made: dict[int, nn.Module] = {}
    for name, layer in layers.items():
        if id(layer) not in made:
            made[id(layer)] = _adapter(name, layer, settings, rows, num_tasks)
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, made[id(layer)])
    if any(isinstance(adapter, RoutedLinear) for adapter in made.values()):
        pass_tasks(network, rows)
    return network


@contextmanager
def without_adapters(network: nn.Module) -> Iterator[None]:
    """While entered, an adapted network computes as its base; also for a network that an engine has divided."""
    adapters = [module for module in network.modules() if isinstance(module, _ADAPTERS)]
    before = [adapter.active for adapter in adapters]
    try:
        for adapter in adapters:
            adapter.active = False
        yield
    finally:
        for adapter, active in zip(adapters, before, strict=True):
            adapter.active = active


def read_base(
    network: nn.Module, path: Path, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> None:
    """Fills the frozen weights of the network itself from weights without adapters; every rank reads them whole."""
    _read(network, [name for name, _ in frozen_tensors(network) if not _of_module(name)], path, dtype, device)


def read_modules(
    network: nn.Module, path: Path, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> None:
    """Fills the modules of routed layers where these are frozen, from a run with the same modules."""
    _read(network, [name for name, _ in frozen_tensors(network) if _of_module(name)], path, dtype, device)


def _read(
    network: nn.Module, names: Collection[str], path: Path, dtype: torch.dtype, device: torch.device | None
) -> None:
    with open_weights(path) as weights:
        for name in names:
            put_frozen(network, name, weights.tensor(name).to(device=device, dtype=dtype))


def merged_value(settings: AdaptersConfig, name: str, base: Weights, adapters: Weights) -> Tensor:
    """A weight of the network without adapters that computes the same as the adapted one."""
    layer = name.removesuffix(".weight")
    read, written = f"{layer}.A_RI", f"{layer}.B_OR"
    value = base.tensor(name)
    if layer == name or read not in adapters.names:
        return value
    return merged(value, adapters.tensor(read), adapters.tensor(written), _scale(settings))


def _of_module(name: str) -> bool:
    return name.rpartition(".")[2] in MODULES


class _LowRankLinear(LowRankLinear):
    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        """A is Kaiming-uniform with a = sqrt(5)."""
        return Constant(0.0) if name == "B_OR" else by_inputs(shape[-1])


class _RoutedLinear(RoutedLinear):
    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        if name == "A_HMIR":
            return Uniform(module_bound(self.in_features, shape[0]))  # ZeRO 3 leaves the parameter itself no shape
        return Constant(0.0) if name == "B_HMRO" else Uniform(ROUTING_BOUND)


def _adapter(
    name: str, layer: nn.Linear, settings: AdaptersConfig, rows: RowTasks, num_tasks: int
) -> LowRankLinear | RoutedLinear:
    most = min(layer.in_features, layer.out_features)
    if settings.rank > most:
        raise ValueError(
            f"model.adapters.rank: {settings.rank} is larger than {name}, a layer of {layer.in_features} inputs and "
            f"{layer.out_features} outputs; use at most {most}, or name other layers with model.adapters.on"
        )
    if not isinstance(settings, RoutedAdaptersConfig) or settings.mode == "mean":
        return _LowRankLinear(layer, settings.rank, _scale(settings))
    if layer.in_features % settings.heads or layer.out_features % settings.heads:
        raise ValueError(
            f"model.adapters.heads: {settings.heads} does not divide {name}, a layer of {layer.in_features} inputs and "
            f"{layer.out_features} outputs; use a divisor, or name other layers with model.adapters.on"
        )
    routed = _RoutedLinear(
        layer,
        rows,
        num_tasks=num_tasks,
        num_modules=settings.modules,
        num_heads=settings.heads,
        rank=settings.rank,
        scale=_scale(settings),
    )
    if settings.mode == "routing":
        freeze_some(routed, name, MODULES)
    return routed


def _scale(settings: AdaptersConfig) -> float:
    return 1.0 if settings.alpha is None else settings.alpha / settings.rank


def _chosen(network: Network, on: tuple[str, ...]) -> dict[str, nn.Linear]:
    """The linear layers with one of `on` in their names; all linear layers of the blocks if `on` is empty."""
    layers = {
        name: module for name, module in network.named_modules(remove_duplicate=False) if type(module) is nn.Linear
    }
    if not layers:
        raise ValueError(
            f"model.adapters: {type(network).__name__} has no layer of the class torch.nn.Linear, and adapters stand "
            "beside such alone; remove the section"
        )
    parts = {part for name in layers for part in name.split(".") if not part.isdecimal()}
    if not on:
        modules = {id(module) for module in network.blocks.modules()}
        inside = {name: layer for name, layer in layers.items() if id(layer) in modules}
        if not inside:
            remedy = f"name some of {', '.join(sorted(parts))}"
            raise ValueError(f"model.adapters.on: is empty, and there is no linear layer in the blocks; {remedy}")
        return inside
    for part in on:
        if not any(part in name.split(".") for name in layers):
            near = difflib.get_close_matches(part, sorted(parts), 3, 0) or sorted(parts)
            raise ValueError(f"model.adapters.on: {part} is in the name of no linear layer; use {' or '.join(near)}")
    return {name: layer for name, layer in layers.items() if not {*on}.isdisjoint(name.split("."))}
