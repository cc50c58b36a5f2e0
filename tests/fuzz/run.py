"""Many cases, each of which follows from its seed, its reader and its number alone."""

import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.mutations import Instead, damaged
from tests.fuzz.reader import Reader
from tests.fuzz.trial import Verdict, judge

LIMIT_S = 20.0


@dataclass(frozen=True)
class Failure:
    """A case that ended as none may.

    Attributes:
        reader: its name.
        number: of the case among those of the reader; -1: the files were sound.
        file: that was damaged.
        verdict: how it ended.
    """

    reader: str
    number: int
    file: Path
    verdict: Verdict


@dataclass
class Tally:
    """How the cases of a reader ended.

    Attributes:
        reader: who.
        cases: that were run.
        accepted: with exit status 0.
        refused: with exit status 2.
        failures: all others.
    """

    reader: Reader
    cases: int = 0
    accepted: int = 0
    refused: int = 0
    failures: list[Failure] = field(default_factory=list)


class Bench:
    """The sound files of a reader in a folder, of which one is damaged at a time.

    Args:
        reader: who reads them.
        folder: an empty folder of its own.
    """

    def __init__(self, reader: Reader, folder: Path) -> None:
        self._reader, self._folder = reader, folder
        folder.mkdir(parents=True)
        os.chdir(folder)
        reader.write()
        self._sound = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def sound(self) -> Verdict:
        """Reads the sound files; what is loaded or compiled on first use is then there."""
        for name in self._reader.files:
            verdict = self._judged(Path(name), limit_s=0)
            self._restore()
            if verdict.fault or verdict.status != self._reader.sound:
                return Verdict(
                    verdict.status, f"{verdict.fault or verdict.said.strip()} with sound files", verdict.said
                )
        return Verdict(self._reader.sound, "", "")

    def case(self, seed: int, number: int, keep: Path | None = None) -> tuple[Path, Verdict]:
        """Runs a case.

        Args:
            seed: of all cases.
            number: which.
            keep: folder for the files of the case and what was said if it fails; None: they are not kept.

        Returns:
            The damaged file and how the case ended.
        """
        rng = random.Random(f"{seed} {self._reader.name} {number}")
        name, form = rng.choice(sorted(self._reader.files.items()))
        file = Path(name)
        now = damaged(self._sound[file], form, rng)
        (self._folder / file).unlink()
        match now:
            case bytes():
                (self._folder / file).write_bytes(now)
            case Instead.FOLDER:
                (self._folder / file).mkdir()
            case Instead.NOTHING:
                pass
        verdict = self._judged(file, LIMIT_S)
        if verdict.fault and keep is not None:
            shutil.copytree(self._folder, keep, dirs_exist_ok=True)
            again = f'python -m tests.fuzz --seed {seed} --reader "{self._reader.name}" --case {number}'
            told = f"{again}\ndamaged: {file}\n{verdict.fault}\n\n{verdict.said}"
            (keep / "about.txt").write_text(told, encoding="utf-8", errors="backslashreplace")
        self._restore()
        return file, verdict

    def _judged(self, file: Path, limit_s: float) -> Verdict:
        os.chdir(self._folder)
        return judge(self._reader, file, limit_s)

    def _restore(self) -> None:
        """Removes what a case wrote, and makes the sound files what they were."""
        for path in sorted(self._folder.rglob("*"), reverse=True):
            name = path.relative_to(self._folder)
            if path.is_dir() and not path.is_symlink():
                if name in self._sound or not any(name in sound.parents for sound in self._sound):
                    shutil.rmtree(path)
            elif name not in self._sound:
                path.unlink()
        for name, content in self._sound.items():
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_file() or path.stat().st_size != len(content) or path.read_bytes() != content:
                path.write_bytes(content)


def run(
    readers: Sequence[Reader],
    numbers: range,
    seed: int,
    folder: Path,
    *,
    keep: Path | None = None,
    progress: Callable[[Reader], None] | None = None,
) -> list[Tally]:
    """Runs cases of every reader.

    Args:
        readers: who reads.
        numbers: of the cases of each.
        seed: of all cases.
        folder: an empty folder to work in.
        keep: folder for the files of the first case of each fault; None: they are not kept.
        progress: called when a reader is done.

    Returns:
        One tally for each reader.
    """
    tallies, before = [], Path.cwd()
    folder, keep = folder.resolve(), keep and keep.resolve()
    try:
        for place, reader in enumerate(readers):
            tally = Tally(reader)
            bench = Bench(reader, folder / str(place))
            verdict = bench.sound()
            if verdict.fault:
                tally.failures.append(Failure(reader.name, -1, Path(next(iter(reader.files))), verdict))
            seen: set[str] = set()
            for number in numbers:
                file, verdict = bench.case(seed, number)
                tally.cases += 1
                tally.accepted += not verdict.fault and verdict.status == 0
                tally.refused += not verdict.fault and verdict.status == 2
                if verdict.fault:
                    tally.failures.append(Failure(reader.name, number, file, verdict))
                    if keep is not None and verdict.fault not in seen:
                        bench.case(seed, number, keep / f"{reader.name.replace(' ', '_')}_{number}")
                    seen.add(verdict.fault)
            tallies.append(tally)
            if progress is not None:
                progress(reader)
    finally:
        os.chdir(before)
    return tallies
