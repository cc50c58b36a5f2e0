"""The configurations that come with the package, found by their names."""

import difflib
from pathlib import Path

_ROOT = Path(__file__).parents[2]
SHIPPED = next((folder for name in ("flowfabric_configs", "configs") if (folder := _ROOT / name).is_dir()), _ROOT)
"""Their folder: in a checkout ``configs``, in an installed package ``flowfabric_configs``."""


def located(path: Path, *folders: str) -> Path:
    """The file that a path stands for, or a name such as ``digits_moe`` in folders of ``configs``, first one first.

    A path that begins with ``configs/`` is elsewhere in an installed package. A path without a file is returned as it
    is.
    """
    if path.exists() or path.is_absolute():
        return path
    if path.parts[:1] == ("configs",):
        shipped = SHIPPED.joinpath(*path.parts[1:])
        return shipped if shipped.exists() else path
    if len(path.parts) > 1:
        return path
    files = (file for folder in folders for file in sorted(SHIPPED.glob(f"{folder}/*.yaml")))
    return next((file for file in files if path.name in (file.stem, file.name)), path)


def nearest(path: Path, folder: str) -> str:
    """The names in a folder of ``configs`` that a path may have meant, as a list in words; all where none is near."""
    names = sorted(file.stem for file in (SHIPPED / folder).glob("*.yaml"))
    return ", ".join(difflib.get_close_matches(path.stem, names) or names)
