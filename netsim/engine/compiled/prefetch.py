"""Hints to the processor, for compiled code that knows which records it will need soon."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_KEEP, _DATA = 3, 1


def _hint(array: Any, writes: int) -> Any:
    """Signature and code of a hint about a line of an array; see `_prefetch`."""

    def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
        array_type = signature.args[0]
        records = target.make_array(array_type)(target, builder, values[0])
        byte, number = ir.IntType(8), ir.IntType(32)
        size = ir.Constant(values[1].type, target.get_abi_sizeof(target.get_data_type(array_type.dtype)))
        place = builder.add(builder.mul(values[1], size), values[2])
        address = builder.gep(builder.bitcast(records.data, byte.as_pointer()), [place])
        kind = ir.FunctionType(ir.VoidType(), [byte.as_pointer(), number, number, number])
        hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(hint, [address, *(number(value) for value in (writes, _KEEP, _DATA))])
        return target.get_dummy_value()

    return types.void(array, types.intp, types.intp), generate


def _prefetch(context: Any, array: Any, index: Any, offset: Any) -> Any:  # noqa: ARG001
    """Fetches a line of the cache, `offset` bytes behind a record's begin, before it is written; changes nothing."""
    return _hint(array, 1)


def _prefetch_to_read(context: Any, array: Any, index: Any, offset: Any) -> Any:  # noqa: ARG001
    """The same for a line that is only read, which other cores may read as well."""
    return _hint(array, 0)


prefetch: Any = intrinsic(_prefetch)
prefetch_to_read: Any = intrinsic(_prefetch_to_read)
