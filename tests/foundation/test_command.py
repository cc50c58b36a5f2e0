"""The command line: what the fields of a request become, and how a command ends."""

from pathlib import Path
from typing import Annotated, Literal

import pytest

from netsim.foundation.command import WORD, Either, Group, Program, Request, Verb
from netsim.foundation.refusal import Failure, Refusal
from tests.each import each


class Inner(Request):
    seed: int = 0
    """of the draws"""


class Outer(Request):
    source: Annotated[Path, WORD]
    """what is read"""
    overrides: Annotated[tuple[str, ...], WORD, "key=value"] = ()
    """settings"""
    inner: Inner
    size: Annotated[tuple[int, int] | None, lambda text: tuple(map(int, text.split(","))), "H,W"] = None
    """of a picture"""
    number: Annotated[int | None, "--num", "--number"] = None
    """how many"""
    names: Annotated[tuple[str, ...], "--name"] = ()
    """may be given again"""
    widths: Annotated[tuple[int, ...], "+"] = (64,)
    """one or more"""
    pair: Annotated[tuple[str, str] | None, "A", "B"] = None
    """two"""
    maybe: Annotated[str | None, "?"] = None
    """with a value or without"""
    mode: Annotated[Literal["a", "b"], Group("modes")] = "a"
    """one of them"""
    left: Annotated[bool, Either("side")] = False
    """excludes the right"""
    right: Annotated[bool, Either("side")] = False
    """excludes the left"""


def program(run=lambda _: None) -> Program:
    return Program("one", (Verb(name="do", summary="", description="", request=Outer, run=run),), "")


def read(*words: str) -> Outer:
    options = program().parser().read(["do", *words])
    return options.verb.read(options)


def test_fields_make_options() -> None:
    assert read("x") == Outer(source=Path("x"), inner=Inner())
    words = "x a=1 --seed 3 --size 3,4 --num 5 --name p --name q --widths 1 2 --pair s t --maybe --mode b --right b=2"
    assert read(*words.split()) == Outer(
        source=Path("x"),
        overrides=("a=1", "b=2"),
        inner=Inner(seed=3),
        size=(3, 4),
        number=5,
        names=("p", "q"),
        widths=(1, 2),
        pair=("s", "t"),
        maybe="",
        mode="b",
        right=True,
    )


@each(
    "words, line",
    [
        ("do", "one do: the following arguments are required: source; see python -m one do --help"),
        ("doo", "one: doo is not a verb; use do; see python -m one --help"),
        ("do x --a.b=3", "one: unrecognized arguments: --a.b=3; settings have no dashes: a.b=3; see python -m one"),
        ("do x --left --right", "one do: argument --right: not allowed with argument --left"),
        ("do x --mode c", "one do: argument --mode: invalid choice: 'c'"),
    ],
)
def test_wrong_words_are_one_line(words: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program().main(words.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith(line)
    assert said.count("\n") == 1


@each(
    "error, code, line",
    [
        (Refusal("f", "key", "is wrong", "mend it"), 2, "f: key: is wrong; mend it"),
        (Failure("the disk is gone"), 1, "the disk is gone"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ModuleNotFoundError("", name="torch"), 2, "needs the package torch, which is not installed here; pip install"),
    ],
)
def test_an_error_is_a_line_and_an_exit_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: Outer) -> None:
        raise error

    assert program(run).main(["do", "x"]) == code
    assert capsys.readouterr().err.startswith(f"one do: {line}")


def test_a_fault_of_the_program_is_raised() -> None:
    def run(_: Outer) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        program(run).main(["do", "x"])
