"""The index of tars: headers and labels of each are scanned once."""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError
from rich.progress import track

from netsim.foundation.files import writing
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.data.shard.index import check_new
from trainer.data.tar.files import find_tars, names_of, open_tar
from trainer.data.tar.index import ROW, MembersEntry, read_class_names, write_tar_index
from trainer.data.tar.members import Read, TarDamage, TarExample, read_ahead, walk_examples

LOCAL_BYTES, REMOTE_BYTES = 4 << 10, 1 << 20
"""Bytes of one read, which usually include the headers of the next members."""

MOST_LABEL_BYTES = 16 << 20
MOST_SHOWN = 200
"""Letters of a key, or of a wrong label, in messages."""

_LABEL = re.compile(r"([^:]+)(?::(.+))?")


class Scan(Section):
    """The contents of one tar; each list has an entry for each example."""

    name: str
    size: PositiveInt
    starts: tuple[NonNegativeInt, ...]
    ends: tuple[NonNegativeInt, ...]
    checks: tuple[NonNegativeInt, ...]
    labels: tuple[Annotated[int, Field(strict=True)] | str | None, ...]
    """The number or name of each example's class; None if it has none."""
    unlabelled: str | None
    """Why the first example without a class has none."""
    kinds: tuple[MembersEntry, ...]


def scan(url: str, name: str, label: str | None) -> Scan:
    """Reads the headers of a tar and the labels; raises Refusal on damage, Unreachable if the network keeps failing.

    `label` is the member that gives the class: ``EXTENSION`` with a number or a name in it, or ``EXTENSION:FIELD`` of
    JSON, where dots select nested fields. None if there are no classes.
    """
    tar = open_tar(url)
    read = read_ahead(tar.read, LOCAL_BYTES if tar.local else REMOTE_BYTES)
    examples: list[TarExample] = []
    labels: list[int | str | None] = []
    unlabelled: str | None = None
    try:
        for example in walk_examples(read):
            if example.end > tar.size:
                raise TarDamage(f"is cut off: {example.key} ends at byte {example.end:,} of {tar.size:,}")
            examples.append(example)
            value, reason = (None, None) if label is None else _label(example, read, label)
            labels.append(value)
            unlabelled = unlabelled or (reason and f"{name}: {example.key[:MOST_SHOWN]}: {reason}")
    except TarDamage as error:
        raise Refusal(url, "tar", str(error), "fetch or write it again, or leave it out of the path") from error
    except OSError as error:
        raise Refusal(url, "tar", f"cannot be read ({error.strerror})", "bring it back") from error
    kinds = ((tuple(sorted(example.members)), 1, example.key[:MOST_SHOWN]) for example in examples)
    return Scan(
        name=name,
        size=tar.size,
        starts=tuple(example.start for example in examples),
        ends=tuple(example.end for example in examples),
        checks=tuple(example.check for example in examples),
        labels=tuple(labels),
        unlabelled=unlabelled,
        kinds=_by_members(sorted(kinds, key=itemgetter(0))),
    )


def _by_members(kinds: Iterable[tuple[tuple[str, ...], int, str]]) -> tuple[MembersEntry, ...]:
    """Sums numbers of examples of the same extensions, in the order of the first of each."""
    counts: Counter[tuple[str, ...]] = Counter()
    firsts: dict[tuple[str, ...], str] = {}
    for extensions, num, first in kinds:
        counts[extensions] += num
        firsts.setdefault(extensions, first)
    return tuple(MembersEntry(extensions=one, num_examples=counts[one], first=firsts[one]) for one in counts)


def label_parts(label: str) -> tuple[str, str | None]:
    """Extension and field of the member that gives the class; raises ValueError if `label` names no such member."""
    scanned = _LABEL.fullmatch(label)
    if scanned is None:
        raise ValueError(f"--label: {label} is not a member; give cls, EXTENSION, json:FIELD or none")
    return scanned[1].lower().lstrip("."), scanned[2]


