"""A user's files as shards of tokens: what they hold, in which order, and the same bytes however they were made."""

import json
import random
import re
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import jsonschema
import pytest

from netsim.foundation.refusal import Refusal
from tests.each import each
from tests.forked import ROOT
from tests.trainer.commands import contents, refused
from tests.trainer.data.texts import STORIES, documents, encoded, json_lines, small_tokenizer, stories, texts_of_bytes
from trainer.__main__ import main
from trainer.data.text import encode as encode_module
from trainer.data.text.inputs import Place, chunks, listed_files
from trainer.data.text.tokens import ByteTokenizer, TextIndex, read_tokenizer, token_type

SCHEMA = json.loads((ROOT / "configs" / "schemas" / "text.schema.json").read_text())
GOLDEN = ROOT / "tests" / "files" / "text"


def encode(*words: object) -> int:
    return main(["encode-text", *map(str, words)])


def test_every_document_is_there_once_whole_and_in_one_split(tmp_path: Path) -> None:
    found = texts_of_bytes(encoded(tmp_path / "out", stories(tmp_path / "in")))
    assert sorted(found["train"] + found["held_out"]) == sorted(STORIES)
    assert 4 <= len(found["held_out"]) <= 24
    index = TextIndex.read(tmp_path / "out")
    assert (index.vocabulary, index.dtype, index.end_token) == (256, "uint8", 0)
    for split in (index.train, index.held_out):
        assert split.num_tokens == split.num_bytes + split.num_documents
    assert index.train.num_bytes == sum(len(text.encode()) for text in found["train"])


