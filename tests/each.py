"""Many values of a parameter in one case of a test."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any


def each(
    names: str | Sequence[str], values: Iterable[Any], ids: Callable[[Any], object] | Iterable[object] = repr
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Calls a test with one value after another, as `pytest.mark.parametrize` would in cases of their own.

    A failure names the values. Each has a `tmp_path` of its own; what other fixtures give is the same for all.

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
            for number, (row, name) in enumerate(zip(rows, called, strict=True)):
                own = dict(zip(given, row, strict=True))
                if "tmp_path" in others:
                    own["tmp_path"] = others["tmp_path"] / str(number)
                    own["tmp_path"].mkdir()
                try:
                    test(**{**others, **own})
                except BaseException as error:
                    error.add_note(name)
                    raise

        signature = inspect.signature(test)
        left = [parameter for name, parameter in signature.parameters.items() if name not in given]
        of_all.__dict__["__signature__"] = signature.replace(parameters=left)
        return of_all

    return repeated
