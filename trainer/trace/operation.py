"""Interprets a call of torch's c10d operators: its operation, bytes, group and handle."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

NAMESPACES = frozenset({"c10d", "_c10d_functional"})
WAITS = frozenset({"_c10d_functional::wait_tensor"})
_RESULT = "the operator's result"

# Operator: (operation, argument with the rank's input, argument with its output).
_OPERATORS: dict[str, tuple[str, str | None, str | None]] = {
    "c10d::allreduce_": ("all_reduce", "tensors", "tensors"),
    "c10d::allreduce_coalesced_": ("all_reduce", "tensors", "tensors"),
    "c10d::allgather_": ("all_gather", "input_tensors", "output_tensors"),
    "c10d::allgather_coalesced_": ("all_gather", "input_list", "output_lists"),
    "c10d::_allgather_base_": ("all_gather", "input_tensor", "output_tensor"),
    "c10d::allgather_into_tensor_coalesced_": ("all_gather", "inputs", "outputs"),
    "c10d::reduce_scatter_": ("reduce_scatter", "input_tensors", "output_tensors"),
    "c10d::_reduce_scatter_base_": ("reduce_scatter", "input_tensor", "output_tensor"),
    "c10d::reduce_scatter_tensor_coalesced_": ("reduce_scatter", "inputs", "outputs"),
    "c10d::alltoall_": ("all_to_all", "input_tensors", "output_tensors"),
    "c10d::alltoall_base_": ("all_to_all", "input", "output"),
    "c10d::broadcast_": ("broadcast", "tensors", "tensors"),
    "c10d::send": ("send", "tensors", None),
    "c10d::recv_": ("recv", None, "tensors"),
    "c10d::barrier": ("barrier", None, None),
    "c10d::monitored_barrier_": ("barrier", None, None),
    "_c10d_functional::all_reduce": ("all_reduce", "input", _RESULT),
    "_c10d_functional::all_reduce_": ("all_reduce", "input", "input"),
    "_c10d_functional::all_reduce_coalesced": ("all_reduce", "inputs", _RESULT),
    "_c10d_functional::all_reduce_coalesced_": ("all_reduce", "inputs", "inputs"),
    "_c10d_functional::all_gather_into_tensor": ("all_gather", "input", _RESULT),
    "_c10d_functional::all_gather_into_tensor_out": ("all_gather", "input", "out"),
    "_c10d_functional::all_gather_into_tensor_coalesced": ("all_gather", "inputs", _RESULT),
    "_c10d_functional::reduce_scatter_tensor": ("reduce_scatter", "input", _RESULT),
    "_c10d_functional::reduce_scatter_tensor_out": ("reduce_scatter", "input", "out"),
    "_c10d_functional::reduce_scatter_tensor_coalesced": ("reduce_scatter", "inputs", _RESULT),
    "_c10d_functional::all_to_all_single": ("all_to_all", "input", _RESULT),
    "_c10d_functional::broadcast": ("broadcast", "input", _RESULT),
    "_c10d_functional::broadcast_": ("broadcast", "input", "input"),
    "_c10d_functional::isend": ("send", "tensor", None),
    "_c10d_functional::irecv": ("recv", None, "tensor"),
}


@dataclass(frozen=True, slots=True)
class Call:
    """One call in the terms of the trace.

    Attributes:
        fields: op, dtype, bytes, splits, root, peer and tag of the record.
        group_name: torch's name of the process group.
        ranks: its global ranks, in group order.
        asynchronous: the call's own flag; None if it has none.
        handle: the Work or tensor to wait for; None if there is none.
    """

    fields: dict[str, Any]
    group_name: str
    ranks: tuple[int, ...]
    asynchronous: bool | None
    handle: object | None


def describe(operator: str, arguments: dict[str, Any], result: Any, rank: int) -> Call | None:
    """The operation of a call, from its schema's argument names; None for operators without a process group.

    Raises ValueError if the trace cannot represent the operator (full name, such as c10d::allreduce_).
    """
    if not arguments.keys() & {"process_group", "group_name"}:
        return None
    if operator not in _OPERATORS:
        raise ValueError(
            f"trace.steps: this step calls {operator}, which collective traces cannot hold; "
            "record steps without it or set trace.steps to []"
        )
    operation, given, held = _OPERATORS[operator]
    sources = arguments | {_RESULT: result}
    tensors_in = list(_tensors(sources[given])) if given else []
    tensors_out = list(_tensors(sources[held])) if held else []
    group_name, ranks = _group(arguments)
    fields = {
        "op": operation,
        "dtype": _dtype(tensors_in or tensors_out),
        "bytes_in": sum(map(_bytes, tensors_in)),
        "bytes_out": sum(map(_bytes, tensors_out)),
    }
    if operation == "all_to_all":
        fields["in_splits"] = _splits(tensors_in, arguments.get("input_split_sizes"), len(ranks))
        fields["out_splits"] = _splits(tensors_out, arguments.get("output_split_sizes"), len(ranks))
    elif operation == "broadcast":
        fields["root"] = ranks[arguments["root_rank"] if "root_rank" in arguments else arguments["src"]]
        if fields["root"] != rank:
            fields["bytes_in"] = 0
    elif operation in ("send", "recv"):
        fields["peer"] = ranks[arguments["dst"] if operation == "send" else arguments["src"]]
        fields["tag"] = arguments["tag"]
    return Call(fields, group_name, ranks, arguments.get("async_op", _flag(operator)), _handle(operator, result))


def _flag(operator: str) -> bool | None:
    """Whether a call without an async_op argument is asynchronous: False for a blocking barrier, None if unknown."""
    return False if operator == "c10d::monitored_barrier_" else None


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _dtype(tensors: list[torch.Tensor]) -> str:
    """The element type; uint8 for a barrier, which carries no data."""
    return str(tensors[0].dtype).removeprefix("torch.") if tensors else "uint8"


def _splits(tensors: list[torch.Tensor], rows: list[int] | None, members: int) -> tuple[int, ...]:
    """Bytes per member: of one tensor each (`rows` None), of row counts, or of an even split (`rows` empty)."""
    if rows is None:
        return tuple(map(_bytes, tensors))
    (tensor,) = tensors
    if not rows:
        return (_bytes(tensor) // members,) * members
    row_bytes = _bytes(tensor) // tensor.shape[0] if tensor.shape[0] else 0
    return tuple(count * row_bytes for count in rows)


def _group(arguments: dict[str, Any]) -> tuple[str, tuple[int, ...]]:
    given: Any = arguments.get("process_group", arguments.get("group_name"))
    if isinstance(given, str):
        given = dist.distributed_c10d._resolve_process_group(given)  # pyright: ignore[reportArgumentType]
    group: dist.ProcessGroup = dist.ProcessGroup.unbox(given) if isinstance(given, torch.ScriptObject) else given
    return group.group_name, tuple(dist.get_process_group_ranks(group))


def _handle(operator: str, result: Any) -> object | None:
    """What a caller waits for: the tensor of a functional operator, otherwise the Work in the result."""
    if operator.startswith("_c10d_functional::"):
        return next(_tensors(result), None)
    parts = result if isinstance(result, list | tuple) else (result,)
    work = next((part for part in parts if isinstance(part, torch.ScriptObject)), None)
    return None if work is None else dist.Work.unbox(work)
