"""The tensors of the pretend device, and its registration with torch."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from tests.pretend.runtime import Runtime
from tests.pretend.synchronisation import note, note_operation, note_staged, waits_for

NAME = "pretend"

_TAKES_SCALARS = {
    "aten::fill_",
    "aten::masked_fill",
    "aten::masked_fill_",
    "aten::index_fill",
    "aten::index_fill_",
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::_fused_adamw_",
    "aten::_fused_adam_",
}
"""Operations besides the pointwise ones in which CUDA takes a scalar of the CPU."""
_COPIES = {"aten::copy_", "aten::_to_copy", "aten::_foreach_copy_"}
_INDEXES = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


class PretendTensor(torch.Tensor):
    """A tensor of the device ``pretend:0``; what it holds is in a CPU tensor.

    Attributes:
        on_cpu: what it holds; shares memory with those of its views.
    """

    on_cpu: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    def __new__(cls, real: Tensor) -> Self:
        """Puts a tensor of the CPU on the device, without a copy."""
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            real.size(),
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=torch.device(NAME, 0),
            requires_grad=False,
        )
        made.on_cpu = real
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Computes an operation as the device would."""
        if any(issubclass(kind, Tensor) and kind not in _KNOWN for kind in types):
            return NotImplemented
        if _is_composed(func):  # in inference mode torch does not take it apart by itself
            return func.decompose(*args, **(kwargs or {}))
        return _compute(func, args, kwargs or {})

    @property
    def data(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The same values without a history."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, PretendTensor):
            raise RuntimeError(f"data: a tensor on {value.device} is given to one on {self.device}")
        torch.Tensor.data.__set__(self, value)  # pyright: ignore[reportAttributeAccessIssue]
        self.on_cpu = value.on_cpu

    def untyped_storage(self) -> torch.UntypedStorage:
        """The memory that the values are in; it may be freed and taken again."""
        return self.on_cpu.untyped_storage()

    def data_ptr(self) -> int:
        """Address of the first value."""
        return self.on_cpu.data_ptr()

    def pin_memory(self, device: Any = None) -> Tensor:  # noqa: ARG002
        """Fails: only memory of the host can be pinned."""
        raise RuntimeError(f"cannot pin a tensor on {self.device}, only dense CPU tensors can be pinned")

    def numpy(self, *, force: bool = False) -> Any:
        """Fails as on a GPU, unless forced to copy."""
        if not force:
            raise TypeError(f"can't convert {self.device} device type tensor to numpy; use Tensor.cpu() first")
        return self.detach().cpu().numpy()

    def record_stream(self, stream: Any) -> None:
        """Tells the allocator that a stream uses the memory; there is no allocator."""

    def tolist(self) -> Any:
        """The values on the host."""
        return self.detach().cpu().tolist()

    def __array__(self, dtype: Any = None) -> Any:
        return self.numpy()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"{self.on_cpu!r} on {self.device}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) in memo:
            return memo[id(self)]
        copied = PretendTensor(self.on_cpu.clone())
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, requires_grad=self.requires_grad)
        else:
            copied.requires_grad_(self.requires_grad)
        for name in self.__dict__.keys() - copied.__dict__.keys():
            setattr(copied, name, self.__dict__[name])
        memo[id(self)] = copied
        return copied


@cache
def _is_composed(func: Any) -> bool:
    """Whether an operation consists of others, on any device."""
    return func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)


_KNOWN = (torch.Tensor, torch.nn.Parameter, PretendTensor)


class PretendGenerator(torch.Generator):
    """A generator of the device. Keep it as long as it is used."""

    def __new__(cls) -> Self:
        """Makes one with torch's usual first seed."""
        made = super().__new__(cls)
        _generators.add(made._cdata)  # pyright: ignore[reportAttributeAccessIssue]
        return made

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        """``pretend:0``."""
        return torch.device(NAME, 0)


class GeneratorsOfTheDevice(TorchDispatchMode):
    """While it is entered, a tensor of the CPU refuses a generator of the device; the reverse is always refused."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Looks at the generator alone."""
        keywords = kwargs or {}
        on_device = torch.device(keywords.get("device") or "cpu").type == NAME
        tensors = [value for value in args if isinstance(value, Tensor)]
        if not on_device and not any(isinstance(tensor, PretendTensor) for tensor in tensors):
            _check_generator(func.name(), False, [*args, *keywords.values()])
        return func(*args, **keywords)


_generators: set[int] = set()
_pinned: dict[int, Tensor] = {}
_library: list[torch.library.Library] = []


def register() -> torch.device:
    """Makes the device exist in this process; a second call changes nothing.

    Returns:
        ``torch.device("pretend", 0)``.
    """
    if not _library:
        _setup_privateuseone_for_python_backend(NAME, backend_module=Runtime())
        operations = torch.library.Library("aten", "IMPL")
        for schema in torch._C._jit_get_all_schemas():
            if schema.name.startswith("aten::") and _makes_tensors(schema):
                operation = getattr(torch.ops.aten, schema.name[6:], None)
                overload = getattr(operation, schema.overload_name or "default", None)
                if overload is not None:
                    _implement(operations, schema, overload, "PrivateUse1")
        operations.impl("_pin_memory", _pin, "CPU")
        operations.impl("is_pinned", _is_pinned, "CPU")
        for name in ("copy_", "_to_copy"):  # torch.tensor calls them without PretendTensor's own way
            overload = getattr(torch.ops.aten, name).default
            operations.impl(name, partial(_from_torch, overload), "PrivateUse1")
        _library.append(operations)
    return torch.device(NAME, 0)


