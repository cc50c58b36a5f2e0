"""Counts what a device would be asked for: operations that it would run, and moments at which the host would wait."""

from collections import Counter
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

_WAITS = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "bincount",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "is_nonzero",
    "equal",
    "repeat_interleave",
    "histc",
)
"""Operations whose result, or the size of it, the host must know."""
_READS = ("cpu", "tolist", "numpy")
"""Methods of a tensor that bring it to the host."""


class Counted(TorchDispatchMode):
    """Counts as if every tensor were on a device, for code that runs on a CPU.

    A tensor that was read is on the host: what is computed from such tensors alone counts nowhere. Only one at a time
    may be entered.

    Attributes:
        operations: aten operations that are no views, by name.
        waits: host synchronisations, by name.
        copies: tensors made out of numbers of the host, each a copy to the device that would make the host wait.
        collectives: collectives, by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.collectives: Counter[str] = Counter()
        self.copies = 0
        self._methods: dict[str, Any] = {}
        self._on_host: dict[int, Any] = {}  # keeps what was read, so that no address is used again

    @property
    def total(self) -> int:
        """Operations in all."""
        return sum(self.operations.values())

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
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        result = func(*args, **kwargs)
        if given and all(map(self._is_on_host, given)):
            self._put_on_host(result)
            return result
        if func.namespace != "aten":
            self.collectives[func.name()] += 1
            return result
        name = func.name().removeprefix("aten::").partition(".")[0]
        if name == "lift_fresh":
            self.copies += 1
        elif not _is_view(func):
            self.operations[name] += 1
        if name in _WAITS or _picks_by_mask(name, args):
            self.waits[name] += 1
        return result

    def _counting(self, name: str, method: Any) -> Any:
        def counted(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self._is_on_host(tensor):
                return method(tensor, *args, **kwargs)
            self.waits[name] += 1
            with _disable_current_modes():
                result = method(tensor, *args, **kwargs)
                result = result.clone() if isinstance(result, Tensor) else result  # the original stays on the device
            self._put_on_host(result)
            return result

        return counted

    def _is_on_host(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._on_host

    def _put_on_host(self, result: Any) -> None:
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._on_host[storage._cdata] = storage


def _is_view(func: Any) -> bool:
    aliases = [value.alias_info for value in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def _picks_by_mask(name: str, args: Any) -> bool:
    if not name.startswith("index") or len(args) < 2 or not isinstance(args[1], list | tuple):
        return False
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