@pytest.mark.parametrize("num_lines", [30, 4000])
def test_of_one_file_the_end_is_held_out_behind_a_line(
    num_lines: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_chunks(monkeypatch, 1000)
    file = tmp_path / "book.txt"
    text = "".join(f"line {number} of a book\n" for number in range(num_lines))
    file.write_text(text)
    found = texts_of_bytes(encoded(tmp_path / "out", file, held_out=0.1))
    assert [len(found["train"]), len(found["held_out"])] == [1, 1]
    assert found["train"][0] + found["held_out"][0] == text
    assert found["train"][0].endswith("\n")
    assert 0 < len(found["held_out"][0]) <= max(0.1 * len(text), 25)


def test_of_one_line_the_end_is_held_out_behind_a_letter(tmp_path: Path) -> None:
    (tmp_path / "line.txt").write_text("é" * 500)
    found = texts_of_bytes(encoded(tmp_path / "out", tmp_path / "line.txt", held_out=0.3))
    assert found == {"train": ["é" * 350], "held_out": ["é" * 150]}


@each("kind", ["files", "lines"])
@each("share", [1e-9, 1 - 1e-9])
def test_the_share_that_a_refusal_names_works(
    kind: str, share: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = stories(tmp_path / "in") if kind == "files" else json_lines(tmp_path / "in.jsonl", STORIES[:5])
    words = ("encode-text", source, "--out", tmp_path / "out", "--workers", 1, "--held-out")
    named = re.search(r"use --held-out (\S+), or", refused(capsys, *words, share))
    assert named is not None
    assert main([*map(str, words), named[1]]) == 0


def test_a_larger_share_holds_out_the_same_documents_and_more(tmp_path: Path) -> None:
    folder = stories(tmp_path / "in")
    shares = (0.1, 0.3, 0.6)
    held = [set(texts_of_bytes(encoded(tmp_path / str(s), folder, held_out=s))["held_out"]) for s in shares]
    assert all(few < more for few, more in pairwise(held))


def test_the_bytes_depend_on_neither_the_place_nor_the_processes_nor_the_order_of_the_disk(tmp_path: Path) -> None:
    one = encoded(tmp_path / "one", stories(tmp_path / "in"))
    moved = tmp_path / "elsewhere" / "in"
    names = sorted(path.relative_to(tmp_path / "in") for path in (tmp_path / "in").rglob("*.txt"))
    random.Random(0).shuffle(names)
    for name in names:
        (moved / name).parent.mkdir(parents=True, exist_ok=True)
        (moved / name).write_bytes((tmp_path / "in" / name).read_bytes())
    assert contents(encoded(tmp_path / "two", moved, workers=2)) == contents(one)


@pytest.mark.parametrize("name", ["stories.jsonl", "stories.jsonl.gz"])
def test_lines_of_json_are_documents(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = json_lines(tmp_path / name, [*STORIES, ""], key="body")
    whole = encoded(tmp_path / "whole", path, field="body")
    found = texts_of_bytes(whole)
    assert sorted(found["train"] + found["held_out"]) == sorted(STORIES)
    assert [text for text in STORIES if text in found["train"]] == found["train"], "in the order of the file"
    small_chunks(monkeypatch, 100)
    assert contents(encoded(tmp_path / "in chunks", path, field="body")) == contents(whole)


def small_chunks(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(encode_module, "chunks", partial(chunks, size=size))


@pytest.mark.parametrize("text", ["é" * 500, "a line\n" * 60 + "b" * 400 + "€" * 50])
def test_a_long_document_is_cut_for_work_and_whole_in_the_shards(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "long.txt").write_text(text, encoding="utf-8")
    files = listed_files([tmp_path / "long.txt", stories(tmp_path / "in")], (), tmp_path / "out")
    size = 64
    pieces = [piece for chunk in chunks(files, size=size) for piece in chunk.pieces if files[piece.file].name[0] == "l"]
    content = text.encode()
    assert [piece.end for piece in pieces[:-1]] == [piece.first for piece in pieces[1:]]
    assert [piece.ends for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert max(piece.size for piece in pieces) <= 2 * size + 4
    for piece in pieces:
        content[piece.first : piece.end].decode("utf-8")
    small_chunks(monkeypatch, size)
    found = texts_of_bytes(encoded(tmp_path / "out", tmp_path / "long.txt", tmp_path / "in"))
    assert sorted(found["train"] + found["held_out"]) == sorted([*STORIES, text])


@pytest.mark.parametrize(("line", "size"), [("", 40), ("<|end|>", 8), ("<|end|>", 1 << 20)])
def test_a_line_ends_the_documents_of_a_file(
    tmp_path: Path, line: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [story.rstrip("\n") for story in STORIES]
    (tmp_path / "all.txt").write_text(f"\n{line}\n".join([*texts, ""]), encoding="utf-8")
    small_chunks(monkeypatch, size)
    found = texts_of_bytes(encoded(tmp_path / "out", tmp_path / "all.txt", document_end=line))
    assert sorted(found["train"] + found["held_out"]) == sorted(texts)
    assert [text for text in texts if text in found["train"]] == found["train"]
    assert len(found["held_out"]) > 3


@each("size", [30, 70, 500, 1 << 20])
def test_reading_goes_on_at_any_place_as_if_it_had_not_been_broken_off(tmp_path: Path, size: int) -> None:
    json_lines(tmp_path / "a.jsonl", STORIES[:9])
    json_lines(tmp_path / "b.jsonl.gz", STORIES[9:20])
    (tmp_path / "long.txt").write_text("many words " * 40, encoding="utf-8")
    (tmp_path / "empty.txt").touch()
    files = listed_files([tmp_path], (), tmp_path.parent / "out")
    straight = list(chunks(files, size=size))
    for number, chunk in list(enumerate(straight))[::3]:
        rest = list(chunks(files, chunk.after, size=size))
        assert [(one.pieces, one.after) for one in rest] == [(one.pieces, one.after) for one in straight[number + 1 :]]
    assert straight[-1].after == Place(len(files), 0) or not list(chunks(files, straight[-1].after, size=size))


@pytest.mark.parametrize("shard_tokens", [1, 200, 10_000])
def test_broken_off_anywhere_the_same_command_gives_the_same_bytes(
    tmp_path: Path, shard_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stories(tmp_path / "in")
    json_lines(folder / "more.jsonl.gz", [f"more {story}" for story in STORIES])
    small_chunks(monkeypatch, 300)
    monkeypatch.setattr(encode_module, "NOTED_EVERY_S", -1.0)
    straight = encoded(tmp_path / "straight", folder, shard_tokens=shard_tokens)
    taken = encode_module.ShardWriter.take

    def dying(self: encode_module.ShardWriter, *arguments: object) -> None:
        nonlocal steps
        steps -= 1
        taken(self, *arguments)  # pyright: ignore[reportArgumentType]
        if steps == 0:
            raise SystemExit  # with what was taken last written and not noted

    monkeypatch.setattr(encode_module.ShardWriter, "take", dying)
    for every in (1, 3, 8):
        out = tmp_path / f"every {every}"
        for _ in range(200):
            steps = every
            try:
                encoded(out, folder, shard_tokens=shard_tokens)
                break
            except SystemExit:
                every += 1
        assert contents(out) == contents(straight)


def test_a_tokenizer_makes_the_tokens(tmp_path: Path) -> None:
    tokenizer = small_tokenizer(tmp_path / "tokenizer.json")
    out = encoded(tmp_path / "out", stories(tmp_path / "in"), tokenizer=tokenizer)
    from tokenizers import Tokenizer

    reference = Tokenizer.from_file(str(tokenizer))
    expected = {tuple(reference.encode(story).ids) for story in STORIES}
    found = [tuple(text) for split in ("train", "held_out") for text in documents(out, split)]
    assert set(found) == expected
    index = TextIndex.read(out)
    assert (index.vocabulary, index.dtype) == (reference.get_vocab_size(), "uint16")
    assert index.end_token == reference.token_to_id("<|endoftext|>")
    assert (out / "tokenizer.json").read_bytes() == tokenizer.read_bytes()
    texts = [reference.decode(text, skip_special_tokens=False) for text in documents(out, "held_out")]
    assert index.bytes_per_token == sum(len(text.encode()) for text in texts) / index.held_out.num_tokens


def test_a_special_token_in_a_text_is_text(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(small_tokenizer(tmp_path / "tokenizer.json"))
    text = "a <|endoftext|> b é".encode()
    ids = tokenizer.encode(text)
    assert tokenizer.end_token() not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids[:-1]).startswith(b"a <|endoftext|> b"), "broken off inside a letter"
    assert [part.tolist() for part in tokenizer.encode_documents([text, b"x"])] == [ids, tokenizer.encode(b"x")]
    assert ByteTokenizer().decode(ByteTokenizer().encode(text)) == text


@each(("vocabulary", "dtype"), [(2, "uint8"), (256, "uint8"), (257, "uint16"), (65537, "uint32")])
def test_tokens_take_the_narrowest_type(vocabulary: int, dtype: str) -> None:
    assert token_type(vocabulary) == dtype


def test_what_is_no_text_in_a_folder_is_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stories(tmp_path / "in")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\xff")
    (folder / "nul.txt").write_bytes(b"a\0b")
    (folder / "long.bin").write_bytes(b"a" * (5 << 20) + b"\xff")
    (folder / ".hidden").write_text("secret")
    (folder / "empty.txt").touch()
    assert encode(folder, "--out", tmp_path / "out", "--held-out", 0.2, "--workers", 1) == 0
    output = capsys.readouterr()
    assert output.err.count("left out: ") == 3
    assert "nul.txt: holds NUL" in output.err
    assert "tokens/s" in output.out
    index = TextIndex.read(tmp_path / "out")
    assert index.made_by["left_out"] == 3
    assert index.train.num_documents + index.held_out.num_documents == len(STORIES)
    text = encoded(tmp_path / "text", folder / "part0", folder, endings=("0.txt", "1.txt"))
    assert TextIndex.read(text).made_by["left_out"] == 0


def test_bad_lines_are_refused_by_number_or_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = json_lines(tmp_path / "in.jsonl", STORIES)
    good = texts_of_bytes(encoded(tmp_path / "good", path))
    lines = path.read_bytes().splitlines(keepends=True)
    bad = [b"{no json\n", b'{"body": 1}\n', b"[1]\n", b'{"text": 3}\n']
    bad += [b'{"text": "\\ud800"}\n', b'{"text": "a\\u0000"}\n']
    for line in bad:
        path.write_bytes(b"".join([*lines[:7], line, *lines[7:]]))
        message = refused(capsys, "encode-text", path, "--out", tmp_path / "out", "--workers", 1)
        assert message.startswith(f"{path}: line 8: ")
        assert message.endswith("; mend the line, or leave such lines out with --skip-bad-lines")
        assert not (tmp_path / "out").exists()
    path.write_bytes(b"".join([*lines, *bad]))
    kept = encoded(tmp_path / "kept", path, skip_bad_lines=True)
    assert texts_of_bytes(kept) == good
    assert TextIndex.read(kept).made_by["left_out"] == len(bad)


def test_wrong_input_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stories(tmp_path / "in")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("{}")
    unknown = small_tokenizer(tmp_path / "unknown.json", end="<end>")
    json_lines(tmp_path / "cut.jsonl.gz", STORIES * 50)
    cut = (tmp_path / "cut.jsonl.gz").read_bytes()
    (tmp_path / "cut.jsonl.gz").write_bytes(cut[: len(cut) // 2])
    before = contents(tmp_path)
    out = ("--out", tmp_path / "new" / "out", "--workers", 1)
    cases = {
        (tmp_path / "none",): "none: file: cannot be read (No such file or directory)",
        (tmp_path / "empty",): "folder: contains no file",
        (folder, "--ending", ".py"): "folder: contains no file that ends in .py",
        (tmp_path / "latin.txt", folder, "--held-out", 0.2): "text: is not UTF-8 (byte 3 is 0xe9)",
        (tmp_path, "--ending", "latin.txt"): "--out: is inside",
        (folder, folder): "has the name in/part0/0.txt, as",
        (folder, "--held-out", 0): "--held-out: 0.0 is not a share",
        (folder, "--held-out", 1): "--held-out: 1.0 is not a share",
        (folder / "part0", "--held-out", 1e-9): "leaves none to the held_out split; use --held-out 0.",
        (folder, "--workers", 0): "--workers: 0 processes",
        (folder, "--out", tmp_path / "empty" / ".." / "broken.json"): "--out: is a file",
        (
            folder / "part0",
            "--held-out",
            0.3,
            "--out",
            folder / "part1",
        ): "other things than results of this verb (1.txt",
        (folder, "--document-end", "a\nb"): "--document-end: 'a\\nb' is more than a line",
        (folder, "--shard-tokens", 0): "--shard-tokens: 0",
        (folder, "--end-token", "</s>"): "--end-token: '</s>' is a token of a tokenizer",
        (folder, "--tokenizer", tmp_path / "gone.json"): "tokenizer: cannot be read",
        (folder, "--tokenizer", tmp_path / "broken.json"): "tokenizer: is not a tokenizer.json",
        (folder, "--tokenizer", unknown): "say which token it is with --end-token",
        (folder, "--tokenizer", unknown, "--end-token", "</s>"): "has no token '</s>'",
        (tmp_path / "cut.jsonl.gz",): "text: cannot be read (Compressed file ended",
    }
    for words, problem in cases.items():
        message = refused(capsys, "encode-text", *out, *words)
        assert problem in message, words
        assert "; " in message, words
    assert contents(tmp_path) == before
    encoded(tmp_path / "done", folder)
    assert "index.json: output: already exists" in refused(capsys, "encode-text", folder, "--out", tmp_path / "done")


def test_a_missing_library_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = small_tokenizer(tmp_path / "tokenizer.json")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    message = refused(
        capsys, "encode-text", stories(tmp_path / "in"), "--tokenizer", tokenizer, "--out", tmp_path / "out"
    )
    assert "needs the package tokenizers; pip install 'flowfabric[hf]'" in message


def test_what_other_files_or_options_began_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stories(tmp_path / "in")
    monkeypatch.setattr(encode_module, "NOTED_EVERY_S", -1.0)
    small_chunks(monkeypatch, 300)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(encode_module.EncodingProgress, "encoded", stopped)
        assert encode_module.run([folder], tmp_path / "out", held_out=0.2, workers=1) == 75
    with pytest.raises(Refusal, match=r"was begun with other files or options.*delete"):
        encoded(tmp_path / "out", folder, held_out=0.3)
    encoded(tmp_path / "out", folder, skip_bad_lines=True)
    assert texts_of_bytes(tmp_path / "out") == texts_of_bytes(encoded(tmp_path / "straight", folder))


def test_the_golden_folder_is_what_its_files_give(tmp_path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(json.loads((GOLDEN / "index.json").read_text()), SCHEMA)
    assert contents(encoded(tmp_path / "out", stories(tmp_path / "stories"))) == contents(GOLDEN)
    tokenized = encoded(tmp_path / "t", tmp_path / "stories", tokenizer=small_tokenizer(tmp_path / "tokenizer.json"))
    jsonschema.validate(json.loads((tokenized / "index.json").read_text()), SCHEMA)