def _implement(library: torch.library.Library, schema: Any, overload: Any, key: str) -> None:
    name = schema.name[6:] + (f".{schema.overload_name}" if schema.overload_name else "")
    library.impl(name, partial(_from_torch, overload), key)


def _from_torch(func: Any, *args: Any, **kwargs: Any) -> Any:
    return _compute(func, args, kwargs)


def _makes_tensors(schema: Any) -> bool:
    """Whether an operation makes a tensor on a device out of no tensor."""
    kinds = [str(argument.type) for argument in schema.arguments]
    names = [argument.name for argument in schema.arguments]
    return "device" in names and "out" not in names and not any("Tensor" in kind for kind in kinds)


def _pin(tensor: Tensor, device: torch.device | None = None) -> Tensor:  # noqa: ARG001
    copied = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)
    _pinned[copied.untyped_storage().data_ptr()] = copied
    return copied


def _is_pinned(tensor: Tensor, device: torch.device | None = None) -> bool:  # noqa: ARG001
    return tensor.untyped_storage().data_ptr() in _pinned


def _compute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    full_name = func.name()
    name = full_name.partition(".")[0]
    given: list[Tensor] = []
    owners: dict[int, Tensor] = {}

    def unwrap(tensor: Tensor) -> Tensor:
        given.append(tensor)
        real = tensor.on_cpu if isinstance(tensor, PretendTensor) else tensor
        owners[id(real)] = tensor
        return real

    real_args = _mapped(unwrap, args)
    real_kwargs = {key: _mapped(unwrap, value) for key, value in kwargs.items()}
    target = kwargs.get("device")
    to_host = target is not None and torch.device(target).type == "cpu"
    if "device" in kwargs and not to_host:
        real_kwargs["device"] = torch.device("cpu")
    real_kwargs.pop("pin_memory", None)
    note_operation(full_name)
    _check_devices(func, name, given)
    on_device = not given or any(isinstance(tensor, PretendTensor) for tensor in given)
    _check_generator(name, on_device, [*args, *kwargs.values()])
    if name in _COPIES:
        _note_copies(name, args, kwargs, to_host)
    else:
        kind = waits_for(name, args, kwargs, lambda value: isinstance(value, PretendTensor))
        if kind:
            note(kind)
    results = func(*real_args, **real_kwargs)

    def wrap(tensor: Tensor) -> Tensor:
        if id(tensor) in owners:
            return owners[id(tensor)]
        return tensor if to_host else PretendTensor(tensor)

    wrapped = _mapped(wrap, results)
    if func._schema.is_mutable:
        for tensor in given:
            _follow(tensor)
    return wrapped


def _follow(tensor: Tensor) -> None:
    """Takes over a shape that the operation has changed."""
    if isinstance(tensor, PretendTensor):
        real = tensor.on_cpu
        if tensor.shape != real.shape or tensor.stride() != real.stride():
            torch.Tensor.data.__set__(tensor, PretendTensor(real))  # pyright: ignore[reportAttributeAccessIssue]


def _check_devices(func: Any, name: str, given: list[Tensor]) -> None:
    if name in _COPIES or not any(isinstance(tensor, PretendTensor) for tensor in given):
        return
    scalars = torch.Tag.pointwise in func.tags or name in _TAKES_SCALARS or name.startswith("aten::_foreach")
    for tensor in given:
        is_index = name in _INDEXES and tensor.dtype in (torch.bool, torch.uint8, torch.int64, torch.int32)
        if isinstance(tensor, PretendTensor) or (scalars and tensor.ndim == 0) or is_index:
            continue
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {NAME}:0 and "
            f"{tensor.device}! ({func.name()}, shape {tuple(tensor.shape)})"
        )


def _check_generator(name: str, on_device: bool, values: list[Any]) -> None:
    for value in values:
        if isinstance(value, torch.Generator):
            pretend = value._cdata in _generators  # pyright: ignore[reportAttributeAccessIssue]
            if pretend != on_device:
                wanted, found = (NAME, "cpu") if on_device else ("cpu", NAME)
                raise RuntimeError(f"Expected a '{wanted}' device type for generator but found '{found}' ({name})")


def _note_copies(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], to_host: bool) -> None:
    position = 2 if name != "aten::_to_copy" else len(args)
    non_blocking = kwargs.get("non_blocking", args[position] if len(args) > position else False)
    if name == "aten::_to_copy":
        if isinstance(args[0], PretendTensor):
            if to_host and not non_blocking:
                note("to host")
        elif not to_host:
            _note_arrival(args[0], non_blocking)
        return
    pairs = zip(args[0], args[1], strict=True) if name == "aten::_foreach_copy_" else [(args[0], args[1])]
    for target, source in pairs:
        if isinstance(target, PretendTensor) == isinstance(source, PretendTensor) or not source.numel():
            continue
        if isinstance(target, PretendTensor):
            _note_arrival(source, non_blocking)
        elif not (non_blocking and _is_pinned(target)):
            note("to host")


def _note_arrival(source: Tensor, non_blocking: bool) -> None:
    """Counts a copy from the host."""
    if not non_blocking:
        note("to device")
    elif not _is_pinned(source):
        note_staged()


def _mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Applies a function to the tensors of an argument."""
    if isinstance(value, Tensor):
        return function(value)
    if type(value) in (list, tuple):
        return type(value)(_mapped(function, part) for part in value)
    return value
