"""Numbers that threads of compiled code share: what one has written before a change, another sees after it.

The arrays hold int64.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_BYTES = 8


def _address(target: Any, builder: Any, signature: Any, values: Any) -> Any:
    """The place in memory of an entry of an array without gaps."""
    numbers = target.make_array(signature.args[0])(target, builder, values[0])
    return builder.gep(numbers.data, [values[1]])


def _add(context: Any, array: Any, index: Any, amount: Any) -> Any:  # noqa: ARG001
    """Adds to an entry, as one step."""

    def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.atomic_rmw("add", _address(target, builder, signature, values), values[2], "acq_rel")
        return target.get_dummy_value()

    return types.void(array, types.intp, types.int64), generate


def _read(context: Any, array: Any, index: Any) -> Any:  # noqa: ARG001
    """Reads an entry that other threads change."""

    def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load_atomic(_address(target, builder, signature, values), "acquire", _BYTES)

    return types.int64(array, types.intp), generate


def _yield_core(context: Any) -> Any:  # noqa: ARG001
    """Lets another thread of the machine have the core, if one waits for it."""

    def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ARG001
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return target.get_dummy_value()

    return types.void(), generate


add: Any = intrinsic(_add)
read: Any = intrinsic(_read)
yield_core: Any = intrinsic(_yield_core)
