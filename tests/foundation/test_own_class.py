"""A class of a user's where a kind stands: what it is given, how it is written out, and each line that refuses it."""

import sys
from pathlib import Path
from textwrap import dedent
from typing import Annotated, Any, ClassVar, Literal, Protocol

import pytest
from pydantic import BaseModel, ValidationError

from netsim.foundation.complaint import first_complaint
from netsim.foundation.own_class import KindOrClass, OwnClass, build_own
from netsim.foundation.settings import Section
from tests.each import each

MODULE = f"""
from typing import Literal

from pydantic import BaseModel

from {__name__} import Lens


class Thick(Lens):
    class Config(BaseModel):
        index: float
        layers: list[int] = [1]
        glass: Literal["crown", "flint"] = "crown"

    name = "thick"

    def __init__(self, config, *, light=None):
        self.config, self.light = config, light

    def bend(self, angle, *, colour):
        return angle / self.config.index


class Thin(Lens):
    def __init__(self, index: float, light: str, note=()):
        self.index, self.light, self.note, self.name = index, light, note, "thin"

    def bend(self, angle, *, colour):
        return angle / self.index


class Flat:
    name = "flat"

    def bend(self, angle, *, colour):
        return angle

    def flip(self):
        return self


class Passing(Thin):
    def __init__(self, **settings):
        super().__init__(light="none", **settings)


class Nameless(Lens):
    def bend(self, angle, *, colour):
        return angle


class Unwritten(Lens):
    name = "unwritten"


class Narrow(Lens):
    name = "narrow"

    def bend(self, angle):
        return angle


class WithoutDefault:
    name = "without"

    def bend(self, angle, *, colour):
        return angle


a_number = 3
"""


class Lens(Protocol):
    """A protocol with an open method, one with a body and an attribute."""

    name: str

    def bend(self, angle: float, *, colour: str) -> float:
        """Says nothing."""
        ...

    def flip(self) -> "Lens":
        """The same from behind."""
        return self


class OwnLens(OwnClass, frozen=True):
    """A lens of a user's."""

    protocol: ClassVar[str] = f"{__name__}.Lens"
    passed: ClassVar[tuple[str, ...]] = ("light",)


class Mirror(BaseModel, extra="forbid", frozen=True):
    """A built-in kind."""

    kind: Literal["mirror"] = "mirror"
    radius: float = 1.0


class Prism(BaseModel, extra="forbid", frozen=True):
    """Another."""

    kind: Literal["prism"] = "prism"
    index: float = 1.5


