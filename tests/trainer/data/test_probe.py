"""A cheap look at files tells folders with the same names apart."""

from pathlib import Path

import pytest

from trainer.data import probe
from trainer.data.probe import probes


@pytest.mark.parametrize(("size", "changed"), [(0, None), (100, 50), (190, 189), (1000, 0), (1000, 500), (1000, 999)])
def test_a_change_that_is_looked_at_is_seen(
    size: int, changed: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "PART_BYTES", 64)
    content = bytearray(size)
    (tmp_path / "a").write_bytes(content)
    before = probes(tmp_path, ["a"])
    assert probes(tmp_path, ["a"]) == before
    if changed is None:
        content = bytearray(1)
    else:
        content[changed] = 1
    (tmp_path / "a").write_bytes(content)
    assert probes(tmp_path, ["a"]) != before


@pytest.mark.parametrize("number", [0, 1, 15, 16, 17, 100])
def test_few_files_are_read_from_the_first_on(number: int, tmp_path: Path) -> None:
    names = [f"{place:03d}" for place in range(number)]
    for name in names:
        (tmp_path / name).write_text(name)
    looked_at = [line.split()[0] for line in probes(tmp_path, names)]
    assert looked_at == sorted(set(looked_at))
    assert len(looked_at) <= probe.FILES
    assert looked_at[:1] == names[:1]
    assert len(looked_at) >= min(number, probe.FILES // 2)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    assert probes(tmp_path, ["gone"]) == ["gone cannot be read (No such file or directory)"]
