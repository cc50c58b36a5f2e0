"""Wrong input in one line: what an error keeps, what was meant, and what no document may hold."""

import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import AfterValidator, BaseModel, Field

from netsim.foundation.complaint import validated
from netsim.foundation.documents import check_document, parse_json, read_shipped
from netsim.foundation.files import replacing
from netsim.foundation.refusal import Refusal
from tests.each import each


class Small(BaseModel, extra="forbid"):
    kind: Literal["small"] = "small"
    width: int = 1


class Large(BaseModel, extra="forbid"):
    kind: Literal["large"] = "large"
    height: int = 1


def _below_ten(value: int) -> int:
    if value >= 10:
        raise ValueError("it is too large; write less than 10")
    return value


class Document(BaseModel, extra="forbid"):
    """What is validated."""

    name: str
    number: Annotated[int, AfterValidator(_below_ten)] = 1
    colour: Literal["red", "green", "blue"] = "red"
    part: Annotated[Small | Large, Field(discriminator="kind")] = Small()
    parts: tuple[Large, ...] = ()


def refused_as(document: Any) -> Refusal:
    """The refusal of a document that is validated as `Document`."""
    with pytest.raises(Refusal) as caught:
        validated(document, Path("f.yaml"), Document)
    return caught.value


def read(path: Path) -> object:
    return read_shipped(path, "a scenario", "scenarios")


def test_an_error_keeps_what_it_says() -> None:
    error = Refusal(Path("a; b/c.yaml"), "part.width", "is 3; not 4", "write 4; or remove it")
    assert (error.file, error.field) == ("a; b/c.yaml", "part.width")
    assert (error.problem, error.remedy) == ("is 3; not 4", "write 4; or remove it")
    assert str(error) == "a; b/c.yaml: part.width: is 3; not 4; write 4; or remove it"
    assert isinstance(error, ValueError)


def test_an_error_without_a_remedy_ends_with_the_problem() -> None:
    assert str(Refusal("f", "a", "is wrong", "")) == "f: a: is wrong"


def test_an_error_passes_between_processes() -> None:
    error = Refusal("f", "a", "is wrong", "right it")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is Refusal
    assert (str(copy), copy.__dict__) == (str(error), error.__dict__)


def test_of_a_long_value_its_ends_are_told() -> None:
    error = Refusal("f", "a", f"begins{'x' * 100_000}ends", "right it")
    assert len(str(error)) < 1000
    assert error.problem.startswith("begins")
    assert str(error).endswith("ends; right it")


@each(
    "document, field, remedy",
    [
        ({"name": "a", "colur": "red"}, "colur", "write colour, or remove it"),
        ({"name": "a", "part": {"kind": "small", "widht": 1}}, "part.widht", "write width, or remove it"),
        ({"name": "a", "parts": [{}, {"hight": 1}]}, "parts.1.hight", "write height, or remove it"),
        ({"name": "a", "part": {"kind": "smal"}}, "part", "use small"),
        ({"name": "a", "part": {"kind": "Large"}}, "part", "use large"),
        ({"name": "a", "colour": "gren"}, "colour", "use green"),
        ({"name": "a", "number": 10}, "number", "write less than 10"),
        ({"number": 1}, "name", "add it"),
    ],
)
def test_the_remedy_names_what_was_meant(document: Any, field: str, remedy: str) -> None:
    error = refused_as(document)
    assert error.field.removesuffix(".kind") == field
    assert error.remedy == remedy


@each("document", [{"name": "a", "quux": 1}, {"name": "a", "part": {"kind": "quux"}}])
def test_a_name_that_is_near_nothing_is_not_guessed(document: Any) -> None:
    error = refused_as(document)
    assert error.remedy
    assert not error.remedy.startswith("write")


def test_a_kind_that_is_no_text_is_refused() -> None:
    for kind in ([1], {"a": 1}, None, 3):
        assert refused_as({"name": "a", "part": {"kind": kind}}).field.startswith("part")


REFUSED = {
    "a key twice": "{a: 1, b: 2, a: 3}",
    "a key twice below": "a: {b: 1, b: 1}",
    "a key twice in a list": "a: [{b: 1, b: 2}]",
    "a merge twice": "{x: &x {a: 1}, y: &y {b: 1}, z: {<<: *x, <<: *y}}",
    "a merge of a number": "a: {<<: 1}",
    "an impossible date": "a: 2024-02-30",
    "a tag that does not fit": "a: !!bool x",
    "a time that is none": "a: !!timestamp x",
    "a tag of Python": "a: !!python/object:os.system x",
    "no end": "a: [1, 2",
    "a part of itself": "a: &a [*a]",
    "much nesting": f"a: {'[' * 150}{']' * 150}",
    "more nesting than Python bears": f"a: {'[' * 1500}{']' * 1500}",
    "a number beyond 64 bits": f"a: {2**63}",
    "a negative number beyond 64 bits": f"a: [{-(2**63) - 1}]",
    "more digits than Python bears": f"a: {'9' * 5000}",
    "much in few letters": "a0: &a0 [1]" + "".join(f"\na{n + 1}: &a{n + 1} [{f'*a{n}, ' * 10}]" for n in range(9)),
}
ACCEPTED = {
    "plain": "{a: 1, b: [x, {c: .inf}]}",
    "the largest numbers": f"a: [{2**63 - 1}, {-(2**63)}]",
    "a merge": "{x: &x {a: 1, b: 2}, y: {<<: *x, a: 3}}",
    "a merge of several": "{x: &x {a: 1}, y: &y {b: 1}, z: {<<: [*x, *y]}}",
    "a merge of what is merged, before that is read": "{a: {b: &m {<<: {x: 1}, x: 2}}, top: {<<: *m}}",
    "some nesting": f"a: {'[' * 50}{']' * 50}",
}


@each("text", REFUSED.values(), ids=REFUSED.keys())
def test_yaml_that_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(text)
    with pytest.raises(Refusal) as caught:
        read(path)
    error = caught.value
    assert error.file == str(path)
    assert error.field
    assert error.problem
    assert error.remedy
    assert "\n" not in str(error)


@each("text", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_yaml_that_is_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(text)
    assert read(path) == yaml.safe_load(text)


@each("make", [lambda _: None, Path.mkdir, lambda path: path.write_bytes(b"a: \xff")])
def test_a_file_that_cannot_be_read(make: Callable[[Path], Any], tmp_path: Path) -> None:
    make(tmp_path / "f.yaml")
    with pytest.raises(Refusal) as caught:
        read(tmp_path / "f.yaml")
    assert (caught.value.file, caught.value.field) == (str(tmp_path / "f.yaml"), "file")


@each("text", ["[" * 100_000, "{", "[" * 5000 + "]" * 5000, "1" * 5000, str(2**64), "[" * 150 + "]" * 150])
def test_json_that_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_a_refusal_without_a_file_says_the_rest_and_passes_between_processes() -> None:
    with pytest.raises(Refusal, match=r"^a\.b: the number has more than 64 bits; write a smaller one$") as caught:
        check_document({"a": {"b": 2**63}})
    assert (caught.value.file, caught.value.field) == ("", "a.b")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.__dict__) == (str(caught.value), caught.value.__dict__)
    assert str(Refusal("", "", "is too long", "write less")) == "is too long; write less"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "f.txt"
    for text in ("first", "second"):
        with replacing(path) as target:
            target.write_text(text)
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == text
    with suppress(KeyError), replacing(path) as target:
        target.write_text("third")
        raise KeyError
    assert path.read_text() == "second"
    assert list(tmp_path.iterdir()) == [path]
