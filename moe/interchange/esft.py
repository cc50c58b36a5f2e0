"""Scores of ESFT: `expert_weights_{layer}.txt`, a line for each sequence, its ids and, after two tabs, its weights.

The ids of all tokens stand one after another, separated by tabs, and the weights in the same order (Let the Expert
Stick to His Last, arXiv 2407.01906). A token's ids are not in the order of its weights.

Shape legend: T tokens, L layers, K choices per token and layer.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moe.interchange.documents import Imported, deal, import_trace
from netsim.foundation.files import reading
from netsim.foundation.refusal import Refusal

_NAME = re.compile(r"expert_weights_([0-9]{1,6})\.txt")
_IDS = re.compile(r"[0-9]{1,9}(\t[0-9]{1,9})*")
_REMEDY = "write the scores again"


def read_scores(folders: Sequence[Path], *, top_k: int = 6, num_experts: int | None = None, ranks: int = 1) -> Imported:
    """Read the scores of data sets: a trace, the strongest choice first, with weights, sequences and positions.

    Folders hold the files of all layers, or further folders that do; the files do not state `top_k`. Sequences are
    dealt to the ranks in turn. Without `num_experts` there are as many as the largest id needs.
    """
    if top_k < 1:
        raise ValueError(f"top_k: must be at least 1 ({top_k}); give the choices of a token")
    data_sets = [data_set for folder in folders for data_set in _data_sets(folder)]
    layers = sorted(data_sets[0])
    lengths: list[int] = []
    ids, weights = [], []
    for files in data_sets:
        if sorted(files) != layers:
            odd = min(set(files) ^ set(layers))
            here, there = next(iter(files.values())).parent, next(iter(data_sets[0].values())).parent
            raise Refusal(here, f"layer {odd}", f"is only in one of it and {there}", "give folders of one model")
        first = None
        per_layer = []
        for layer in layers:
            read = _read_file(files[layer], top_k)
            first = first or read
            _check_lengths(files[layer], files[layers[0]], read, first)
            per_layer.append((np.concatenate([one for one, _ in read]), np.concatenate([one for _, one in read])))
        lengths += [len(one) for one, _ in first or []]
        ids.append(np.stack([layer_ids for layer_ids, _ in per_layer], axis=1))
        weights.append(np.stack([layer_weights for _, layer_weights in per_layer], axis=1))
    expert_ids_TLK, weights_TLK = np.concatenate(ids), np.concatenate(weights)
    order = np.argsort(-weights_TLK, axis=2, kind="stable")
    sequence = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    return import_trace(
        folders[0],
        np.take_along_axis(expert_ids_TLK, order, axis=2),
        deal(sequence, ranks),
        world_size=ranks,
        num_experts=num_experts,
        moe_layers=layers,
        remarks=(f"{len(lengths)} sequences",),
        remedy=_REMEDY,
        weights=np.take_along_axis(weights_TLK, order, axis=2),
        sequence=sequence,
        position=np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
    )


def _data_sets(folder: Path) -> list[dict[int, Path]]:
    """Finds the data sets under a folder: the files by layer of every folder that has some."""
    data_sets: dict[Path, dict[int, Path]] = {}
    with reading(folder, "check the path", "folder"):
        for path in sorted(folder.rglob("expert_weights_*.txt")):
            name = _NAME.fullmatch(path.name)
            if name:
                data_sets.setdefault(path.parent, {})[int(name[1])] = path
    if not data_sets:
        raise Refusal(folder, "folder", "contains no expert_weights_LAYER.txt", "give the folder of ESFT's scores")
    return list(data_sets.values())


def _read_file(path: Path, top_k: int) -> list[tuple[NDArray[np.int32], NDArray[np.float32]]]:
    """Ids and weights of each sequence, [tokens, K]."""
    with reading(path, "check the path"):
        content = path.read_bytes()
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError as error:
        raise Refusal(path, "file", f"is not a text of numbers ({error.reason})", _REMEDY) from error
    lines = [(number, line.rstrip("\r")) for number, line in enumerate(text.split("\n"), start=1)]
    sequences = [_read_line(path, number, line, top_k) for number, line in lines if line]
    if not sequences:
        raise Refusal(path, "file", "contains no sequences", _REMEDY)
    return sequences


def _read_line(path: Path, number: int, line: str, top_k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    field = f"line {number}"
    ids, tabs, weights = line.partition("\t\t")
    if not tabs:
        raise Refusal(path, field, "has no two tabs between ids and weights", _REMEDY)
    if not _IDS.fullmatch(ids):
        raise Refusal(path, field, f"the ids are not whole numbers between tabs ({ids[:40]!r})", _REMEDY)
    chosen = np.array(ids.split("\t"), dtype=np.int64)
    if len(chosen) % top_k:
        problem = f"{len(chosen)} ids are not {top_k} a token"
        raise Refusal(path, field, problem, "give --top-k as the model has it")
    try:
        with np.errstate(over="ignore"):  # what is too large for 32 bits is infinite, and refused below
            gates = np.array([float(weight) for weight in weights.split("\t")], dtype=np.float32)
    except (ValueError, OverflowError) as error:
        raise Refusal(path, field, f"the weights are not numbers ({weights[:40]!r})", _REMEDY) from error
    if len(gates) != len(chosen):
        raise Refusal(path, field, f"has {len(chosen)} ids and {len(gates)} weights", _REMEDY)
    if not np.isfinite(gates).all():
        raise Refusal(path, field, "a weight is NaN or infinite", _REMEDY)
    return chosen.astype(np.int32).reshape(-1, top_k), gates.reshape(-1, top_k)


def _check_lengths(path: Path, first_path: Path, read: list, first: list) -> None:
    """Refuses a file whose sequences are not as many or as long as those of the first layer's."""
    if len(read) != len(first):
        raise Refusal(path, "file", f"has {len(read)} sequences where {first_path.name} has {len(first)}", _REMEDY)
    for number, ((here, _), (there, _)) in enumerate(zip(read, first, strict=True)):
        if len(here) != len(there):
            problem = f"has {len(here)} tokens where {first_path.name} has {len(there)}"
            raise Refusal(path, f"sequence {number}", problem, _REMEDY)
