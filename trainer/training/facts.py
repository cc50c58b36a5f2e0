"""Facts that determine the result of a run and must be equal on all ranks: settings, packages, code, files and data."""

import hashlib
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from netsim.foundation.refusal import Refusal
from trainer.checkpoint.intact import weights_file
from trainer.config.run import RunConfig
from trainer.data import SPLITS, Dataset
from trainer.distributed.consistency import Subject
from trainer.distributed.groups import Launch

PACKAGES = ("torch", "deepspeed", "megatron-core", "numpy")
OWN_PACKAGES = ("trainer", "moe", "netsim")
WHOLE_BYTES = 64 << 20
"""Size up to which a file is read whole; of a larger one, such as weights, the length and both ends are read."""
END_BYTES = 1 << 20
INSTALLED = tuple(os.path.realpath(prefix) for prefix in (sys.prefix, sys.base_prefix))
"""Folders of the environment and of Python itself."""


def given(document: Mapping[str, Any], launch: Launch) -> dict[str, Subject]:
    """Facts that need no data set; `document` is the configuration as the user wrote it."""
    packages = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    return {
        "launch": Subject(
            {"ranks per node (--nproc-per-node)": launch.local_world_size}, "start the same number on every node"
        ),
        "settings": Subject(flat(document), "start every node with the same configuration and the same overrides"),
        "packages": Subject(packages, "install the same packages on every node"),
        "code": Subject(_on_first_rank(launch, _code()), "bring the same code to every node"),
    }


def resolved(config: RunConfig, dataset: Dataset, launch: Launch) -> dict[str, Subject]:
    """Facts that need the data set and the files named by settings; `config` has defaults and digests of references."""
    sources = {} if dataset.mix is None else {f" of {name}": one for name, one in dataset.mix.sources.items()}
    examples = {
        f"number of {split.replace('_', '-')} examples{of}": one.count(split)
        for of, one in {"": dataset, **sources}.items()
        for split in SPLITS
    }
    return {
        "resolved settings": Subject(
            flat(config.model_dump(mode="json")), "give every node the same files beside the same settings"
        ),
        "data": Subject(examples, "give all nodes the same data"),
        "files": Subject(_on_first_rank(launch, _files(config)), "give every node the same file"),
        "modules": Subject(_on_first_rank(launch, _modules()), "bring the same modules to every node"),
    }


def flat(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """The values of nested sections by dotted key."""
    values: dict[str, Any] = {}
    for key, inner in value.items():
        values |= flat(inner, f"{before}{key}.") if isinstance(inner, dict) and inner else {f"{before}{key}": inner}
    return values


def _on_first_rank(launch: Launch, items: Iterator[tuple[str, str]]) -> dict[str, str] | None:
    """Digests of files, read by the first rank of each node; None on the others, and where there is one node."""
    return dict(items) if launch.local_rank == 0 and launch.local_world_size < launch.world_size else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _code() -> Iterator[tuple[str, str]]:
    """Every source file of this project's packages, by its path in the package, with its digest."""
    for name in OWN_PACKAGES:
        spec = find_spec(name)
        for root in (spec and spec.submodule_search_locations) or ():
            for path in sorted(Path(root).rglob("*.py")):
                yield f"{name}/{path.relative_to(root)}", _digest(path)


def _modules() -> Iterator[tuple[str, str]]:
    """The user's own imported modules, those outside installed packages, with their digests."""
    known: dict[str, bool] = dict.fromkeys((*OWN_PACKAGES, "__main__", "__mp_main__", "sitecustomize"), True)
    for name in sorted(sys.modules):
        package = name.partition(".")[0]
        if package not in known:  # thousands of modules are of few packages
            file = _source(package)
            known[package] = file is not None and _is_installed(file)
        file = None if known[package] else _source(name)
        if file is not None and file.suffix == ".py" and not _is_installed(file) and file.exists():
            yield f"module {name}", _digest(file)


def _source(name: str) -> Path | None:
    """The file of an imported module; None: it has none, as built-in modules and folders without `__init__.py`."""
    file = getattr(sys.modules.get(name), "__file__", None)
    return Path(file) if file else None


def _is_installed(file: Path) -> bool:
    """Whether a module belongs to an installed package or to Python."""
    folder = Path(os.path.realpath(file.parent))
    return bool({"site-packages", "dist-packages"}.intersection(folder.parts)) or any(
        map(folder.is_relative_to, INSTALLED)
    )


def _files(config: RunConfig) -> Iterator[tuple[str, str]]:
    """The files that settings name, by the dotted key of the setting, with their digests."""
    for key, value in flat(config.model_dump()).items():
        path = _file(key, value)
        if path is not None:
            yield f"the file of {key} ({path})", _digest(path)


def _file(key: str, value: Any) -> Path | None:
    if not isinstance(value, Path):
        return None
    if key == "model.init_from":
        try:
            value = weights_file(value)
        except Refusal:  # the run goes on from a checkpoint and does not read it
            return None
    return value if value.is_file() else None


def _digest(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE_BYTES:
            return hashlib.sha256(file.read()).hexdigest()[:12]
        ends = hashlib.sha256(f"{size} ".encode() + file.read(END_BYTES))
        file.seek(-END_BYTES, os.SEEK_END)
        ends.update(file.read(END_BYTES))
        return ends.hexdigest()[:12]
