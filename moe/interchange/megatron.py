"""The router trace of Megatron-Core (`--moe-routing-trace-path`): JSON lines, one file a rank.

A record is what one router chose for the tokens of one micro batch: `step`, `stage`, `block`, `layer`, `rank`,
`num_tokens`, `topk` and `top_indices` [num_tokens][topk]. Megatron reads the choices off a map of booleans, so that
they stand in the order of ids. Records of multi-token prediction have `block` mtp and a `mtp_idx`.

Shape legend: T tokens, L layers, K choices per token and layer.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moe.interchange.documents import Imported, import_trace, section, whole_numbers
from netsim.foundation.documents import parse_json
from netsim.foundation.files import reading
from netsim.foundation.refusal import Refusal

_STAGE = "pre_dispatch"
_REMEDY = "record the trace again"


class _Record(NamedTuple):
    rank: int
    step: int
    layer: int
    ids: NDArray[np.int32]


def read_trace(paths: Sequence[Path], *, num_experts: int | None = None) -> Imported:
    """Read the files of all ranks: a trace with steps and micro batches; remarks say what was left out.

    The tokens of the n-th record of a rank, step and layer are those of the n-th record of any other layer. Without
    `num_experts` there are as many as the largest id needs.
    """
    left_out: Counter[str] = Counter()
    by_step: dict[tuple[int, int], dict[int, list[_Record]]] = defaultdict(lambda: defaultdict(list))
    file_of: dict[int, Path] = {}
    for path in paths:
        for record in _read_file(path, left_out):
            if file_of.setdefault(record.rank, path) != path:
                problem = f"{record.rank} is in {file_of[record.rank]} too"
                raise Refusal(path, "rank", problem, "give one file a rank")
            by_step[record.step, record.rank][record.layer].append(record)
    if not by_step:
        problem = f"contains no record of stage {_STAGE}{_told(left_out)}"
        raise Refusal(paths[0], "file", problem, "record some steps")
    layers = sorted(next(iter(by_step.values())))
    top_k = next(iter(next(iter(by_step.values())).values()))[0].ids.shape[1]
    ids, micros, steps, ranks = [], [], [], []
    for (step, rank), records in sorted(by_step.items()):
        count = _check_step(file_of[rank], step, records, layers, top_k)
        for micro in range(count):
            ids.append(np.stack([records[layer][micro].ids for layer in layers], axis=1))
            tokens = len(ids[-1])
            micros.append(np.full(tokens, micro, np.int32))
            steps.append(np.full(tokens, step, np.int64))
            ranks.append(np.full(tokens, rank, np.int32))
    return import_trace(
        paths[0],
        np.concatenate(ids),
        np.concatenate(ranks),
        world_size=max(file_of) + 1,
        num_experts=num_experts,
        moe_layers=layers,
        remarks=[f"left out {_named(left_out)}"] if left_out else [],
        remedy=_REMEDY,
        step=np.concatenate(steps),
        micro=np.concatenate(micros),
    )


def _read_file(path: Path, left_out: Counter[str]) -> Iterator[_Record]:
    with reading(path, "check the path"), path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                record = _read_line(path, f"line {number}", line)
                kind = _other_kind(record)
                if kind:
                    left_out[kind] += 1
                else:
                    yield _checked(path, f"line {number}", record)


def _read_line(path: Path, field: str, line: bytes) -> Mapping[str, Any]:
    try:
        return section(path, field, parse_json(line.decode("utf-8")), _REMEDY)
    except Refusal:
        raise
    except ValueError as error:
        raise Refusal(path, field, f"is not JSON ({error})", _REMEDY) from error


def _other_kind(record: Mapping[str, Any]) -> str:
    """Returns the kind of a record, in words, that is not of a decoder layer before dispatch; else an empty string."""
    if record.get("block") == "mtp" or "mtp_idx" in record:
        return "of multi-token prediction"
    stage = record.get("stage", _STAGE)
    return "" if stage == _STAGE else f"of stage {' '.join(str(stage).split())[:40]}"


def _checked(path: Path, field: str, record: Mapping[str, Any]) -> _Record:
    values = {}
    for name in ("rank", "step", "layer", "num_tokens", "topk"):
        value = record.get(name)
        if type(value) is not int or not 0 <= value < 2**31:
            raise Refusal(path, f"{field}: {name}", f"is not a whole number of 0 or more ({str(value)[:40]})", _REMEDY)
        values[name] = value
    shape = (values.pop("num_tokens"), values.pop("topk"))
    indices = record.get("top_indices")
    field = f"{field}: top_indices"
    if shape[0] == 0 and indices == []:
        return _Record(**values, ids=np.zeros(shape, np.int32))
    ids_TK = whole_numbers(path, field, indices, ("tokens", "choices"), _REMEDY)
    if ids_TK.shape != shape:
        raise Refusal(path, field, f"is {ids_TK.shape} where num_tokens and topk are {shape}", _REMEDY)
    if ids_TK.min() < 0 or ids_TK.max() >= 2**31:
        raise Refusal(path, field, f"holds {ids_TK.min()} to {ids_TK.max()}, which are not numbers of experts", _REMEDY)
    return _Record(**values, ids=ids_TK.astype(np.int32))


def _check_step(path: Path, step: int, records: dict[int, list[_Record]], layers: list[int], top_k: int) -> int:
    """Micro batches of a step of a rank; the same in every layer, with the same tokens."""
    if sorted(records) != layers:
        odd = min(set(records) ^ set(layers))
        remedy = "give whole steps of ranks that have all layers; pipelined runs cannot be joined"
        raise Refusal(path, f"step {step}", f"layer {odd} is not in every step of every rank", remedy)
    first = records[layers[0]]
    for layer in layers:
        field = f"step {step}, layer {layer}"
        sizes = [record.ids.shape for record in records[layer]]
        if [tokens for tokens, _ in sizes] != [len(record.ids) for record in first]:
            present, wanted = [tokens for tokens, _ in sizes][:8], [len(record.ids) for record in first][:8]
            raise Refusal(path, field, f"has tokens {present} where layer {layers[0]} has {wanted}", _REMEDY)
        if any(choices != top_k for _, choices in sizes):
            raise Refusal(path, field, f"topk is not {top_k} as elsewhere", "give a trace with one topk")
    return len(first)


def _told(left_out: Counter[str]) -> str:
    return f" ({_named(left_out)})" if left_out else ""


def _named(left_out: Counter[str]) -> str:
    return ", ".join(f"{count} records {kind}" for kind, count in sorted(left_out.items()))
