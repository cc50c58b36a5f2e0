"""Damage to files of arrays: other shapes, types, values, names and headers, and archives that are packed otherwise."""

import io
import json
import random
import struct
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.fuzz.documents import damaged_json

_TYPES = (
    "int8",
    "uint8",
    "int16",
    "int32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
    "bool",
    "complex64",
    "U3",
    "M8[s]",
)
_VALUES = (
    -1,
    -2,
    0,
    1,
    7,
    255,
    2**31 - 1,
    -(2**31),
    2**63 - 1,
    -(2**63),
    0.5,
    float("nan"),
    float("inf"),
    -float("inf"),
    1e308,
)


def damaged_npy(content: bytes, rng: random.Random) -> bytes:
    """An array that is another."""
    return _saved(_changed(np.load(io.BytesIO(content), allow_pickle=False), rng), rng)


def damaged_npz(content: bytes, rng: random.Random) -> bytes:
    """An archive in which one array is another, is missing, has another name, or is written otherwise."""
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    name = rng.choice(list(arrays))
    packing = zipfile.ZIP_STORED
    members = {f"{key}.npy": _saved(value) for key, value in arrays.items()}
    match rng.randrange(8):
        case 0:
            del members[f"{name}.npy"]
        case 1:
            members[rng.choice(["x.npy", f"{name}.txt", f"../{name}.npy", name])] = members.pop(f"{name}.npy")
        case 2:
            packing = zipfile.ZIP_DEFLATED
        case 3:
            members[rng.choice(["x.npy", "a/b.npy", "x", "é.npy"])] = rng.choice([b"", b"x", members[f"{name}.npy"]])
        case 4 if arrays[name].dtype.kind == "U" and arrays[name].ndim == 0:
            members[f"{name}.npy"] = _saved(
                np.array(damaged_json(str(arrays[name]).encode(), rng).decode(errors="replace"))
            )
        case _:
            members[f"{name}.npy"] = _saved(_changed(arrays[name], rng), rng)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        for key, value in members.items():
            archive.writestr(zipfile.ZipInfo(key), value, packing)
    return buffer.getvalue()


def damaged_safetensors(content: bytes, rng: random.Random) -> bytes:
    """A file whose header says something else, or whose numbers are others."""
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    documents = [key for key, value in header.get("__metadata__", {}).items() if value.startswith("{")]
    match rng.randrange(6):
        case 0 if documents:
            key = rng.choice(documents)
            changed = damaged_json(header["__metadata__"][key].encode(), rng).decode(errors="replace")
            header["__metadata__"][key] = changed
            written = json.dumps(header).encode()
        case 1 | 2:
            return content[: 8 + length] + _other_numbers(data, rng)
        case 3:
            written = json.dumps(_resized(header, rng)).encode()
        case _:
            written = damaged_json(content[8 : 8 + length], rng)
    size = len(written) if rng.random() < 0.95 else rng.choice([0, 1, 2**32, 2**63])
    return struct.pack("<Q", size) + written + data


def _other_numbers(data: bytes, rng: random.Random) -> bytes:
    value = rng.choice([b"\x00" * 8, b"\xff" * 8, struct.pack("<d", float("nan")), struct.pack("<ff", np.inf, np.nan)])
    at = 8 * rng.randrange(max(1, len(data) // 8))
    return (data[:at] + value + data[at + 8 :])[: len(data)]


def _resized(header: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The header with one tensor of another shape or type that takes as many bytes."""
    name = rng.choice([key for key in header if key != "__metadata__"])
    shape = header[name]["shape"]
    header[name]["shape"] = rng.choice([shape[::-1], [1, *shape], [int(np.prod(shape))], [*shape, 1]])
    swaps = {"F32": "I32", "F64": "I64", "I64": "F64", "F16": "BF16", "U8": "BOOL", "I32": "F32"}
    if rng.random() < 0.5:
        header[name]["dtype"] = swaps.get(header[name]["dtype"], "F32")
    return header


def _changed(values: NDArray[Any], rng: random.Random) -> NDArray[Any]:
    with np.errstate(all="ignore"):
        match rng.randrange(8):
            case 0 if values.dtype.kind in "iufb":
                return values.astype(rng.choice(_TYPES))
            case 1:
                return rng.choice([values[None], values.reshape(-1), values.T, np.stack([values, values]), np.array(3)])
            case 2 if values.ndim:
                return rng.choice(
                    [values[:0], values[1:], values[:-1], np.concatenate([values, values]), values[..., :1]]
                )
            case 3:
                return np.asfortranarray(values)
            case 4:
                return np.array(rng.choice(["a", "", "{}", "[]", "null"]))
        changed = values.copy()
        if changed.dtype.kind not in "iuf" or not changed.size:
            return np.zeros(3)
        value = rng.choice(_VALUES)
        if changed.dtype.kind != "f" and not (value == value and abs(value) < 2**63 and value == int(value)):
            changed = changed.astype(np.float64)
        elif changed.dtype.kind != "f" and not np.iinfo(changed.dtype).min <= value <= np.iinfo(changed.dtype).max:
            changed = changed.astype(np.int64)
        changed.reshape(-1)[rng.randrange(changed.size)] = value
        return changed


def _saved(values: NDArray[Any], rng: random.Random | None = None) -> bytes:
    if rng is not None and rng.random() < 0.1:
        values = np.array([{"a": 1}], dtype=object)
    if rng is not None and rng.random() < 0.1:
        values = np.zeros(2, dtype=[("a", "i4"), ("b", "f4")])
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=True)
    content = buffer.getvalue()
    if rng is not None and rng.random() < 0.15:
        old, new = rng.choice(
            [
                (b"False", b"Truee"),
                (b"'descr'", b"'dexcr'"),
                (b"(", b"["),
                (b"<", b">"),
                (b", ", b",9"),
                (b"(", b"(99999999999,"),
            ]
        )
        content = content[:12] + content[12:].replace(old, new, 1)
    return content
