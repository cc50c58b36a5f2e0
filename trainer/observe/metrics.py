"""metrics.jsonl: a line for each logged step, from which all views of a run are drawn."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from netsim.foundation.documents import parse_json
from netsim.foundation.files import write_text, writing
from netsim.foundation.refusal import Refusal
from trainer.observe.protocol import MACHINE, Sink, differs_between_equal_runs

_LONGEST_RECORD = 2**16


@dataclass(frozen=True)
class Record:
    """Figures of a step by name, NaN if not finite; under `time.` those of the clock, `memory.` of the machine."""

    step: int
    values: Mapping[str, float]


class MetricsFile(Sink):
    """Appends to metrics.jsonl, in an existing folder, and hands every line to the system before it returns.

    A line is a JSON object with sorted keys: `step`, the figures, and the objects `time` and `memory` of those that
    depend on the clock and the machine. Two equal runs therefore write equal lines but for these two. A figure that is
    not finite is written as null. Earlier lines are kept: cut them with `truncate_after` first.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with writing(path):
            self._file = path.open("ab", buffering=0)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        assert not {"step", *MACHINE} & values.keys(), "step, time and memory are the record's own keys"
        record: dict[str, Any] = {"step": step}
        for name, value in values.items():
            if differs_between_equal_runs(name):
                group, _, word = name.partition(".")
                record.setdefault(group, {})[word] = _finite(value)
            else:
                record[name] = _finite(value)
        line = (json.dumps(record, sort_keys=True, allow_nan=False) + "\n").encode()
        with writing(self._path):
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[Record]:
    """Reads a metrics file, in rising order of steps."""
    lines = _lines(path)
    if lines and not lines[-1].endswith("\n"):
        raise _refusal(path, len(lines), "record", "it is cut off", lines[-1], "resume the run, which trims it")
    records = [_parse(path, number, line) for number, line in enumerate(lines, start=1)]
    for number, (earlier, later) in enumerate(pairwise(records), start=2):
        if later.step <= earlier.step:
            raise _refusal(path, number, "step", f"it does not follow step {earlier.step}", later.step)
    return records


def last_step(path: Path) -> int:
    """The last step of a metrics file, which may be growing, by its end alone; 0 if none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LONGEST_RECORD))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return 0
    return _parse(path, len(lines), lines[-1].decode()).step if lines else 0


def truncate_after(path: Path, step: int) -> None:
    """Cuts the file, if there is one, back to the steps up to and including `step`; 0 keeps nothing.

    A last line that was cut off while it was written is dropped too. The file is replaced in one move.
    """
    if not path.exists():
        return
    lines = [line for line in _lines(path) if line.endswith("\n")]
    kept = [line for number, line in enumerate(lines, start=1) if _parse(path, number, line).step <= step]
    write_text(path, "".join(kept))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _lines(path: Path) -> list[str]:
    remedy = "give the metrics.jsonl of a run"
    try:
        return list(StringIO(path.read_bytes().decode("utf-8")))
    except OSError as error:
        raise Refusal(path, "metrics file", f"it cannot be read ({error.strerror})", remedy) from error
    except UnicodeDecodeError as error:
        raise Refusal(path, "metrics file", f"it is not UTF-8 (byte {error.start})", remedy) from error


def _parse(path: Path, number: int, line: str) -> Record:
    try:
        content: Any = parse_json(line, parse_constant=_no_number)
    except ValueError as error:
        raise _refusal(path, number, "record", "it is not JSON", line) from error
    if not isinstance(content, dict):
        raise _refusal(path, number, "record", "it is not an object", content)
    step = content.pop("step", None)
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise _refusal(path, number, "step", "it is not a whole number of 0 or more", step)
    figures = dict(content)
    for group in MACHINE:
        words = figures.pop(group, {})
        if not isinstance(words, dict):
            raise _refusal(path, number, group, "it is not an object", words)
        figures.update({f"{group}.{word}": value for word, value in words.items()})
    return Record(step, {name: _figure(path, number, name, value) for name, value in figures.items()})


def _figure(path: Path, number: int, name: str, value: object) -> float:
    if value is None:
        return math.nan
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise _refusal(path, number, name, "it is neither a finite number nor null", value)
    return float(value)


def _refusal(
    path: Path, number: int, field: str, problem: str, value: object, remedy: str = "correct or remove this line"
) -> Refusal:
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    return Refusal(path, f"line {number}: {field}", f"{problem} ({shown})", remedy)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")
