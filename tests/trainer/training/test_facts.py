"""What ranks compare before the first step: settings, packages, code, files, modules and data."""

import sys
from pathlib import Path
from typing import Any

import pytest

import trainer.data
from tests.trainer.commands import ALONE, DIGITS
from trainer import load_config
from trainer.distributed.groups import Launch
from trainer.training import facts
from trainer.training.facts import flat, given, resolved

FIRST, SECOND = Launch(0, 0, 4, 2), Launch(1, 1, 4, 2)


def test_settings_are_told_by_dotted_key() -> None:
    document: dict[str, Any] = {"a": {"b": 1, "c": {"d": [1, {"e": 2}]}}, "f": {}, "g": None}
    assert flat(document) == {"a.b": 1, "a.c.d": [1, {"e": 2}], "f": {}, "g": None}


def test_packages_are_those_that_are_found_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch-9.9.dist-info").mkdir()
    (tmp_path / "torch-9.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 9.9\n")
    before = given({}, FIRST)["packages"].values
    monkeypatch.syspath_prepend(tmp_path)
    after = given({}, FIRST)["packages"].values
    assert before is not None
    assert after is not None
    assert {name for name in before if before[name] != after[name]} == {"torch"}
    assert after["torch"] == "9.9"


def test_code_is_every_source_file_and_is_read_once_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = given({}, FIRST)["code"].values
    assert code is not None
    assert {"trainer/__main__.py", "moe/layer.py", "netsim/__init__.py"} <= code.keys()
    assert given({}, SECOND)["code"].values is None
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    (tmp_path / "mine" / "part.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(facts, "OWN_PACKAGES", ("mine",))
    first = given({}, FIRST)["code"].values
    (tmp_path / "mine" / "part.py").write_text("x = 2\n")
    second = given({}, FIRST)["code"].values
    assert first is not None
    assert second is not None
    assert {name for name in first if first[name] != second[name]} == {"mine/part.py"}


def test_files_and_modules_of_the_user_are_told_by_what_they_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_part_of_facts.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    __import__("my_part_of_facts")
    weights = tmp_path / "ema.safetensors"
    weights.write_bytes(b"w" * 100)
    config = load_config(DIGITS, [*ALONE, f"run.dir={tmp_path / 'run'}", f"model.init_from={weights}"])
    dataset = trainer.data.build(config.data)
    first = resolved(config, dataset, FIRST)
    assert first["data"].values is not None
    assert first["data"].values.keys() == {"number of train examples", "number of held-out examples"}
    assert sum(first["data"].values.values()) == 1797
    assert first["files"].values is not None
    assert list(first["files"].values) == [f"the file of model.init_from ({weights})"]
    assert first["modules"].values is not None
    assert "module my_part_of_facts" in first["modules"].values
    assert not {name for name in first["modules"].values if name.startswith(("module torch", "module trainer"))}
    weights.write_bytes(b"v" * 100)
    (tmp_path / "my_part_of_facts.py").write_text("x = 2\n")
    second = resolved(config, dataset, FIRST)
    assert second["files"] != first["files"]
    assert second["modules"] != first["modules"]
    assert second["resolved settings"] == first["resolved settings"]
    assert resolved(config, dataset, SECOND)["files"].values is None
    del sys.modules["my_part_of_facts"]


@pytest.mark.parametrize("changed", [0, 399])
def test_of_a_large_file_the_length_and_both_ends_are_read(
    changed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "WHOLE_BYTES", 100)
    monkeypatch.setattr(facts, "END_BYTES", 50)
    path, content = tmp_path / "large", bytearray(400)
    path.write_bytes(content)
    before = facts._digest(path)
    content[changed] = 1
    path.write_bytes(content)
    assert facts._digest(path) != before
    path.write_bytes(bytes(401))
    assert facts._digest(path) != before
