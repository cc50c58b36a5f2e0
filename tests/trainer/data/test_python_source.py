"""The standard library as windows of bytes."""

import sysconfig
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from tests.each import each
from trainer import data
from trainer.data import builtin
from trainer.data.builtin import PythonSource, PythonSourceConfig


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of six files in place of the real one."""
    texts = {"ast.py": "a" * 40, "bdb.py": "b" * 30, "cmd.py": "c" * 20, "json/tool.py": "j" * 25}
    texts |= {"json/decoder.py": "d" * 35, "wave.py": "w" * 50}
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    return tmp_path


def part(source: PythonSource, split: data.Split) -> bytes:
    """The stream of a split, put together from its windows, each but the first without its first byte."""
    batch = source.get(source.indices(split))
    windows, labels = batch.x_1, batch.labels
    assert labels is None
    return bytes([int(windows[0, 0]), *windows[:, 1:].flatten().tolist()])


def test_windows_overlap_by_one_byte_so_that_each_byte_is_predicted_once() -> None:
    source = PythonSourceConfig(context=64, held_out=5000, max_bytes=20_000).open()
    windows = source.get(source.indices("train")).x_1
    assert windows.dtype == torch.int64
    assert tuple(windows.shape[1:]) == source.shape == PythonSourceConfig(context=64).shape == (65,)
    assert torch.equal(windows[1:, 0], windows[:-1, -1])
    assert 0 <= int(windows.min()) <= int(windows.max()) < 256
    assert len(windows) == (20_000 - 1) // 64


def test_training_never_sees_a_file_of_the_held_out_part(library: Path) -> None:
    letters = {path.read_bytes()[:1]: path.stat().st_size for path in library.rglob("*.py")}
    for held_out in range(8, 150):
        source = PythonSourceConfig(context=7, held_out=held_out).open()
        seen, kept_out = part(source, "train"), part(source, "held_out")
        assert not set(seen) & set(kept_out)
        assert len(kept_out) == (held_out - 1) // 7 * 7 + 1
        complete = [letter for letter, size in letters.items() if (seen + kept_out).count(letter) == size]
        assert len(complete) >= len({*seen, *kept_out}) - 2, "only the last file of each part is cut"


def test_a_larger_held_out_part_begins_with_a_smaller_one(library: Path) -> None:
    small, large = (part(PythonSourceConfig(context=7, held_out=held_out).open(), "held_out") for held_out in (50, 90))
    assert large.startswith(small)
    assert library.exists()


def test_the_order_is_a_function_of_the_names(library: Path) -> None:
    before = part(PythonSourceConfig(context=1, held_out=2).open(), "train")
    (library / "_sysconfigdata_of_this_machine.py").write_text("x" * 50)
    for folder in ("site-packages", "test", "json/tests", "encodings", "ensurepip"):
        (library / folder).mkdir()
        (library / folder / "more.py").write_text("x" * 50)
    (library / "json" / "notes.txt").write_text("x" * 50)
    builtin._sources.cache_clear()
    assert part(PythonSourceConfig(context=1, held_out=2).open(), "train") == before
    (library / "cmd.py").unlink()
    builtin._sources.cache_clear()
    assert part(PythonSourceConfig(context=1, held_out=2).open(), "train").replace(b"c", b"") == before.replace(
        b"c", b""
    )


def test_two_builds_are_the_same_and_ids_number_both_splits() -> None:
    config = PythonSourceConfig(context=32, held_out=3000, max_bytes=30_000)
    one, other = data.build(config), data.build(config)
    ids = torch.cat([one.indices("train"), one.indices("held_out")])
    assert torch.equal(ids, torch.arange(len(ids)))
    assert torch.equal(one.get(ids).x_1, other.get(ids).x_1)
    assert one.num_classes == config.num_classes == 0
    some = torch.tensor([5, 2, 5])
    assert torch.equal(one.get(some).x_1, one.get(ids).x_1[some])


@pytest.mark.parametrize("files", [[], ["json/tool.py"]])
def test_a_library_without_sources_is_refused(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("x" * 90)
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(ValueError, match=r"^/.*: data\.held_out: leaves 0 of its \d+ bytes .*\(100\); hold out less"):
        PythonSourceConfig(context=8, held_out=100).open()


@each(
    "values",
    [
        {"context": 0},
        {"held_out": 0},
        {"max_bytes": 0},
        {"context": 64, "held_out": 64},
        {"context": 64, "max_bytes": 64},
        {"context": 1.5},
        {"size": 8},
    ],
)
def test_wrong_settings_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        PythonSourceConfig.model_validate(values)
