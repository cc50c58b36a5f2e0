"""Encoding of text, from the beginning or from where an earlier start was broken off."""

import hashlib
import itertools
import json
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from netsim.foundation.files import write_bytes, writing
from netsim.foundation.refusal import lies_in
from netsim.foundation.terminal import Terminal
from trainer.data.shard.index import SPLITS, Split, check_new
from trainer.data.text.documents import DocumentReader, EncodedChunk, draw_of
from trainer.data.text.inputs import Chunk, TextFile, chunks, end_of_share, listed_files
from trainer.data.text.shard_writer import JOURNAL, ShardWriter, discard, read_journal
from trainer.data.text.tokens import (
    TOKENIZER,
    TextIndex,
    read_tokenizer,
    sha256_of,
    token_type,
    tokenizer_content,
)


class EncodingProgress(Progress):
    """On a terminal: the share of the bytes of the files that are done, tokens a second, time left."""

    def __init__(self, sizes: Sequence[int], first: int) -> None:
        """Describes the work by sizes of all files, in bytes, and number of the file at which this start resumes."""
        speed = TextColumn("{task.fields[speed]}", markup=False)
        columns = TextColumn("encoding"), BarColumn(), TaskProgressColumn(), speed, TimeRemainingColumn()
        super().__init__(*columns, TextColumn("left"), console=Terminal(stderr=True), disable=not sys.stderr.isatty())
        self._before = [0, *itertools.accumulate(sizes)]
        self._encoded, self._begun = 0, time.perf_counter()
        self._task = self.add_task("", total=self._before[-1], completed=self._before[min(first, len(sizes))], speed="")

    def encoded(self, chunk: Chunk, tokens: int) -> None:
        self._encoded += tokens
        last = chunk.pieces[-1]
        done = self._before[last.file] + (last.end if last.read_bytes is None else last.read_bytes)
        speed = self._encoded / (time.perf_counter() - self._begun)
        self.update(self._task, completed=done, speed=f"{speed:,.0f} tokens/s")


NOTED_EVERY_S = 5.0
SHOWN_LEFT_OUT = 5
STOPPED = 75
"""Exit code of a verb that was stopped and resumes when it is started again."""


