"""Which tensors hold memory, from moment to moment."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Storages(TorchDispatchMode):
    """Follows the memory of every tensor that an operation makes while the mode is entered, until it is given back.

    Operations are seen as PyTorch dispatches them: what a kernel needs inside itself is not, nor what other threads
    make. The memory is followed by weak references to the storages, so that nothing is kept alive. It works alike on
    real tensors and under a `FakeTensorMode` that is entered before.
    """

    def __init__(self, changed: Callable[[int, int], None]) -> None:
        """Calls `changed` with a storage's number and the bytes by which it has grown; below zero where it was given
        back.
        """
        super().__init__()
        self.live: dict[int, int] = {}
        self._changed = changed
        self._numbers: weakref.WeakKeyDictionary[torch.UntypedStorage, int] = weakref.WeakKeyDictionary()
        self._references: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._seen = 0

    def __enter__(self) -> Self:
        """Begins to follow."""
        self._resize = torch.UntypedStorage.resize_
        resize = self._resize

        def resized(storage: torch.UntypedStorage, size: int) -> Any:
            result = resize(storage, size)
            number = self._number(storage)
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
        """Computes, and takes note of the results; what tensors are made of is seen when it is computed itself."""
        if DTensor in types:
            return NotImplemented
        result = func(*args, **(kwargs or {}))
        self.see(result)
        return result

    def see(self, tensors: Any) -> None:
        """Follows tensors that exist already, in any nest."""
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, DTensor):
                self.see(tensor.to_local())
            elif isinstance(tensor, Tensor) and tensor.device.type != "meta":
                self.number(tensor)

    def number(self, tensor: Tensor) -> int:
        """Number of a tensor's storage, which is followed from now on."""
        storage = tensor.untyped_storage()
        number = self._number(storage)
        if number is None:
            number = self._seen = self._seen + 1
            self._numbers[storage] = number
            weakref.finalize(storage, self._set, number, 0).atexit = False
            self._set(number, storage.nbytes())
        return number

    def held(self, tensors: Iterable[Tensor]) -> int:
        """Bytes of the storages of some tensors, each counted once."""
        return sum(self.live.get(number, 0) for number in {self.number(tensor) for tensor in tensors})

    def _number(self, storage: torch.UntypedStorage) -> int | None:
        return self._numbers.get(storage)

    def _set(self, number: int, size: int) -> None:
        before = self.live.pop(number, 0)
        if size:
            self.live[number] = size
        if size != before:
            self._changed(number, size - before)
