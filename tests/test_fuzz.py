"""Malformed files of every kind are answered in one line, and a fault in that is found."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.__main__ import table
from tests.fuzz.reader import Reader, reading, written
from tests.fuzz.readers import READERS
from tests.fuzz.run import run

CASES = [pytest.param(range(4, 6), id="two"), pytest.param(range(8), marks=pytest.mark.slow, id="eight")]
"""Numbers of those of each reader; where none of two is refused, two more are tried."""


@pytest.mark.parametrize("numbers", CASES)
@pytest.mark.parametrize("reader", READERS, ids=[reader.name for reader in READERS])
def test_every_reader_answers_whatever_it_is_given(reader: Reader, numbers: range, tmp_path: Path) -> None:
    (tally,) = run([reader], numbers, 11, tmp_path / "files")
    if not tally.refused:
        numbers = range(numbers.start, numbers.stop + 2)
        (tally,) = run([reader], numbers, 11, tmp_path / "more")
    assert tally.cases == len(numbers)
    assert tally.accepted + tally.refused == len(numbers), table([tally])
    assert not tally.failures, table([tally])
    assert tally.refused > 0


def test_the_readers_have_names_of_their_own() -> None:
    names = [reader.name for reader in READERS]
    assert len(set(names)) == len(names) > 40


def _planted(fault: Callable[[], object]) -> Reader:
    """A reader of numbers to which something else happens with a negative one."""

    def read(file: Path) -> None:
        if file.is_file() and int(file.read_text(encoding="utf-8")) < 0:
            fault()

    return Reader("numbers", {"number": "json"}, written(number="5"), reading(read))


def _typed() -> None:
    raise TypeError("planted")


def _several_lines() -> None:
    print("planted", file=sys.stderr)
    raise ValueError("and more")


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (_typed, "TypeError"),
        (lambda: exec("while True: pass"), "Hangs"),
        (lambda: [0] * 10**12, "MemoryError"),
        (_several_lines, "exit status 2 with 2 lines"),
        (lambda: exec("raise SystemExit(3)"), "exit status 3"),
        (lambda: Path("left").write_text("behind") and exec("raise SystemExit(1)"), "exit status 1"),
    ],
)
def test_a_fault_is_found_told_and_kept(
    fault: Callable[[], object], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.fuzz.run.LIMIT_S", 0.1)
    (tally,) = run([_planted(fault)], range(100), 3, tmp_path / "files", keep=tmp_path / "kept")
    assert tally.failures
    assert tally.accepted + tally.refused + len(tally.failures) == tally.cases == 100
    assert {failure.verdict.fault for failure in tally.failures} == {told}
    assert told in table([tally])
    (kept,) = (tmp_path / "kept").iterdir()
    assert int((kept / "number").read_text()) < 0
    assert f'--seed 3 --reader "numbers" --case {tally.failures[0].number}' in (kept / "about.txt").read_text()


def test_a_case_follows_from_its_seed_and_number_alone(tmp_path: Path) -> None:
    reader = next(reader for reader in READERS if reader.name == "scenario")
    seen = []
    for name, numbers in (("all", range(6)), ("last", range(5, 6)), ("again", range(6))):
        read: list[bytes] = []

        def record(file: Path, read: list[bytes] = read) -> int:
            read.append(file.read_bytes() if file.is_file() else b"")
            return 0

        run([Reader(reader.name, reader.files, reader.write, record)], numbers, 5, tmp_path / name)
        seen.append(read[len(reader.files) :])
    assert seen[0] == seen[2]
    assert seen[0][-1:] == seen[1]
    assert len(set(seen[0])) > 1
