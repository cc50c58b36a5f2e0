"""The index-tars verb: what it writes, what it refuses, and how it goes on."""

import itertools
import json
import time
from pathlib import Path

import braceexpand
import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.each import each, rows
from tests.trainer.commands import contents, refused
from tests.trainer.data.tars import digit_tars, digits, tar_bytes
from trainer.__main__ import main
from trainer.data.tar import indexing
from trainer.data.tar.files import expand_braces, find_tars, names_of
from trainer.data.tar.index import ROW
from trainer.data.tar.indexing import scan

GOLDEN = Path("tests/files/tars")
SCHEMA = json.loads(Path("configs/schemas/tars.schema.json").read_text())


def test_the_golden_index_is_written_again_to_the_byte(tmp_path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(json.loads((GOLDEN / "index" / "index.json").read_text()), SCHEMA)
    arguments = [str(GOLDEN / "digits-{000..001}.tar"), "--out", str(tmp_path / "index"), "--label", "json:name"]
    assert main(["index-tars", *arguments]) == 0
    assert contents(tmp_path / "index") == contents(GOLDEN / "index")
    rows = np.load(GOLDEN / "index" / "examples.npy", allow_pickle=False)
    assert (rows.dtype, rows.shape) == (ROW, (6,))
    assert rows["label"].tolist() == [0, 1, 2, 3, 4, 5]
    content = (GOLDEN / "digits-001.tar").read_bytes()
    assert content[rows["start"][3] :].startswith(b"digits/0003.png\0")


def test_a_start_that_was_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = digit_tars(tmp_path / "tars", tars=5, per_tar=4)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    main(["index-tars", pattern, "--out", str(whole)])
    scanned: list[str] = []
    interrupted = [False]

    def counted(url: str, name: str, label: str | None) -> object:
        if name == "digits-003.tar" and not interrupted[0]:
            interrupted[0] = True
            while (cut / "scans.jsonl").read_text().count("\n") < 4:
                time.sleep(0.01)
            raise KeyboardInterrupt
        scanned.append(name)
        return scan(url, name, label)

    monkeypatch.setattr(indexing, "scan", counted)
    assert main(["index-tars", pattern, "--out", str(cut), "--workers", "1"]) == 130
    with (cut / "scans.jsonl").open("a") as file:
        file.write('{"name": "digits-004.tar", "si')
    scanned.clear()
    assert main(["index-tars", pattern, "--out", str(cut), "--workers", "1"]) == 0
    assert scanned == ["digits-003.tar", "digits-004.tar"]
    assert contents(cut) == contents(whole)


def test_a_damaged_tar_is_named_and_the_others_are_not_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = digit_tars(tmp_path / "tars", tars=3, per_tar=4)
    bad, out = tmp_path / "tars" / "digits-002.tar", tmp_path / "index"
    sound = bad.read_bytes()
    bad.write_bytes(sound[:9000])
    for number in (3, 4):
        (tmp_path / "tars" / f"digits-00{number}.tar").write_bytes(b"")
    line = refused(capsys, "index-tars", tmp_path / "tars", "--out", out)
    assert "digits-002.tar: tar: is cut off: it ends before byte 9,216, where" in line
    assert "is due (and 2 more tars are damaged); fetch" in line
    line = refused(capsys, "index-tars", pattern, "--out", out, "--workers", 1)
    assert line.startswith(f"{bad}: tar: is cut off: it ends before byte 9,216, where")
    assert line.endswith(f"leave it out of the path; the scans of 2 sound tars are kept in {out}")
    bad.write_bytes(sound)
    scanned: list[str] = []
    monkeypatch.setattr(indexing, "scan", lambda *all_of_it: (scanned.append(all_of_it[1]), scan(*all_of_it))[1])
    assert main(["index-tars", pattern, "--out", str(out)]) == 0
    assert scanned == ["digits-002.tar"], "the scans of a path with more tars count as well"
    assert sorted(path.name for path in out.iterdir()) == ["examples.npy", "index.json"]


def test_scans_of_other_tars_or_labels_are_not_taken(tmp_path: Path) -> None:
    pattern = digit_tars(tmp_path / "tars", tars=2, per_tar=4)
    main(["index-tars", pattern, "--out", str(tmp_path / "whole")])
    stale = [json.dumps({"label": "cls"}), scan(str(tmp_path / "tars/digits-000.tar"), "digits-000.tar", "cls")]
    changed = stale[1].model_copy(update={"size": 5, "starts": (7,) * 4})
    for label, kept in (("cls", changed), ("txt", stale[1].model_copy(update={"labels": (9,) * 4}))):
        out = tmp_path / label
        out.mkdir()
        (out / "scans.jsonl").write_text(f"{json.dumps({'label': label})}\n{kept.model_dump_json()}\n")
        assert main(["index-tars", pattern, "--out", str(out), "--label", "cls"]) == 0
        assert contents(out) == contents(tmp_path / "whole")


WRONG = rows("""
{tars}/none.tar | none.tar: tar: cannot be read (No such file or directory); bring it back
{tars}/none-*.tar | path: {tars}/none-*.tar names no tar; give a folder of them or a pattern
{tars} {tars}/digits-000.tar | path: {tars}/digits-000.tar is named twice; name each tar once
s3://bucket/{{0..3}}.tar | nothing installed reads s3://
nope://bucket/0.tar | path: nope://bucket/0.tar: Protocol not known: nope; use a protocol that fsspec knows
{tars}/../text.tar | text.tar: tar: is cut off: it ends before byte 0,
{tars}/../small.tar.gz | gzip has compressed it, so that nothing in it can be found
{tars}/../empty.tar | path: the 1 tars hold no examples; name members KEY.EXTENSION
{tars} --label class | no example has a class in class (digits-000.tar: digits/0000: has no member
{tars} --label json:breed | json:breed cannot be read (KeyError: 'breed')); give another --label
{tars} --label png | png cannot be read (UnicodeDecodeError
{tars} --label : | --label: : is not a member; give cls, EXTENSION, json:FIELD or none
{tars} --label json:label --class-names {tars}/../two.txt | 2 names do not reach class 3
{tars} --label json:name --class-names {tars}/../two.txt | class_names: digit 0 and 3 more are
{tars} --class-names {tars}/../twice.txt | twice.txt names a twice; give each class a line of its own
{tars}/../mixed.tar | some labels are numbers (1), others names (cat); make them all the same
{tars}/../large.tar | cls is as large as 1234567, which is not a class; give another member
{tars} --workers 0 | --workers: 0 read nothing; give 1 or more
""")


@each(("options", "words"), WRONG)
def test_wrong_input_is_one_line_and_leaves_nothing(
    options: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fsspec")
    digit_tars(tmp_path / "tars", tars=1, per_tar=4)
    (tmp_path / "text.tar").write_text("no tar")
    (tmp_path / "small.tar.gz").write_bytes(b"\x1f\x8b" + bytes(600))
    (tmp_path / "empty.tar").write_bytes(bytes(10240))
    (tmp_path / "two.txt").write_text("a\nb\n")
    (tmp_path / "twice.txt").write_text("a\na\n")
    (tmp_path / "mixed.tar").write_bytes(tar_bytes([("0", {"cls": b"1"}), ("1", {"cls": b"cat"})]))
    (tmp_path / "large.tar").write_bytes(tar_bytes([("0", {"cls": b"1234567"})]))
    before = contents(tmp_path)
    arguments = [option.format(tars=tmp_path / "tars") for option in options.split()]
    line = refused(capsys, "index-tars", *arguments, "--out", tmp_path / "index")
    assert words.format(tars=tmp_path / "tars") in line
    after = contents(tmp_path)
    after = {path: content for path, content in after.items() if not path.startswith("index")}
    assert after == before
    assert "index/index.json" not in contents(tmp_path)


def test_an_index_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pattern = digit_tars(tmp_path / "tars", tars=1, per_tar=2)
    main(["index-tars", pattern, "--out", str(tmp_path / "index")])
    line = refused(capsys, "index-tars", pattern, "--out", tmp_path / "index")
    assert line == f"{tmp_path}/index/index.json: output: already exists; give another folder, or delete this one"


def test_examples_without_a_class_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples = [(key, {"png": b"", **({"cls": b"4"} if place else {})}) for place, (key, _) in enumerate(digits(0, 3))]
    (tmp_path / "x.tar").write_bytes(tar_bytes(examples))
    assert main(["index-tars", str(tmp_path), "--out", str(tmp_path / "index")]) == 0
    output = capsys.readouterr()
    assert output.out.endswith("3 examples in 1 tars, 5 classes; 2 have cls, png; 1 have png\n")
    assert (
        output.err
        == "1 have no class and will count as bad examples; x.tar: digits/0000: has no member cls, only png\n"
    )


pieces = st.sampled_from(["a", "x-", "{0..3}", "{08..11}", "{3..1}", "{a,b}", "{p,q{1,2}}", "{,z}", "/", ".tar"])


@given(st.lists(pieces, min_size=1, max_size=4).map("".join))
@settings(max_examples=60, deadline=None)
def test_braces_stand_for_what_they_do_in_bash(pattern: str) -> None:
    assert list(expand_braces(pattern)) == list(braceexpand.braceexpand(pattern))


def test_names_do_not_depend_on_where_the_tars_lie(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        digit_tars(tmp_path / folder, tars=2, per_tar=1)
    tars = [f"{name}/digits-00{number}.tar" for name, number in itertools.product("ab", range(2))]
    assert names_of(find_tars([f"{tmp_path}/{{a,b}}"])) == tars
    assert names_of([f"s3://bucket/train/{tar}" for tar in tars]) == tars
    assert names_of(["x/y/0.tar"]) == ["0.tar"]
    assert names_of(["0.tar", "a/0.tar"]) == ["0.tar", "a/0.tar"]
