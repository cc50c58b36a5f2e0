"""Which files of a folder are pictures."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from trainer.data.found_once import found_once

ENDINGS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def sub_folders(path: Path) -> tuple[str, ...]:
    """Sorted names of the visible folders in a folder; raises ValueError if it cannot be read."""
    try:
        return tuple(sorted(inner.name for inner in path.iterdir() if inner.is_dir() and inner.name[0] != "."))
    except OSError as error:
        raise ValueError(
            f"path: {path} cannot be read ({error.strerror}); give a folder with a sub-folder of pictures for each "
            "class, or with pictures"
        ) from error


def picture_names(path: Path, classes: list[str] | tuple[str, ...]) -> list[str]:
    """Sorted paths of the pictures below a folder, or below `classes` in it; raises ValueError without any."""
    if len(set(classes)) < len(classes):
        raise ValueError(f"classes: {', '.join(classes)} name a folder twice; give each once")
    for name in classes or ("",):
        if len(Path(name).parts) != bool(name) or name in ("..", "/"):
            raise ValueError(f"classes: {name} is not a name of a sub-folder; give names without slashes")
    return found_once(f"{path}: pictures of {'/'.join(classes)}", lambda: _listed(path, classes or ("",)), path)


def _listed(path: Path, classes: list[str] | tuple[str, ...]) -> list[str]:
    names: list[str] = []
    for name in classes:
        if not (path / name).is_dir():
            raise ValueError(f"classes: {path / name} is not a folder; correct data.path or data.classes")
        found = sorted(_below(path / name, f"{name}/" if name else ""))
        if not found:
            kinds = ", ".join(sorted(ENDINGS))
            raise ValueError(f"path: {path / name} contains no pictures; give a folder of files that end in {kinds}")
        names += found
    return names


def _below(folder: Path | str, prefix: str) -> Iterator[str]:
    """Pictures in a folder and below it, by their paths from `prefix` on; a listing tells files from folders."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _below(entry.path, f"{name}/")
            elif f".{entry.name.rpartition('.')[2].lower()}" in ENDINGS and entry.name[0] != "." and entry.is_file():
                yield name


def names_digest(names: list[str]) -> str:
    """Digest of the names of pictures, in their order."""
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:16]
