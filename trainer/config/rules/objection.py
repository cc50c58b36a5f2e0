"""The objections that rules yield: where their message is made, and where they become one error or many."""

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

Objections = Iterable[tuple[str, str, str] | ValueError]
"""What a rule has against a run: field, the problem with its value, and the remedy; or the error of a file."""
Examination = Generator[ValueError, None, T | None]
"""Yields every objection to something, and returns what it comes to if there is none."""


class Objected(ValueError):  # noqa: N818  it is what has happened
    """Several objections, its arguments, each of which is a line for a person."""

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


def each(error: ValueError) -> tuple[ValueError, ...]:
    """The objections of which an error consists."""
    return error.args if isinstance(error, Objected) else (error,)


def message(field: str, problem: str, remedy: str) -> str:
    """One line for a person."""
    return f"{field}: {problem}; {remedy}"


def errors(*rules: Objections) -> Generator[ValueError, None, bool]:
    """The objections of rules as errors, each once, in the order of the rules; returns whether there was one.

    A rule is not begun before the objections of those before it have been taken. An error that a rule raises, such as
    that of a file which cannot be read, is its last objection.
    """
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


def attempt(call: Callable[..., T], *arguments: Any) -> Examination[T]:
    """What a function returns; yields the error that it raises."""
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
    """Raises the only objection, or several as one `Objected`."""
    several = [*objections]
    if several:
        raise several[0] if len(several) == 1 else Objected(*several)


def settled(examination: Examination[T]) -> T:
    """The result of an examination; raises the first objection."""
    try:
        error = next(examination)
    except StopIteration as end:
        return end.value
    raise error


def settled_whole(examination: Examination[T]) -> T:
    """The result of an examination; raises all objections."""
    found: list[ValueError] = []
    while True:
        try:
            found.append(next(examination))
        except StopIteration as end:
            refuse_all(found)
            return end.value
