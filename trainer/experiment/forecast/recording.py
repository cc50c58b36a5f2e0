"""Events of a forward and a backward pass, in order, by running them on tensors that hold no values."""

import math
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer.experiment.forecast.protocol import Moment, Place
from trainer.model.parallel.division import LinearShare
from trainer.model.parallel.state import HoldsExperts


class Storages(TorchDispatchMode):
    """Follows the memory of every tensor that an operation makes while the mode is entered, until it is given back.

    Only operations that PyTorch dispatches in this thread are seen: not the memory inside a kernel, nor that of other
    threads. The memory is followed by weak references to the storages, so that nothing is kept alive. It works alike on
    real tensors and under a `FakeTensorMode` that is entered before.
    """

    def __init__(self, changed: Callable[[int, int], None]) -> None:
        """Calls `changed` with a storage's number and its growth in bytes; below zero where given back."""
        super().__init__()
        self.live: dict[int, int] = {}
        self._changed = changed
        self._numbers: weakref.WeakKeyDictionary[torch.UntypedStorage, int] = weakref.WeakKeyDictionary()
        self._seen = 0

    def __enter__(self) -> Self:
        """Begins to follow."""
        self._resize = torch.UntypedStorage.resize_
        resize = self._resize

        def resized(storage: torch.UntypedStorage, size: int) -> Any:
            result = resize(storage, size)
            number = self._numbers.get(storage)
            if number is not None:
                self._set(number, size)
            return result

        torch.UntypedStorage.resize_ = resized  # pyright: ignore[reportAttributeAccessIssue]  dispatched nowhere
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        """Follows no further operations."""
        torch.UntypedStorage.resize_ = self._resize  # pyright: ignore[reportAttributeAccessIssue]
        super().__exit__(*raised)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Computes, and follows the results; operands were seen when they were computed."""
        if any(issubclass(one, _distributed_tensor()) for one in types):
            return NotImplemented
        result = func(*args, **(kwargs or {}))
        self.see(result)
        return result

    def see(self, tensors: Any) -> None:
        """Follows existing tensors, in any nested structure."""
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, _distributed_tensor()):
                self.see(tensor.to_local())
            elif isinstance(tensor, Tensor) and tensor.device.type != "meta":
                self.number(tensor)

    def number(self, tensor: Tensor) -> int:
        """Number of a tensor's storage, which is followed from now on."""
        storage = tensor.untyped_storage()
        number = self._numbers.get(storage)
        if number is None:
            number = self._seen = self._seen + 1
            self._numbers[storage] = number
            weakref.finalize(storage, self._set, number, 0).atexit = False
            self._set(number, storage.nbytes())
        return number

    def held(self, tensors: Iterable[Tensor]) -> int:
        """Bytes of the storages of some tensors, each counted once."""
        return sum(self.live.get(number, 0) for number in {self.number(tensor) for tensor in tensors})

    def _set(self, number: int, size: int) -> None:
        before = self.live.pop(number, 0)
        if size:
            self.live[number] = size
        if size != before:
            self._changed(number, size - before)


def _distributed_tensor() -> Any:
    """PyTorch's DTensor class; () if it is not imported yet, as its import takes a second."""
    module = sys.modules.get("torch.distributed.tensor")
    return () if module is None else module.DTensor


@dataclass(frozen=True, slots=True)
class Change:
    """A storage grows by so many bytes; below zero where it is given back."""

    storage: int
    size: int


Event = Change | Moment


@dataclass(frozen=True, slots=True)
class Owned:
    """A parameter in its shape on a rank; outside blocks its place is "before"; names of experts have no numbers."""

    shape: tuple[int, ...]
    place: Place
    is_expert: bool
    name: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Recording:
    """Events of a micro batch, in order.

    Attributes:
        drawn: bytes of the inputs of the loss, which are held before, during and after the pass.
        forward: events until the loss is computed.
        backward: events from there until the last gradient.
        kinds: kinds of the storages that are no activations, by number of the storage.
    """

    parameters: tuple[Owned, ...]
    drawn: int
    forward: tuple[Event, ...]
    backward: tuple[Event, ...]
    kinds: dict[int, str]


