"""The scenarios and sweeps that come with the package, found by their names."""

import difflib
from pathlib import Path

_ROOT = Path(__file__).parents[1]
SHIPPED = next((folder for name in ("flowfabric_configs", "configs") if (folder := _ROOT / name).is_dir()), _ROOT)
"""Their folder: in a checkout ``configs``, in an installed package ``flowfabric_configs``."""


def located(path: Path, folder: str) -> Path:
    """The file that a path or a name stands for.

    Args:
        path: A file; a name such as ``all_to_all_64``; or a path that begins with ``configs/``, which an installed
            package has elsewhere.
        folder: Of ``configs`` where a name is looked up, such as ``scenarios``.

    Returns:
        The path itself where there is such a file, or where nothing of that name comes with the package.
    """
    if path.exists() or path.is_absolute():
        return path
    if path.parts[:1] == ("configs",):
        shipped = SHIPPED.joinpath(*path.parts[1:])
        return shipped if shipped.exists() else path
    if len(path.parts) > 1:
        return path
    shipped = SHIPPED / folder / f"{path.name.removesuffix('.yaml')}.yaml"
    return shipped if shipped.exists() else path


def nearest(path: Path, folder: str) -> str:
    """The names in a folder of ``configs`` that a path may have meant, as a list in words; all where none is near."""
    names = sorted(file.stem for file in (SHIPPED / folder).glob("*.yaml"))
    return ", ".join(difflib.get_close_matches(path.stem, names) or names)
