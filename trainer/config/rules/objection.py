"""Objections that rules yield: how they become messages, and one error or several."""

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

Objections = Iterable[tuple[str, str, str] | ValueError]
"""Of a rule to a run: field, the problem with its value, and the remedy; or the error of a file."""
Validation = Generator[ValueError, None, T | None]
"""Yields every objection, and returns the result if there is none."""


class ObjectionsError(ValueError):
    """Several objections; each argument is one line to print."""

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


def errors_in(error: ValueError) -> tuple[ValueError, ...]:
    """Splits an error that may hold several into the single errors."""
    return error.args if isinstance(error, ObjectionsError) else (error,)


def message(field: str, problem: str, remedy: str) -> str:
    return f"{field}: {problem}; {remedy}"


def errors(*rules: Objections) -> Generator[ValueError, None, bool]:
    """Yields the objections of rules as errors, each once, rule after rule; returns whether there was one."""
    messages: set[str] = set()
    for rule in rules:
        for error in _errors_of(rule):
            if str(error) not in messages:
                messages.add(str(error))
                yield error
    return bool(messages)


def _errors_of(rule: Objections) -> Iterator[ValueError]:
    try:
        for objection in rule:
            yield objection if isinstance(objection, ValueError) else ValueError(message(*objection))
    except ValueError as error:
        yield error


def caught(call: Callable[..., T], *arguments: Any) -> Validation[T]:
    """Calls a function and returns its result; yields a ValueError that it raises instead."""
    try:
        return call(*arguments)
    except ValueError as error:
        yield error
        return None


def refuse(*rules: Objections) -> None:
    """Raises the first objection of rules, if there is one."""
    for error in errors(*rules):
        raise error


def refuse_all(objections: Iterable[ValueError]) -> None:
    """Raises the only objection, or several as one `ObjectionsError`."""
    several = [*objections]
    if several:
        raise several[0] if len(several) == 1 else ObjectionsError(*several)


def result_or_first(validation: Validation[T]) -> T:
    try:
        error = next(validation)
    except StopIteration as end:
        return end.value
    raise error


def result_or_all(validation: Validation[T]) -> T:
    """Returns the result of a validation, or raises all objections."""
    objections: list[ValueError] = []
    while True:
        try:
            objections.append(next(validation))
        except StopIteration as end:
            refuse_all(objections)
            return end.value
