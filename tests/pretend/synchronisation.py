"""Where the host would wait for a device, and why."""

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self

import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
_HIDDEN = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
_LIBRARIES = "/site-packages/"

OF_OPERATION = {
    "aten::_local_scalar_dense": "item",
    "aten::nonzero": "nonzero",
    "aten::masked_select": "masked_select",
    "aten::bincount": "bincount",
    "aten::histc": "histc",
    "aten::unique_dim": "unique",
    "aten::_unique": "unique",
    "aten::_unique2": "unique",
    "aten::unique_consecutive": "unique",
    "aten::unique_dim_consecutive": "unique",
    "aten::equal": "equal",
    "aten::_linalg_check_errors": "linalg",
}
"""Operations after which the host always waits, and the kind that they are counted as."""


@dataclass(frozen=True, slots=True)
class Synchronisation:
    """One wait of the host.

    Attributes:
        kind: what makes it wait: a value of `OF_OPERATION`; ``boolean index``; ``repeat_interleave``; ``to host`` and
            ``to device`` (blocking copies); ``event`` and ``device`` (waits that are asked for).
        line: innermost line outside torch, ``moe/experts.py:71`` or ``deepspeed/runtime/engine.py:12``; ``autograd``
            where there is none.
        own: innermost line of this repository; ``autograd`` where there is none.
    """

    kind: str
    line: str
    own: str


class Watch:
    """Counts synchronisations while it is entered, on every thread of the process.

    Attributes:
        waits: every one, in order.
        staged: copies from pageable memory that do not block, by line. The driver may wait in them.
        collectives: collectives, by name. The host waits in gloo's; in NCCL's it does not.
        operations: operations on the device, by name.
    """

    def __init__(self) -> None:
        self.waits: list[Synchronisation] = []
        self.staged: Counter[str] = Counter()
        self.collectives: Counter[str] = Counter()
        self.operations: Counter[str] = Counter()

    def __enter__(self) -> Self:
        _watching.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _watching.remove(self)

    def kinds(self) -> Counter[str]:
        """Synchronisations by kind."""
        return Counter(wait.kind for wait in self.waits)

    def lines(self, *prefixes: str) -> Counter[str]:
        """Synchronisations by kind and innermost line.

        Args:
            *prefixes: of the paths of lines that count; none: all.
        """
        return Counter(
            f"{wait.line}: {wait.kind}" for wait in self.waits if not prefixes or wait.line.startswith(prefixes)
        )


_watching: list[Watch] = []
_waits = 0


def waits() -> int:
    """How often the host has waited since the process began. After a wait all that was queued before is done."""
    return _waits


def note(kind: str) -> None:
    """Counts a synchronisation that the running line causes."""
    global _waits
    _waits += 1
    if _watching:
        line, own = _lines()
        for watch in _watching:
            watch.waits.append(Synchronisation(kind, line, own))


def note_staged() -> None:
    """Counts a copy from pageable memory that does not block."""
    if _watching:
        line, _ = _lines()
        for watch in _watching:
            watch.staged[line] += 1


def note_operation(name: str) -> None:
    """Counts an operation on the device, or a collective."""
    for watch in _watching:
        (watch.operations if name.startswith("aten::") else watch.collectives)[name] += 1


def waits_for(name: str, arguments: tuple[Any, ...], keywords: dict[str, Any], on_device: Callable[[Any], bool]) -> str:
    """Kind of synchronisation of an operation that is no copy; empty: the host does not wait.

    Args:
        name: of the operation, without its overload.
        arguments: its positional arguments.
        keywords: its other arguments.
        on_device: whether an argument is a tensor of the device.
    """
    if name in OF_OPERATION:
        return OF_OPERATION[name]
    if name == "aten::repeat_interleave" and on_device(arguments[0]):
        given = keywords.get("output_size") is not None or (len(arguments) > 1 and arguments[1] is not None)
        return "" if given else "repeat_interleave"
    if name in ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"):
        indices = [index for index in arguments[1] if isinstance(index, Tensor)]
        if any(not on_device(index) and index.numel() for index in indices):
            return "to device"
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices) and not _fills(name, arguments, keywords):
            return "boolean index"
    return ""


def _fills(name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> bool:
    """Whether an assignment is one of a scalar under a mask, which torch does by `masked_fill_`."""
    if name == "aten::index":
        return False
    indices, values = arguments[1], arguments[2]
    accumulates = keywords.get("accumulate", arguments[3] if len(arguments) > 3 else False)
    masks = [index for index in indices if isinstance(index, Tensor)]
    return values.numel() == 1 and not accumulates and len(masks) == 1 and masks[0].dtype == torch.bool


def _lines() -> tuple[str, str]:
    frame: FrameType | None = sys._getframe(2)
    line = own = ""
    while frame is not None and not own:
        path = frame.f_code.co_filename
        if path.startswith("/") and not path.startswith(_HIDDEN):
            here = f"{_short(path)}:{frame.f_lineno}"
            if "threading.py" not in path:
                line = line or here
                if path.startswith(str(ROOT)) and _LIBRARIES not in path:
                    own = here
        frame = frame.f_back
    return line or "autograd", own or "autograd"


def _short(path: str) -> str:
    if _LIBRARIES in path:
        return path.rpartition(_LIBRARIES)[2]
    return str(Path(path).relative_to(ROOT)) if path.startswith(str(ROOT)) else path
