"""Memory that tensors take while something runs."""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_iter


class Allocations(TorchDispatchMode):
    """Bytes of all storages that operations read or made while it is entered, until nothing holds them any longer.

    Attributes:
        live: bytes that are held now.
        peak: most that were held at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: dict[int, weakref.finalize] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation and counts the storages that are new."""
        del types
        found = func(*args, **(kwargs or {}))
        for value in tree_iter((found, args, kwargs)):
            if isinstance(value, torch.Tensor) and not (value.is_meta or is_traceable_wrapper_subclass(value)):
                self._count(value)
        return found

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._seen:
            size = storage.nbytes()
            self._seen[key] = weakref.finalize(storage, self._freed, key, size)
            self.live += size
            self.peak = max(self.peak, self.live)

    def _freed(self, key: int, size: int) -> None:
        del self._seen[key]
        self.live -= size
