"""Hash of everything that the result of a cell depends on: scenario, files that it names, sources of the simulator."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import netsim
from netsim.foundation.digests import file_digest
from netsim.scenario import Scenario

_NO_PART_OF_A_RESULT = {"command", "report", "observe"}


class Input(NamedTuple):
    """A file that a scenario names, as it can be opened from the working directory, and the hash of its bytes."""

    path: str
    sha256: str


class Identity(NamedTuple):
    """Inputs of a cell besides its scenario: files in the order of their paths, and hash of the simulator's sources."""

    inputs: tuple[Input, ...]
    simulator: str


def identify(scenario: Scenario) -> Identity:
    """Hashes the inputs of a scenario; missing files are left out."""
    return Identity(tuple(Input(str(path), _sha256_of(path)) for path in _files(scenario)), simulator_sha256())


def content_hash(scenario: Scenario, identity: Identity) -> str:
    """16 hexadecimal digits, equal for two cells only if their results are."""
    content = {"scenario": scenario.resolved(), "inputs": identity.inputs, "simulator": identity.simulator}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@lru_cache(maxsize=1)
def simulator_sha256() -> str:
    """Hash of the sources that determine the result of a run."""
    root = Path(netsim.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if name.parts[0] not in _NO_PART_OF_A_RESULT:
            digest.update(f"{name.as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _files(scenario: Scenario) -> list[Path]:
    """Every file named by `path`, `groups`, `gaps`, `table` or `class`: the file, all of a folder, or by prefix."""
    files: set[Path] = set()
    for key, value in _entries(scenario.resolved()):
        if key == "class":
            files.update(_sources(value))
        elif key in ("path", "groups", "gaps", "table"):
            path = Path(value)
            among = [path] if path.is_file() else path.iterdir() if path.is_dir() else _begun_by(path)
            files.update(file for file in among if file.is_file())
    return sorted(files)


def _entries(content: object) -> Iterator[tuple[str, str]]:
    """Keys and values of all mappings in it, as far as the values are text."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            if isinstance(value, str):
                yield key, value
            yield from _entries(value)
    elif isinstance(content, Sequence) and not isinstance(content, str):
        for item in content:
            yield from _entries(item)


def _begun_by(prefix: Path) -> Iterator[Path]:
    if prefix.parent.is_dir():
        yield from (path for path in prefix.parent.iterdir() if path.name.startswith(f"{prefix.name}."))


def _sources(class_path: str) -> Iterator[Path]:
    """The module of a transport of the user's."""
    module = class_path.partition(":")[0]
    here = Path(f"{module.replace('.', '/')}.py")
    if here.is_file():
        yield here
        return
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return
    if spec and spec.origin:
        yield Path(spec.origin)


def _sha256_of(path: Path) -> str:
    state = path.stat()
    return _sha256(str(path.absolute()), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1024)
def _sha256(path: str, _modified_ns: int, _bytes: int) -> str:
    return file_digest(Path(path))
