"""Options that several verbs have, how they are read, and what is refused before a verb begins."""

import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryFile
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from netsim.foundation.command import Request, Verb
from netsim.foundation.outputs import Output

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from netsim.foundation.settings import Section
    from trainer.flow.control import AnyConfig as AnyControl
    from trainer.sampling.sampler_choice import SamplerChoice

R = TypeVar("R", bound=Request)
D = TypeVar("D", bound="DataclassInstance")
S = TypeVar("S", bound="Section")

SHOW_RUN = "python -m trainer report {run_dir}"
"""What comes next after a verb that writes into a run's folder, or shows what a run does."""
MOST_EVALUATIONS = 10_000
"""Function evaluations of a sample."""


def _number_or_file(text: str) -> int | Path:
    """Reads a text as a number of steps, or else as the path of a file."""
    return int(text) if text.lstrip("+-").isdecimal() else Path(text)


class Drawn(Request):
    """How samples are drawn."""

    guidance: float | None = None
    """scale of classifier-free guidance (default: the run's sample.guidance); 1: none"""
    seed: int = 0
    """seed of the starting noise (default: 0)"""
    sampler: Annotated[str | None, "KIND"] = None
    """draw by another sampler than the run's own: a kind such as heun or dopri5, or settings as in a configuration,
    such as '{kind: heun, steps: 10}'; of a run that goes segment by segment, within each segment"""
    steps: Annotated[int | Path | None, _number_or_file, "N|JSON"] = None
    """number of steps of the sampler from noise to sample, of all segments together (default: its own); or a file
    of the steps verb, at whose times Euler's method draws in place of the run's own sampler"""
    evaluations: Annotated[int | None, "N"] = None
    """with a file of --steps: evaluations of the field, for which the file has times (default: the most)"""
    controls: Annotated[str | None, "YAML|FILE"] = None
    """change the field on the way by these in place of the run's sample.controls, the first one first: a list such
    as '[{kind: cost_gradient, strength: 4, cost: {class: "my_costs:Ink"}}]', or a YAML file of one; '[]': by
    none"""

    def choice(self) -> "SamplerChoice":
        """Returns the checked choice of sampler, steps and evaluations."""
        from trainer.sampling.sampler_choice import SamplerChoice

        choice = SamplerChoice(self.sampler, self.steps, self.evaluations)
        choice.check()
        return choice


def verb(
    name: str,
    summary: str,
    example: str,
    request: type[R],
    details: str = "",
    *,
    outputs: Callable[[R], Iterable[tuple[Output, Path | None]]] | None = None,
    following: str | None = None,
) -> Callable[[Callable[[R], int]], Verb[R]]:
    """Makes a verb of a function; its help is its summary as a sentence, details and an example that can be copied."""
    return lambda run: Verb(
        name=name,
        summary=summary,
        description=textwrap.fill(f"{summary[0].upper()}{summary[1:]}. {details}", width=100),
        epilog=f"example:\n  {example}",
        request=request,
        run=run,
        outputs=outputs,
        following=following,
    )


def request_of(kind: type[D], options: Request, **changes: Any) -> D:
    """Builds a driver's request from the options of the same names, except for fields given in `changes`."""
    given = named(options)
    return kind(**{each.name: given[each.name] for each in fields(kind) if each.name not in changes}, **changes)


def named(options: Request) -> dict[str, Any]:
    """Returns all options by name, with those of nested requests."""
    inside = [each for each in vars(options).values() if isinstance(each, Request)]
    return {name: value for part in (options, *inside) for name, value in vars(part).items()}


def validated(kind: type[S], options: Request, other: Mapping[str, str] = MappingProxyType({}), **changes: Any) -> S:
    """Builds and validates a driver's request as :func:`request_of`; `other` has options of other names, by field."""
    from pydantic import ValidationError

    from netsim.foundation.complaint import first_complaint

    given = named(options)
    document = {name: given[other.get(name, name)] for name in kind.model_fields if name not in changes} | changes
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        complaint = first_complaint(error, document, kind)
        field, _, inner = complaint.field.partition(".")
        option = other.get(field, field).replace("_", "-")
        remedy = complaint.remedy or "correct the value"
        raise ValueError(f"--{option}{inner and f' ({inner})'}: {complaint.problem}; {remedy}") from error


def read_controls(controls: str | None) -> "tuple[AnyControl, ...] | None":
    """The controls of `--controls`; None: the run's own."""
    if controls is None:
        return None
    from trainer.sampling import sampler_choice

    return sampler_choice.read_controls(controls)


def numbers_of_evaluations(listed: str) -> tuple[int, ...]:
    """Reads the numbers of function evaluations of ``--evaluations``.

    Args:
        listed: numbers with commas between them.
    """
    words = [word.strip().lstrip("0") for word in listed.split(",")]
    if not all(word.isdecimal() for word in words):
        raise ValueError(
            f"--evaluations: {listed!r} is not a list of whole numbers of 1 or more; use for example 1,2,10"
        )
    numbers: list[int] = []
    for number in (int(word[:100]) for word in words):
        if number > MOST_EVALUATIONS:
            raise ValueError(f"--evaluations: {number:.6g} is above {MOST_EVALUATIONS}; use {MOST_EVALUATIONS} or less")
        if number in numbers:
            raise ValueError(f"--evaluations: {number} is given twice; give each number once")
        numbers.append(number)
    return tuple(numbers)


def check_outputs(files: Mapping[str, Path | None]) -> None:
    """Refuses files that could not be written at the end of a long measurement; leaves nothing behind.

    Args:
        files: the file of each option; None: the option is not given.
    """
    taken: dict[Path, str] = {}
    for option, file in files.items():
        if file is None:
            continue
        other = taken.setdefault(file.resolve(), option)
        if other != option:
            raise ValueError(f"{option}: {file} is the file of {other} too; give another")
        if file.is_dir():
            raise ValueError(f"{option}: {file} is a folder; name a file in it")
        existing = next(folder for folder in file.absolute().parents if folder.exists())
        try:
            with TemporaryFile(dir=existing):
                pass
        except OSError as error:
            reason = f"its folder cannot be written ({error.strerror})"
            raise ValueError(f"{option}: {file}: {reason}; choose a writable path") from error