def _label(example: TarExample, read: Read, label: str) -> tuple[int | str | None, str | None]:
    """Returns the number or name of an example's class, or else the reason why it has none."""
    extension, field = label_parts(label)
    place = example.members.get(extension)
    if place is None:
        return None, f"has no member {extension}, only {', '.join(sorted(example.members))[:MOST_SHOWN]}"
    if place.size > MOST_LABEL_BYTES:
        return None, f"{extension} has {place.size:,} bytes, too many for a label"
    content = bytes(read(place.offset, place.offset + place.size))
    try:
        value = _inside(json.loads(content), field) if field else content.decode().strip()
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:MOST_SHOWN]}"
        return None, f"{label} cannot be read ({reason})"
    number = value if isinstance(value, int) and not isinstance(value, bool) else None
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value):
        number = int(value)
    if number is not None and 0 <= number < 2**31:
        return number, None
    if isinstance(value, str) and value and number is None:
        return value, None
    return None, f"{label} is {value!r:.200}, neither a number from 0 nor a name"


def _inside(document: Any, field: str) -> Any:
    for part in field.split("."):
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


SCANS = "scans.jsonl"
"""Scans kept until the index is written: the member that gives the class, then a scan per line."""
MOST_CLASSES = 1_000_000
MOST_KINDS = 1000
"""Most sets of members that examples may have."""


def run(paths: Sequence[str], out: Path, label: str | None, class_names: Path | None, workers: int) -> int:
    """Writes the index of tars, `label` as in :func:`scan`; ended scans are not repeated. Returns 0.

    `class_names` is a file with one class name a line; None: labels that are names also name the classes.
    """
    check_new(out)
    if label is not None:
        label_parts(label)
    if workers < 1:
        raise ValueError(f"--workers: {workers} read nothing; give 1 or more")
    given = () if class_names is None else read_class_names(class_names)
    urls = find_tars(paths)
    contents = _Contents(label)
    there = out.exists()
    names = names_of(urls)
    try:
        _scan_all(dict(zip(names, urls, strict=True)), out, label, workers, contents)
        index = write_tar_index(out, *contents.finished(names, given))
    except Refusal:
        raise  # what was scanned before a damaged tar stays
    except ValueError:
        contents.rows.clear()
        raise
    finally:
        if not contents.rows:
            (out / SCANS).unlink(missing_ok=True)
            if not there:
                with suppress(OSError):
                    out.rmdir()
    (out / SCANS).unlink()
    classes = f", {index.num_classes} classes" if index.num_classes else ""
    print(f"{out}: {index.num_examples:,} examples in {len(index.tars):,} tars{classes}; {index.extensions()}")
    if contents.unlabelled:
        count = int(sum((rows["label"] < 0).sum() for rows in contents.rows.values()))
        print(f"{count:,} have no class and will count as bad examples; {contents.unlabelled[0]}", file=sys.stderr)
    return 0


