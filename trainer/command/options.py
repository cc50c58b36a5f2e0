"""Options that several verbs have: how they are read, and what is refused before a verb begins."""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from trainer.flow.control import AnyConfig as AnyControl
    from trainer.sampling.sampler_choice import SamplerChoice

R = TypeVar("R", bound="DataclassInstance")

MOST_EVALUATIONS = 10_000
"""Function evaluations of a sample."""


def request_of(kind: type[R], options: Namespace, **changes: Any) -> R:
    """A request whose fields are options of the same names.

    Args:
        kind: of the request, a dataclass.
        options: of the command line.
        **changes: fields that are no option, or that are read from one.
    """
    names = [field.name for field in fields(kind) if field.name not in changes]
    return kind(**{name: getattr(options, name) for name in names}, **changes)


def add_drawing_options(parser: ArgumentParser) -> None:
    """Adds what says how samples are drawn: guidance, seed, sampler and its steps, controls."""
    parser.add_argument(
        "--guidance",
        type=float,
        help="scale of classifier-free guidance (default: the run's sample.guidance); 1: none",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the starting noise (default: 0)")
    parser.add_argument(
        "--sampler",
        metavar="KIND",
        help="draw by another sampler than the run's own: a kind such as heun or dopri5, or settings as in a "
        "configuration, such as '{kind: heun, steps: 10}'; of a run that goes segment by segment, within each segment",
    )
    parser.add_argument(
        "--steps",
        type=_number_or_file,
        metavar="N|JSON",
        help="number of steps of the sampler from noise to sample, of all segments together (default: its own); or a "
        "file of the steps verb, at whose times Euler's method draws in place of the run's own sampler",
    )
    parser.add_argument(
        "--evaluations",
        type=int,
        metavar="N",
        help="with a file of --steps: evaluations of the field, for which the file has times (default: the most)",
    )
    add_controls_option(parser)


def add_controls_option(parser: ArgumentParser) -> None:
    """Adds what says which controls change the field on the way."""
    parser.add_argument(
        "--controls",
        metavar="YAML|FILE",
        help="change the field on the way by these in place of the run's sample.controls, the first one first: a list "
        "such as '[{kind: cost_gradient, strength: 4, cost: {class: \"my_costs:Ink\"}}]', or a YAML file of one; "
        "'[]': by none",
    )


def controls_choice(options: Namespace) -> "tuple[AnyControl, ...] | None":
    """The controls of the option of :func:`add_controls_option`; None: the run's own.

    Raises:
        Refusal: their file is missing or malformed.
        ValueError: they are malformed.
    """
    if options.controls is None:
        return None
    from trainer.sampling.sampler_choice import read_controls

    return read_controls(options.controls)


def sampler_choice(options: Namespace) -> "SamplerChoice":
    """What the options of :func:`add_drawing_options` say about the sampler.

    Raises:
        ValueError: they contradict each other, or a number is out of range.
    """
    from trainer.sampling.sampler_choice import SamplerChoice

    choice = SamplerChoice(options.sampler, options.steps, options.evaluations)
    choice.check()
    return choice


def _number_or_file(text: str) -> int | Path:
    """A number of steps where the text is one, otherwise the path of a file."""
    return int(text) if text.lstrip("+-").isdecimal() else Path(text)


def numbers_of_evaluations(listed: str) -> tuple[int, ...]:
    """Reads the numbers of function evaluations of ``--evaluations``.

    Args:
        listed: numbers with commas between them.

    Raises:
        ValueError: it is no list of numbers, or a number is out of range or stands there twice.
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

    Raises:
        ValueError: two are the same, one is a folder, or its folder cannot be written.
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
