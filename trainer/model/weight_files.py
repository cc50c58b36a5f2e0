"""Weights on disk: one safetensors file, or parts of it beside an index, named as Hugging Face's tools name them.

    ema.safetensors                     all tensors, or
    ema.safetensors.index.json          {"metadata": {"total_size": bytes}, "weight_map": {tensor: file}}
    ema-00001-of-00008.safetensors ...  some of the tensors each
Either is meant by the path of the one file, and the second also by that of its index.
"""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from netsim.foundation.documents import parse_json
from netsim.foundation.files import replacing, write_json
from netsim.foundation.refusal import Refusal

WEIGHTS = "ema.safetensors"
EXPORTED = "model.safetensors"
_INDEX = ".index.json"
_REMEDY = "restore it from a copy, or give other weights"


def index_of(path: Path) -> Path:
    """The path of a divided file's index, which lies beside its parts."""
    return path.with_name(f"{path.name}{_INDEX}")


def part_of(name: str, number: int, count: int) -> str:
    """The name of one of the parts of a file, numbered from 0."""
    stem, _, ending = name.rpartition(".")
    return f"{stem}-{number + 1:05d}-of-{count:05d}.{ending}"


def belongs_to(name: str, whole: str) -> bool:
    """Whether `name` is the file `whole`, one of its parts, or their index."""
    stem, _, ending = whole.rpartition(".")
    part = re.compile(rf"{re.escape(stem)}-\d{{5,}}-of-\d{{5,}}\.{re.escape(ending)}")
    return name in (whole, f"{whole}{_INDEX}") or part.fullmatch(name) is not None


def files_of(path: Path) -> list[Path]:
    """The one file of weights, or the index and the parts."""
    path = path.with_name(path.name.removesuffix(_INDEX))
    if path.exists() or not index_of(path).exists():
        return [path]
    return [index_of(path), *(path.with_name(name) for name in sorted({*_weight_map(index_of(path)).values()}))]


def copied(source: Path, target: Path) -> list[Path]:
    """Copies weights under another name; an index and parts are named after it. Returns the copies."""
    first, *parts = files_of(source)
    if not parts:
        _copy(first, target)
        return [target]
    renamed = {part.name: part_of(target.name, number, len(parts)) for number, part in enumerate(parts)}
    for part in parts:
        _copy(part, target.with_name(renamed[part.name]))
    document = parse_json(first.read_text(encoding="utf-8"))
    document["weight_map"] = {name: renamed[file] for name, file in _weight_map(first).items()}
    write_json(index_of(target), document)
    return [index_of(target), *(target.with_name(name) for name in renamed.values())]


class Weights:
    def __init__(self, file_of: Mapping[str, Any]) -> None:
        self._file_of = file_of

    @property
    def names(self) -> list[str]:
        return list(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file_of[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """Type of the values of a tensor as safetensors calls it, such as F32 or BF16."""
        return self._file_of[name].get_slice(name).get_dtype()

    def tensor(self, name: str) -> Tensor:
        return self._file_of[name].get_tensor(name)

    def rectangle(self, name: str, offset: Sequence[int], sizes: Sequence[int]) -> Tensor:
        """A rectangle of a tensor, on the CPU; only its rows are read."""
        if not sizes:
            return self.tensor(name)
        return self._file_of[name].get_slice(name)[tuple(slice(o, o + n) for o, n in zip(offset, sizes, strict=True))]


@contextmanager
def open_weights(path: Path) -> Iterator[Weights]:
    """Opens one file, or the parts beside its index; a missing file raises OSError, a malformed one SafetensorError."""
    files = files_of(path)
    with ExitStack() as stack:
        opened: dict[str, Any] = {
            file.name: stack.enter_context(safe_open(file, framework="pt")) for file in files[len(files) > 1 :]
        }
        if len(files) == 1:
            (file,) = opened.values()
            yield Weights(dict.fromkeys(file.keys(), file))
            return
        names = {name: {*file.keys()} for name, file in opened.items()}
        weight_map = _weight_map(files[0])
        for tensor, name in weight_map.items():
            if tensor not in names[name]:
                raise Refusal(path.with_name(name), tensor, f"is missing, though {files[0].name} names it", _REMEDY)
        yield Weights({tensor: opened[name] for tensor, name in weight_map.items()})


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def _weight_map(index: Path) -> dict[str, str]:
    """The file of each tensor; of a name with folders, only the last part counts, beside the index."""
    try:
        named = parse_json(index.read_text(encoding="utf-8"))["weight_map"]
        return {str(tensor): Path(file).name for tensor, file in named.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Refusal(index, "weight_map", f"cannot be read ({error})", _REMEDY) from error