@dataclass
class _Contents:
    """Results of the scans of all tars, kept in compact arrays."""

    label: str | None
    rows: dict[str, NDArray[np.void]] = field(default_factory=dict)
    """Rows by tar; `names` numbers labels that are names until all are known."""
    sizes: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, tuple[MembersEntry, ...]] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    """Numbers of class names, in the order of first occurrence."""
    number: int | None = None
    """The first label that is a number."""
    unlabelled: list[str] = field(default_factory=list)
    """Why the first example without a label in each tar has none."""

    def take(self, scanned: Scan) -> None:
        rows = np.zeros(len(scanned.starts), ROW)
        rows["start"], rows["end"], rows["check"] = scanned.starts, scanned.ends, scanned.checks
        rows["label"] = [self._numbered(label) for label in scanned.labels]
        self.rows[scanned.name], self.sizes[scanned.name], self.kinds[scanned.name] = rows, scanned.size, scanned.kinds
        if scanned.unlabelled is not None:
            self.unlabelled.append(scanned.unlabelled)
        if len(rows) and len(self.rows) == 1:
            self.check()

    def check(self) -> None:
        """Refuses a label that has given no example a class by the end of the first tar."""
        if self.label is not None and max(rows["label"].max(initial=-1) for rows in self.rows.values()) < 0:
            remedy = "give another --label (cls, EXTENSION, json:FIELD), or --label none"
            raise ValueError(f"--label: no example has a class in {self.label} ({self.unlabelled[0]}); {remedy}")

    def _numbered(self, label: int | str | None) -> int:
        if label is None:
            return -1
        if isinstance(label, int):
            self.number = label if self.number is None else self.number
            return label
        return self.names.setdefault(label, len(self.names))

    def finished(self, tars: Sequence[str], given: tuple[str, ...]) -> tuple[NDArray[np.void], dict[str, object]]:
        """Returns all rows, in the order of the tars, and the index's other fields; `given` class names come first."""
        rows = np.concatenate([self.rows[tar] for tar in tars])
        if not len(rows):
            raise ValueError(f"path: the {len(tars)} tars hold no examples; name members KEY.EXTENSION")
        members = self._members(tars)
        if self.label is None and given:
            raise ValueError(f"class_names: {len(given)} names without labels; give the member that has the class")
        num_classes, class_names = (0, ()) if self.label is None else self._classes(rows, given)
        return rows, {
            "label": self.label,
            "num_classes": num_classes,
            "class_names": class_names,
            "members": members,
            "tars": [{"name": tar, "size": self.sizes[tar], "num_examples": len(self.rows[tar])} for tar in tars],
        }

    def _classes(self, rows: NDArray[np.void], given: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
        """Number and names of the classes; renumbers labels that were names."""
        labels = rows["label"]
        self.check()
        if self.names and self.number is not None:
            problem = f"some labels are numbers ({self.number}), others names ({next(iter(self.names))})"
            raise ValueError(f"--label: {problem}; make them all the same")
        if self.names:
            names = given or tuple(sorted(self.names))
            unknown = [name for name in self.names if name not in set(names)]
            if unknown:
                raise ValueError(f"class_names: {unknown[0]} and {len(unknown) - 1} more are missing; add them")
            places = {name: number for number, name in enumerate(names)}
            numbers = np.array([*(places[name] for name in self.names), -1])  # label -1 is the last
            labels[:] = numbers[labels]
            return len(names), names
        most = int(labels.max())
        if given and most >= len(given):
            raise ValueError(f"class_names: {len(given)} names do not reach class {most}; name all")
        if most >= MOST_CLASSES:
            raise ValueError(f"--label: {self.label} is as large as {most}, which is not a class; give another member")
        return len(given) or most + 1, given

    def _members(self, tars: Sequence[str]) -> tuple[MembersEntry, ...]:
        counted = ((one.extensions, one.num_examples, f"{tar}: {one.first}") for tar in tars for one in self.kinds[tar])
        kinds = _by_members(counted)
        if len(kinds) > MOST_KINDS:
            problem = f"the examples have {len(kinds):,} different sets of members, such as those of "
            firsts = f"{kinds[0].first} and {kinds[1].first}"
            raise ValueError(f"path: {problem}{firsts}; what follows the first dot of a name must say what a member is")
        return tuple(sorted(kinds, key=lambda kind: kind.extensions))


def _scan_all(tars: Mapping[str, str], out: Path, label: str | None, workers: int, contents: _Contents) -> None:
    """Scans all tars of which no scan is kept; those that are damaged are named when the others have been read."""
    for kept in _kept(out / SCANS, label, tars):
        contents.take(kept)
    left = [name for name in tars if name not in contents.rows]
    damaged: dict[str, Refusal] = {}
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        with (out / SCANS).open("a", encoding="utf-8") as file, ThreadPoolExecutor(workers) as threads:
            if file.tell() == 0:
                file.write(json.dumps({"label": label}) + "\n")
            coming = {threads.submit(scan, tars[name], name, label): name for name in left}
            shown = track(as_completed(coming), "reading headers", len(coming), disable=not sys.stderr.isatty())
            try:
                for future in shown:
                    try:
                        scanned = future.result()
                    except Refusal as error:
                        damaged[coming[future]] = error
                        continue
                    file.write(scanned.model_dump_json() + "\n")
                    file.flush()
                    contents.take(scanned)
            finally:
                threads.shutdown(wait=False, cancel_futures=True)
    if damaged:
        first = damaged[min(damaged)]
        more = f" (and {len(damaged) - 1} more tars are damaged)" if len(damaged) > 1 else ""
        kept = f"; the scans of {len(contents.rows)} sound tars are kept in {out}" if contents.rows else ""
        raise Refusal(first.file, first.field, first.problem + more, first.remedy + kept) from first


def _kept(path: Path, label: str | None, tars: Mapping[str, str]) -> Iterator[Scan]:
    """Yields the scans of an earlier start that still hold: with the same label, of tars of unchanged size."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError):
        return
    whole = [line for line in lines if line.endswith("\n")]
    if not whole or whole[0] != json.dumps({"label": label}) + "\n":
        path.unlink()
        return
    if len(whole) < len(lines):
        path.write_text("".join(whole), encoding="utf-8")
    for line in whole[1:]:
        try:
            kept = Scan.model_validate_json(line)
        except ValidationError:
            continue
        if kept.name in tars and open_tar(tars[kept.name]).size == kept.size:
            yield kept
