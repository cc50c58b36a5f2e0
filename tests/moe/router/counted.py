"""Counts the operations of a computation and the moments at which the host of a device would wait for it."""

from collections import Counter
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "is_nonzero", "equal", "lift_fresh")
"""Operations whose result, or its size, the host must know; the last copies a number of the host."""
_READS = ("cpu", "tolist", "numpy")
"""Methods that bring a tensor to the host, which a CPU does without an operation."""


class Counted(TorchDispatchMode):
    """Counts as if all tensors lay on a device.

    Attributes:
        operations: aten operations that are no views, by name.
        waits: host synchronisations, by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self._methods: dict[str, Any] = {}

    def __enter__(self) -> Self:
        for name in _READS:
            self._methods[name] = getattr(Tensor, name)
            setattr(Tensor, name, self._counting(name, self._methods[name]))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for name, method in self._methods.items():
            setattr(Tensor, name, method)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").partition(".")[0]
        if func.namespace == "aten" and not _is_view(func):
            self.operations[name] += 1
        picks = name.startswith("index") and any(_is_mask(one) for one in args[1:] if isinstance(one, list | tuple))
        if picks or name in _WAITS or (name == "repeat_interleave" and len(args) == 1):
            self.waits[name] += 1
        return func(*args, **(kwargs or {}))

    def _counting(self, name: str, method: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.waits[name] += 1
            return method(*args, **kwargs)

        return counted


def _is_view(func: Any) -> bool:
    return any(one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns)


def _is_mask(indices: Any) -> bool:
    return any(isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8) for one in indices)
