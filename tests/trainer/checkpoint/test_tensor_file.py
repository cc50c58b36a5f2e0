"""Files that are written and read one tensor at a time are files of the safetensors library."""

import hashlib
import json
import struct
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from netsim.foundation.refusal import Refusal
from tests.each import each
from trainer.checkpoint.storage import FORMAT, INDEX, SavedState, read_header, write_tensors


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(6, 6, generator=generator)
    return {
        "blocks.0.weight:ema[0,0]": square[:, 2:5],
        "scalar": torch.randn((), generator=generator),
        "long name é": square.t(),
        "row": torch.randn(7, generator=generator),
    }


def shapes() -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors().items()}


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file.safetensors"
    record = write_tensors(path, shapes(), tensors().values(), {"step": "3"})
    found = load_file(path)
    assert found.keys() == tensors().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors().items())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"step": "3"}
    content = path.read_bytes()
    assert (record.size_bytes, record.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_a_file_may_be_empty(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file", {}, [], {})
    assert load_file(tmp_path / "file") == {}
    assert read_header(tmp_path / "file").tensors == {}


def test_it_reads_what_the_library_writes(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors().items()}, path, {"key": "text"})
    header = read_header(path)
    assert header.metadata == {"key": "text"}
    assert {name: stored.shape for name, stored in header.tensors.items()} == shapes()
    for name, tensor in tensors().items():
        assert torch.equal(torch.from_numpy(header.file.values(header.tensors[name])), tensor)


def test_no_more_than_one_tensor_is_held(tmp_path: Path) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    most = []

    def coming() -> Iterator[torch.Tensor]:
        for _ in range(5):
            most.append(sum(reference() is not None for reference in alive))
            tensor = torch.zeros(10, 10)
            alive.append(weakref.ref(tensor))
            yield tensor
            del tensor

    write_tensors(tmp_path / "file", {str(number): (10, 10) for number in range(5)}, coming(), {})
    assert most == [0] * 5


def rewritten(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def spoil(content: bytes) -> bytes:
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :]

    return spoil


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "no length": lambda content: content[:5],
    "too long a header": lambda content: b"\xff" * 8 + content[8:],
    "cut": lambda content: content[:-1],
    "no JSON": lambda content: content[:8] + b"{" * 40 + content[48:],
    "a list": rewritten(lambda header: header.__setitem__("row", [])),
    "halves": rewritten(lambda header: header["row"].__setitem__("dtype", "F16")),
    "another shape": rewritten(lambda header: header["row"].__setitem__("shape", [8])),
    "negative sizes": rewritten(lambda header: header["row"].__setitem__("shape", [-7, -1])),
    "before the start": rewritten(lambda header: header["row"].__setitem__("data_offsets", [-28, 0])),
    "infinite": rewritten(lambda header: header["row"].__setitem__("shape", [float("inf")])),
}


@each("damage", DAMAGE)
def test_a_malformed_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "file"
    write_tensors(path, shapes(), tensors().values(), {})
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(Refusal, match=r"file: header: cannot be read \("):
        read_header(path)


@each("content", ["{", "[]", '{"format": "another"}', '{"format": "FORMAT", "ranks": 2}'])
def test_a_state_with_a_damaged_index_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / INDEX).write_text(content.replace("FORMAT", FORMAT))
    with pytest.raises(Refusal, match=rf"{INDEX}: index: cannot be read \("):
        SavedState(tmp_path)