class Bench(Section):
    """A document."""

    first: Annotated[Mirror | Prism | OwnLens, KindOrClass()] = Mirror()
    second: Annotated[Mirror | Prism | OwnLens, KindOrClass()] | None = None


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A working directory with the module `lenses`, which is forgotten afterwards."""
    (tmp_path / "lenses.py").write_text(dedent(MODULE))
    (tmp_path / "broken.py").write_text("import a_module_that_is_not_there\n")
    (tmp_path / "garbled.py").write_text("def (:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("lenses", "broken", "garbled"):
        sys.modules.pop(name, None)


def lens(**section: Any) -> OwnLens:
    """The section of a bench whose first part is a class."""
    read = Bench.model_validate({"first": section}).first
    assert isinstance(read, OwnLens)
    return read


def test_a_class_gets_its_config() -> None:
    config = lens(**{"class": "lenses:Thick", "index": 2, "layers": [2, 3]})
    built = build_own(config, light="red")
    assert (built.config.index, built.config.layers, built.config.glass) == (2.0, [2, 3], "crown")
    assert type(built.config).__name__ == "Config"
    assert type(built.config) is type(built).Config
    assert built.light == "red"
    assert built.bend(1.0, colour="red") == 0.5


def test_a_class_without_config_gets_arguments() -> None:
    built = build_own(lens(**{"class": "lenses:Thin", "index": 4}), light="blue", weight=3)
    assert (built.index, built.light, built.note) == (4.0, "blue", ())


def test_arguments_that_are_passed_on_are_not_checked() -> None:
    assert build_own(lens(**{"class": "lenses:Passing", "index": 4})).index == 4


def test_a_class_need_not_extend_the_protocol() -> None:
    assert build_own(lens(**{"class": "lenses:Flat"})).flip().name == "flat"


@each(
    "section, written",
    [
        ({"class": "lenses:Thick", "index": 2}, {"index": 2.0, "layers": [1], "glass": "crown"}),
        ({"class": "lenses:Thin", "index": 2}, {"index": 2.0, "note": []}),
        ({"class": "lenses:Flat"}, {}),
    ],
)
def test_what_is_written_can_be_read_again(section: dict[str, Any], written: dict[str, Any]) -> None:
    bench = Bench.model_validate({"first": section, "second": section})
    dumped = bench.model_dump(mode="json")
    assert dumped == {name: {"class": section["class"], **written} for name in ("first", "second")}
    again = Bench.model_validate(dumped)
    assert again.model_dump(mode="json") == dumped
    assert hash(again.first) == hash(bench.first)
    assert Bench.model_validate(again) is again
    assert Bench.model_validate({"first": again.first}).first == again.first


def test_built_in_kinds_are_read_and_written_as_ever() -> None:
    bench = Bench.model_validate({"first": {"radius": 2}, "second": {"kind": "prism"}})
    assert bench == Bench(first=Mirror(radius=2.0), second=Prism())
    written = {"first": {"kind": "mirror", "radius": 2.0}, "second": {"kind": "prism", "index": 1.5}}
    assert bench.model_dump(mode="json") == written


def test_settings_can_be_changed() -> None:
    config = lens(**{"class": "lenses:Thin", "index": 2})
    assert config.with_settings(index=3).setting("index") == 3.0
    assert config.setting("index") == 2.0
    assert config.setting("nothing", 7) == 7
    with pytest.raises(ValidationError):
        config.with_settings(index="three")


def test_an_attribute_that_the_protocol_declares_is_asked_of_the_instance() -> None:
    with pytest.raises(ValueError, match=r"lenses:Nameless lacks the attribute name of .*\.Lens; set it"):
        build_own(lens(**{"class": "lenses:Nameless"}))


PROTOCOL = f"{__name__}.Lens"
WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "no module": (
        {"class": "not_mine:Thin"},
        "first.class",
        "not_mine cannot be imported (ModuleNotFoundError: No module named 'not_mine'); "
        "run from the folder that contains it, or install it",
    ),
    "module without its own": (
        {"class": "broken:Thin"},
        "first.class",
        "broken cannot be imported (ModuleNotFoundError: No module named 'a_module_that_is_not_there'); "
        "run from the folder that contains it, or install it",
    ),
    "no class": ({"class": "lenses:Thim"}, "first.class", "lenses has no class Thim; correct the name"),
    "no class at all": ({"class": "lenses:a_number"}, "first.class", "lenses has no class a_number; correct the name"),
    "no colon": ({"class": "lenses.Thin"}, "first.class", "'lenses.Thin' does not name a class; write module:Class"),
    "no text": ({"class": 3}, "first.class", "3 does not name a class; write module:Class"),
    "nothing": ({"class": None}, "first.class", "None does not name a class; write module:Class"),
    "kind beside class": (
        {"class": "lenses:Thin", "kind": "prism", "index": 1},
        "first.class",
        "lenses:Thin is given beside kind prism; remove one of the two",
    ),
    "method left open": (
        {"class": "lenses:Unwritten"},
        "first.class",
        f"Unwritten lacks the method bend of {PROTOCOL}; write it as the protocol declares it",
    ),
    "method that takes less": (
        {"class": "lenses:Narrow"},
        "first.class",
        f"Narrow.bend cannot be called as {PROTOCOL}.bend is (got an unexpected keyword argument 'colour'); "
        "write it as the protocol declares it",
    ),
    "method that only the protocol has": (
        {"class": "lenses:WithoutDefault"},
        "first.class",
        f"WithoutDefault lacks the method flip of {PROTOCOL}; extend {PROTOCOL}, which defines it, or write it as the "
        "protocol declares it",
    ),
    "unknown setting": (
        {"class": "lenses:Thick", "index": 1, "layer": [2]},
        "first.layer",
        "is not a known key ([2]); write layers, or remove it",
    ),
    "unknown argument": (
        {"class": "lenses:Thin", "index": 1, "radius": 2},
        "first.radius",
        "is not a known key (2); correct its name or remove it",
    ),
    "argument that is passed": (
        {"class": "lenses:Thin", "index": 1, "light": "red"},
        "first.light",
        "is not a known key ('red'); correct its name or remove it",
    ),
    "missing setting": ({"class": "lenses:Thick"}, "first.index", "is missing; add it"),
    "missing argument": ({"class": "lenses:Thin"}, "first.index", "is missing; add it"),
    "setting of another type": (
        {"class": "lenses:Thick", "index": 1, "layers": [1, "two"]},
        "first.layers.1",
        "must be an integer ('two'); use a whole number",
    ),
    "argument of another type": (
        {"class": "lenses:Thin", "index": "much"},
        "first.index",
        "must be a number ('much'); use a number",
    ),
    "value that is not offered": (
        {"class": "lenses:Thick", "index": 1, "glass": "crow"},
        "first.glass",
        "must be 'crown' or 'flint' ('crow'); use crown",
    ),
    "kind that is misspelt": ({"kind": "prisn"}, "first.kind", "'prisn' is not one of mirror, prism; use prism"),
}


@each("case", WRONG)
def test_what_is_wrong_is_said_in_one_line(case: str) -> None:
    section, field, reason = WRONG[case]
    document = {"first": section}
    with pytest.raises(ValidationError) as raised:
        Bench.model_validate(document)
    complaint = first_complaint(raised.value, document, Bench)
    assert (complaint.field, complaint.reason) == (field, reason)


def test_a_module_that_is_no_python_is_named() -> None:
    document = {"first": {"class": "garbled:Thin"}}
    with pytest.raises(ValidationError) as raised:
        Bench.model_validate(document)
    complaint = first_complaint(raised.value, document, Bench)
    assert complaint.field == "first.class"
    assert complaint.reason.startswith("garbled cannot be imported (SyntaxError: ")
    assert "\n" not in complaint.reason
