"""Names of classes in a text file."""

from pathlib import Path


def read_class_names(path: Path) -> tuple[str, ...]:
    """Names of the classes 0, 1, ..., one a line; raises ValueError on none or the same twice."""
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"class_names: {path} cannot be read ({error}); give a text file, a name a line") from error
    if not names or len(set(names)) < len(names):
        twice = next((name for name in names if names.count(name) > 1), None)
        problem = "contains no names" if twice is None else f"names {twice} twice"
        raise ValueError(f"class_names: {path} {problem}; give each class a line of its own")
    return names
