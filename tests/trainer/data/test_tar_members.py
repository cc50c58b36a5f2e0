"""Members of tars against Python's own reader, and examples against WebDataset's grouping."""

import io
import itertools
import re
import tarfile
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_expander

from tests.each import each
from tests.trainer.data.tars import digits, tar_bytes
from trainer.data.tar.members import TarDamage, key_and_extension, walk, walk_examples

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


SOUND = [tar_bytes(digits(0, 2), tar_format) for tar_format in FORMATS]


def reader(content: bytes) -> Any:
    return lambda start, end: content[start:end]


def archive(members: Sequence[tuple[bytes, str, bytes]], tar_format: int) -> bytes:
    """A tar of members with a type, a name and a content each."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as tar:
        for kind, name, content in members:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size, entry.mtime = kind, len(content), 1.5 if tar_format == tarfile.PAX_FORMAT else 1
            entry.linkname = "digits/0.png" if kind in (tarfile.LNKTYPE, tarfile.SYMTYPE) else ""
            tar.addfile(entry, io.BytesIO(content))
    return file.getvalue()


parts = st.text(alphabet="abßé._-", min_size=1, max_size=12).filter(lambda part: part not in (".", ".."))
names = st.lists(parts, min_size=1, max_size=14).map("/".join)
contents = st.binary(max_size=1100)
kinds = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE])


@given(st.lists(st.tuples(kinds, names, contents), max_size=6), st.sampled_from(FORMATS[1:]))
@settings(max_examples=30, deadline=None)
def test_members_are_those_that_python_finds(members: list[tuple[bytes, str, bytes]], tar_format: int) -> None:
    members = [(kind, name, data if kind == tarfile.REGTYPE else b"") for kind, name, data in members]
    content = archive(members, tar_format)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        expected = [(entry.name, entry.offset_data, entry.size, entry.isreg()) for entry in tar.getmembers()]
    found = [(member.name.rstrip("/"), *member[2:]) for member in walk(reader(content))]
    assert found == [(name.rstrip("/"), *rest) for name, *rest in expected]


@pytest.mark.parametrize("tar_format", FORMATS)
def test_members_of_each_format_begin_where_the_one_before_ends(tar_format: int) -> None:
    content = tar_bytes(digits(0, 3), tar_format)
    members = list(walk(reader(content)))
    assert [m.start for m in members[1:]] == [m.data + -(-m.size // 512) * 512 for m in members[:-1]]
    again = list(walk(reader(content), members[4].start, members[8].start, verify=False))
    assert again == members[4:8]


dotted = st.text(alphabet="ab._/", min_size=1, max_size=10).filter(lambda name: not name.startswith("/"))


@given(dotted)
@settings(max_examples=100, deadline=None)
def test_names_are_cut_as_webdataset_cuts_them(name: str) -> None:
    hidden = name.rpartition("/")[2].startswith(".")  # WebDataset takes d/.x for a member x of d/
    noted = re.match(r"__[^/]*__($|/)", name)  # and passes over these before it cuts a name
    key, extension = base_plus_ext(name)
    expected = None if key is None or extension is None or hidden or noted else (key, extension.lower())
    assert key_and_extension(name) == expected


def test_files_and_folders_of_the_oldest_format() -> None:
    content = archive([(tarfile.AREGTYPE, "a.png", b"1"), (tarfile.AREGTYPE, "a.b/", b"")], tarfile.USTAR_FORMAT)
    assert [(m.name, m.size, m.regular) for m in walk(reader(content))] == [("a.png", 1, True), ("a.b/", 0, False)]


def test_notes_about_the_tar_and_capitals() -> None:
    assert key_and_extension("__notes__/a.json") is None
    assert key_and_extension("__notes__") is None
    assert key_and_extension("a/b.SEG.Png") == ("a/b", "seg.png")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["png", "cls", "x.y"])), max_size=9))
@settings(max_examples=40, deadline=None)
def test_examples_are_those_of_webdataset(pairs: list[tuple[str, str]]) -> None:
    """Keys that come back later are examples of their own; two members of one extension in a row are refused."""
    files = [(tarfile.REGTYPE, f"{key}.{ext}", bytes([place])) for place, (key, ext) in enumerate(pairs)]
    content = archive([*files, (tarfile.DIRTYPE, "folder", b"")], tarfile.USTAR_FORMAT)
    runs = [list(run) for _, run in itertools.groupby(pairs, key=lambda pair: pair[0])]
    if any(len(set(run)) < len(run) for run in runs):
        with pytest.raises(TarDamage, match=r"holds \w\.[a-z.]+ twice in a row"):
            list(walk_examples(reader(content)))
        return
    source = [{"url": "x", "stream": io.BytesIO(content)}]
    expected = [
        (sample["__key__"], {name: value for name, value in sample.items() if name[0] != "_"})
        for sample in group_by_keys(tar_file_expander(source))
    ]
    found = [
        (example.key, {name: content[at : at + size] for name, (at, size) in example.members.items()})
        for example in walk_examples(reader(content))
    ]
    assert found == expected
    for example, (key, members) in zip(walk_examples(reader(content)), expected, strict=True):
        stretch = content[example.start : example.end]
        (alone,) = walk_examples(reader(stretch), 0, len(stretch))
        assert (alone.key, alone.check) == (key, example.check)
        assert {name: stretch[at : at + size] for name, (at, size) in alone.members.items()} == members


def test_a_cut_off_tar_is_refused_wherever_it_ends() -> None:
    content = SOUND[0]
    end = list(walk(reader(content)))[-1]
    mark = end.data + -(-end.size // 512) * 512
    for length in [*range(0, mark + 512, 331), mark]:
        with pytest.raises(TarDamage, match=r"cut off|no header"):
            list(walk(reader(content[:length])))
    assert len(list(walk(reader(content[: mark + 512])))) == 8


@each(
    ("content", "problem"),
    [
        (b"\x1f\x8b" + bytes(1000), "gzip has compressed it"),
        (b"BZh9" + bytes(1000), "bzip2 has compressed it"),
        (b"no tar at all" * 100, "no header of a tar member at byte 0"),
        (b"", "cut off"),
    ],
)
def test_what_is_no_tar_is_refused(content: bytes, problem: str) -> None:
    with pytest.raises(TarDamage, match=problem):
        list(walk(reader(content)))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damage_is_found_or_harmless(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(SOUND)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        for member in walk(reader(bytes(content)), verify=data.draw(st.booleans())):
            assert member.size >= 0
    except TarDamage:
        pass