def run(
    paths: Sequence[Path],
    out: Path,
    *,
    tokenizer: Path | None = None,
    end_token: str | None = None,
    field: str = "text",
    document_end: str | None = None,
    endings: tuple[str, ...] = (),
    held_out: float = 0.01,
    shard_tokens: int = 1 << 28,
    skip_bad_lines: bool = False,
    workers: int | None = None,
) -> int:
    """Encodes files, or resumes; returns 0, or 75 if interrupted; ValueError names a wrong file or option of the verb.

    The shards are a function of the files and of all options but `workers`. Options that are None: bytes are the
    tokens, the end token is the tokenizer's usual one, each file is a document, and each core gets a process.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"--held-out: {held_out} is not a share of the documents; use for example 0.01")
    if document_end is not None and "\n" in document_end:
        raise ValueError(f"--document-end: {document_end!r} is more than a line; give what stands in one line")
    if shard_tokens < 1:
        raise ValueError(f"--shard-tokens: {shard_tokens} is less than 1; use for example 268435456")
    if workers is not None and workers < 1:
        raise ValueError(f"--workers: {workers} processes encode nothing; use 1 or more")
    check_new(out)
    encoder = read_tokenizer(tokenizer)
    content = None if tokenizer is None else tokenizer_content(tokenizer)
    digest = None if content is None else sha256_of(content)
    dtype, end = token_type(encoder.vocabulary), encoder.end_token(end_token)
    files = listed_files(paths, endings, out)
    separator = None if document_end is None else f"\n{document_end}\n".encode()
    plain = separator is None and not any(file.has_json_lines for file in files)
    cut = end_of_share(files[0], held_out) if plain and len(files) == 1 else None
    reader = DocumentReader(files, field, held_out, skip_bad_lines, separator, cut)
    made_by = {"field": field, "document_end": document_end, "held_out": held_out, "num_files": len(files)}
    if plain and cut is None:
        _check_splits(reader, Counter(reader.split_of(draw_of(file.name)) for file in files))
    journal = read_journal(out, _digest(files, {**made_by, "end_token": end}, shard_tokens, digest))
    made_by["skip_bad_lines"] = skip_bad_lines  # may be added later: it changes nothing that was written
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    writer = ShardWriter(out, dtype, shard_tokens, journal)
    begun = time.perf_counter()
    try:
        with writing(out):
            encode = partial(reader.encode, tokenizer=encoder, end_token=end)
            left_out = _write(encode, workers or len(os.sched_getaffinity(0)), reader, writer)
            splits = writer.finish()
            _check_splits(reader, {split: state.num_documents for split, state in splits.items()})
        index = TextIndex(
            vocabulary=encoder.vocabulary,
            dtype=dtype,
            end_token=end,
            tokenizer=digest,
            train=splits["train"].split,
            held_out=splits["held_out"].split,
            made_by={**made_by, "left_out": writer.journal.left_out},
        )
    except KeyboardInterrupt:
        writer.note()
        print(f"{out}: stopped; what is done is kept, and the same command resumes", file=sys.stderr)
        return STOPPED
    except BrokenProcessPool as error:
        writer.note()
        problem = "a process was killed, perhaps for want of memory; the same command with fewer resumes"
        raise ValueError(f"--workers: {problem}") from error
    except ValueError as error:
        if not writer.noted and not lies_in(error, out):
            writer.close()
            discard(out, made)
        raise
    finally:
        writer.close()
    if content is not None:
        write_bytes(out / TOKENIZER, content)
    index.write(out)
    (out / JOURNAL).unlink(missing_ok=True)
    _report(out, index, left_out, writer.journal.left_out, time.perf_counter() - begun)
    return 0


def _digest(files: Sequence[TextFile], made_by: dict[str, Any], shard_tokens: int, tokenizer: str | None) -> str:
    """Returns a digest of everything that decides the shards, as far as it is known before a file is read."""
    listed = [(file.name, file.size, file.changed_ns, file.must_be_text) for file in files]
    said = json.dumps([listed, made_by, shard_tokens, tokenizer], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def _write(
    encode: Callable[[Chunk], EncodedChunk], workers: int, reader: DocumentReader, writer: ShardWriter
) -> list[str]:
    """Encodes what is not yet written; returns the first reasons why files or lines were left out."""
    reasons: list[str] = []
    noted = time.perf_counter()
    coming = chunks(reader.files, writer.journal.place, document_end=reader.document_end)
    with (
        _encoded(encode, coming, workers) as encoded,
        EncodingProgress([file.size for file in reader.files], writer.journal.file) as shown,
    ):
        for chunk, result in encoded:
            writer.take(result, chunk.after)
            reasons += result.left_out[: SHOWN_LEFT_OUT - len(reasons)]
            shown.encoded(chunk, sum(len(part.tokens) for part in result.splits.values()))
            if time.perf_counter() - noted > NOTED_EVERY_S:
                writer.note()
                noted = time.perf_counter()
    return reasons


def _check_splits(reader: DocumentReader, num_documents: Mapping[Split, int]) -> None:
    """Refuses documents of which none are left to train on, or none held out; says which share leaves some to both."""
    for split in SPLITS:
        if num_documents.get(split):
            continue
        total = sum(num_documents.values())
        draws = sorted(reader.draws(chunks(reader.files, document_end=reader.document_end)))
        remedy = "give text in more documents (files, lines of JSON, or parts that --document-end ends)"
        if len(draws) > 1:
            low, high = draws[:2] if split == "held_out" else draws[-2:]
            remedy = f"use --held-out {_shortest_between(low, high)}, or {remedy}"
        raise ValueError(
            f"--held-out: the share {reader.held_out_share:g} of {total} document{'s' * (total != 1)} leaves none to "
            f"the {split} split; {remedy}"
        )


def _shortest_between(low: float, high: float) -> float:
    """Returns the decimal number of fewest digits that is above `low` and not above `high`."""
    for digits in range(1, 20):
        number = math.floor(high * 10**digits) / 10**digits
        if number > low:
            return number
    return high


def _report(out: Path, index: TextIndex, reasons: list[str], left_out: int, seconds: float) -> None:
    for reason in reasons:
        print(f"left out: {reason}", file=sys.stderr)
    if left_out > len(reasons):
        print(f"left out: {left_out} files or lines in all", file=sys.stderr)
    train, held_out = index.train, index.held_out
    tokens, size = train.num_tokens + held_out.num_tokens, train.num_bytes + held_out.num_bytes
    print(
        f"{out}: {tokens:,} tokens of a vocabulary of {index.vocabulary:,} ({index.dtype}) from {size:,} bytes in "
        f"{train.num_documents + held_out.num_documents:,} documents, of which {held_out.num_documents:,} with "
        f"{held_out.num_tokens:,} tokens are held out; {tokens / seconds:,.0f} tokens/s"
    )
    print(f"learn from it with data={{kind: text, path: {out}}}")


_encode: Callable[[Chunk], EncodedChunk]
"""Encodes a chunk; set before the worker processes are forked, which inherit it."""


def _begin(parent: int) -> None:
    """Makes a process of the pool ignore interrupts, and exit once the process that started it is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()


def _encoded_chunk(chunk: Chunk) -> EncodedChunk:
    return _encode(chunk)


@contextmanager
def _encoded(
    encode: Callable[[Chunk], EncodedChunk], coming: Iterator[Chunk], workers: int
) -> Iterator[Iterator[tuple[Chunk, EncodedChunk]]]:
    """While entered, gives the encoded chunks in their order; `workers` processes encode them."""
    global _encode
    _encode = encode
    if workers == 1:
        yield ((chunk, encode(chunk)) for chunk in coming)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _begin, (os.getpid(),))
    try:
        pool.submit(os.getpid).result()  # starts the processes before this one has threads, which no fork takes along
        yield _in_order(pool, coming, 2 * workers)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _in_order(pool: ProcessPoolExecutor, coming: Iterator[Chunk], most: int) -> Iterator[tuple[Chunk, EncodedChunk]]:
    """Yields the encoded chunks in their order, and holds no more chunks than keep the processes busy."""
    waiting: deque[tuple[Chunk, Future[EncodedChunk]]] = deque()
    for chunk in coming:
        waiting.append((chunk, pool.submit(_encoded_chunk, chunk)))
        if len(waiting) > most:
            first, encoded = waiting.popleft()
            yield first, encoded.result()
    for first, encoded in waiting:
        yield first, encoded.result()