class Recorder:
    """Records a pass while it is entered: starts, ends, sums, and gradients in autograd's order; memory on demand."""

    def __init__(self, network: nn.Module, blocks: nn.ModuleList) -> None:
        self.events: list[Event] = []
        self.kinds: dict[int, str] = {}
        self.kind: str | None = None
        self.storages = Storages(self._changed)
        self._network, self._blocks = network, blocks
        self._numbers = {id(parameter): number for number, parameter in enumerate(network.parameters())}
        self._places: dict[int, Place] = {id(part): i for i, block in enumerate(blocks) for part in block.modules()}
        self._places[id(network)] = "before"
        self._place: Place = "before"

    @property
    def owned(self) -> tuple[Owned, ...]:
        """The parameters of the network."""
        layers = [(path, one) for path, one in self._network.named_modules() if isinstance(one, HoldsExperts)]
        stacks = {
            id(parameter): f"{path}.experts.{name}"
            for path, layer in layers
            for name, parameter in layer.expert_stacks().items()
        }
        blocks = {id(parameter): i for i, block in enumerate(self._blocks) for parameter in block.parameters()}
        return tuple(
            Owned(tuple(one.shape), blocks.get(id(one), "before"), id(one) in stacks, stacks.get(id(one), name))
            for name, one in self._network.named_parameters()
        )

    @contextmanager
    def recording(self, *, memory: bool) -> Iterator[None]:
        """While entered, events are noted, and changes of memory where they are wanted."""
        with ExitStack() as stack:
            owners = {id(one): module for module in self._network.modules() for one in module.parameters(recurse=False)}
            for module in self._network.modules():
                stack.callback(module.register_forward_pre_hook(self._before).remove)
                stack.callback(module.register_forward_hook(self._after).remove)
            for parameter in self._network.parameters():
                hook = partial(self._gradient, owners[id(parameter)], memory)
                stack.callback(parameter.register_post_accumulate_grad_hook(hook).remove)
            if memory:
                stack.enter_context(self.storages)
            yield

    def take(self) -> tuple[Event, ...]:
        """The events since the last call."""
        events = tuple(self.events)
        self.events.clear()
        return events

    def _changed(self, storage: int, size: int) -> None:
        if size > 0 and self.kind is not None:
            self.kinds[storage] = self.kind
        self.events.append(Change(storage, size))

    def _note(self, kind: Any, module: nn.Module) -> None:
        if isinstance(module, HoldsExperts):
            self.kind = "dispatch" if kind == "enter" else None
        self._arrive(module)
        own = tuple(self._numbers[id(parameter)] for parameter in module.parameters(recurse=False))
        whole = module is (self._blocks[self._place] if isinstance(self._place, int) else self._network)
        self.events.append(Moment(kind, self._place, own, whole=whole))

    def _arrive(self, module: nn.Module) -> None:
        """Sets the current place; a module outside the blocks that is first called after a block gets place "after"."""
        after = isinstance(self._place, int) or self._place == "after"
        self._place = self._places.setdefault(id(module), "after" if after else "before")

    def _before(self, module: nn.Module, values: tuple[Any, ...]) -> tuple[Any, ...]:
        self._note("enter", module)
        return _marked(values, partial(self._note, "leave", module))

    def _after(self, module: nn.Module, _values: tuple[Any, ...], output: Any) -> Any:
        """Notes a module's end, and marks its output so that the backward pass notes the module's start."""
        sums = module.sums if isinstance(module, LinearShare) else None
        if sums == "forward":
            self._note("sum", module)
        self._note("leave", module)
        if sums == "backward":
            output = _marked(output, partial(self._note, "sum gradients", module))
        return _marked(output, partial(self._note, "enter", module))

    def _gradient(self, module: nn.Module, memory: bool, parameter: Tensor) -> None:
        assert parameter.grad is not None
        storage = self.storages.number(parameter.grad) if memory else 0
        self._arrive(module)
        self.events.append(Moment("gradient", self._place, (self._numbers[id(parameter)],), storage))
        parameter.grad = None


class _Mark(torch.autograd.Function):
    """The identity; its backward pass calls `reached`."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, reached: Callable[[], None]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.reached = reached
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        ctx.reached()
        return *gradients, None


def _marked(values: Any, reached: Callable[[], None]) -> Any:
    """Marks the first tensor that requires a gradient; `reached` is called when the backward pass arrives at it."""
    if isinstance(values, Tensor):
        return _Mark.apply(values, reached) if values.requires_grad else values
    if not isinstance(values, tuple):
        return values
    marked = list(values)
    for index, value in enumerate(values):
        if isinstance(value, Tensor) and value.requires_grad:
            marked[index] = _Mark.apply(value, reached)
            break
    return tuple(marked)


def moments(
    network: nn.Module, blocks: nn.ModuleList, call: Callable[[nn.Module], Tensor]
) -> tuple[tuple[Moment, ...], tuple[Moment, ...]]:
    """The moments of a forward and a backward pass of a network on the meta device, under DeepSpeed's linear layer."""
    recorder = Recorder(network, blocks)
    with recorder.recording(memory=False), patch.object(functional, "linear", _Linear.apply):
        loss = call(network)
        forward = recorder.take()
        loss.backward()
        backward = recorder.take()
    first, second = ([one for one in events if isinstance(one, Moment)] for events in (forward, backward))
    return tuple(first), tuple(second)


_linear_of_torch = functional.linear


class _Linear(torch.autograd.Function):
    """The linear layer of DeepSpeed in place of torch's: the gradient of its bias comes behind that of its weight."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        ctx.save_for_backward(*given)
        return _linear_of_torch(*given)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        pairs = zip(ctx.saved_tensors, ctx.needs_input_grad, strict=True)
        return tuple(torch.empty_like(value) if needed else None for value, needed in pairs)
