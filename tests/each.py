"""Many values of a parameter in one case of a test, and tables of them."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import pytest


def each(
    names: str | Sequence[str], values: Iterable[Any], ids: Callable[[Any], object] | Iterable[object] = repr
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Calls a test with one value after another, as `pytest.mark.parametrize` would in cases of their own.

    A failure names the values; the test is skipped where it is for all of them. What it gets from fixtures is the same
    for all, but for `tmp_path`, of which each has a folder of its own, `monkeypatch`, which ends with it, and `capsys`,
    which starts empty.

    Args:
        names: of the parameters, separated by commas.
        values: of the parameter, or a sequence of values for each if there are several.
        ids: what a value is called, or a name for each row of values.
    """
    given = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    values = list(values)
    assert values, f"no values of {', '.join(given)}"
    assert not any(hasattr(value, "marks") for value in values), "a loop leaves no case out"
    rows = [(value,) if len(given) == 1 else tuple(value) for value in values]
    if callable(ids):
        called = [", ".join(f"{name}={ids(value)}" for name, value in zip(given, row, strict=True)) for row in rows]
    else:
        called = [*map(str, ids)]

    def repeated(test: Callable[..., None]) -> Callable[..., None]:
        @wraps(test)
        def of_all(**others: Any) -> None:
            skipped: list[BaseException] = []
            for number, (row, name) in enumerate(zip(rows, called, strict=True)):
                try:
                    with pytest.MonkeyPatch.context() as patch:
                        test(**dict(zip(given, row, strict=True)), **_apart(others, number, patch))
                except pytest.skip.Exception as reason:
                    skipped.append(reason)
                except BaseException as error:
                    error.add_note(name)
                    raise
            if len(skipped) == len(rows):
                raise skipped[0]

        signature = inspect.signature(test)
        left = [parameter for name, parameter in signature.parameters.items() if name not in given]
        of_all.__dict__["__signature__"] = signature.replace(parameters=left)
        return of_all

    return repeated


def rows(table: str) -> list[list[str]]:
    """The cells of a table: a row a line, cells apart by a bar; a line that starts with a bar goes on with the row."""
    return [row.split(" | ") for row in table.strip().replace("\n| ", " | ").splitlines()]


def _apart(fixtures: dict[str, Any], number: int, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The fixtures for a row of this number."""
    if "monkeypatch" in fixtures:
        fixtures = fixtures | {"monkeypatch": patch}
    if isinstance(fixtures.get("capsys"), pytest.CaptureFixture):
        fixtures["capsys"].readouterr()
    if not isinstance(fixtures.get("tmp_path"), Path):
        return fixtures
    folder = fixtures["tmp_path"] / f"{number}"
    folder.mkdir()
    return fixtures | {"tmp_path": folder}
