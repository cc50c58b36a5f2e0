"""The encode-captions verb: captions of a data set, as vectors that a run reads."""

import gzip
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from netsim.foundation.files import replacing
from netsim.foundation.refusal import Refusal
from trainer.data import ImageFolderConfig
from trainer.data.companions import TEXTS, VECTORS, CaptionsIndex
from trainer.data.picture import picture_names
from trainer.data.shard.file import open_shard
from trainer.data.shard.index import INDEX, ShardIndex
from trainer.distributed.groups import Launch
from trainer.model.text_encoder import TOGETHER, TextEncoder

SPREAD = 1e-6
"""Standard deviation, relative to the mean, below which the values of all captions count as equal."""


def run(source: Path, encoder_dir: Path, out: Path, field: str, shards: Path | None = None) -> int:
    """Encodes every caption of a data set, in the order of `shards` (from the shards verb, same source) if given."""
    if (out / INDEX).exists():
        raise Refusal(out / INDEX, "output", "already exists", "give another folder, or delete this one")
    texts = captions_of(source, field)
    if shards is not None:
        texts = in_order_of(shards, texts)
    encoder = TextEncoder(encoder_dir, Launch.from_environment().device)
    chunks = range(0, len(texts), TOGETHER)
    encoded = [
        encoder.encode(texts[first : first + TOGETHER])
        for first in track(chunks, "encoding", disable=not sys.stderr.isatty())
    ]
    vectors = torch.cat(encoded)
    std, mean = torch.std_mean(vectors.double(), 0, correction=0)
    lines = "".join(f"{json.dumps(text, ensure_ascii=False)}\n" for text in texts)
    with replacing(out / TEXTS) as temporary:
        temporary.write_text(lines, encoding="utf-8")
    index = CaptionsIndex(
        num_captions=len(texts),
        width=encoder.width,
        shift=tuple(mean.tolist()),
        scale=tuple(std.where(std > SPREAD * (mean.abs() + 1), 1.0).tolist()),
        encoder=encoder.digest,
        texts=hashlib.sha256(lines.encode()).hexdigest()[:16],
    )
    with replacing(out / VECTORS) as temporary, temporary.open("wb") as file:
        np.save(file, index.standardised(vectors).half().numpy(), allow_pickle=False)
    index.write(out)
    print(f"{out}: {len(texts)} captions as vectors of {encoder.width}, by {encoder_dir}")
    return 0


def captions_of(source: Path, field: str) -> list[str]:
    """Captions of a text file (one a line), JSON lines, or texts beside pictures, that of example 0 first."""
    texts = list(_beside_pictures(source) if source.is_dir() else _lines(source, field))
    if not texts:
        raise Refusal(source, "captions", "are none", "give one for each example of the data")
    return texts


def in_order_of(shards: Path, texts: Sequence[str]) -> list[str]:
    """Captions of the examples of shards, in the order of their rows; `texts` are in the order of the source."""
    ordered: list[str] = []
    for entry in ShardIndex.read(shards).shards:
        arrays = open_shard(shards / entry.file)
        if "examples" not in arrays:
            remedy = "give a folder of the shards verb, or captions in the order of the shards without --shards"
            raise Refusal(shards / entry.file, "examples", "is missing", remedy)
        numbers = [int(arrays["examples"].row(row)) for row in range(entry.num_examples)]
        if max(numbers) >= len(texts):
            problem = f"names example {max(numbers)} of the source, and there are {len(texts)} captions"
            raise Refusal(shards / entry.file, "examples", problem, "give each example of the source a caption")
        ordered += [texts[number] for number in numbers]
    return ordered


def _beside_pictures(folder: Path) -> Iterator[str]:
    """The text files beside pictures, in the order in which data of kind image_folder number these."""
    settings = ImageFolderConfig.resolved({"path": folder})
    for name in picture_names(folder, settings["classes"]):
        path = (folder / name).with_suffix(".txt")
        text = " ".join(_read(path).split())
        if not text:
            raise Refusal(path, "caption", "is empty", f"describe {name} in it")
        yield text


def _lines(path: Path, field: str) -> Iterator[str]:
    for number, line in enumerate(_read(path).splitlines(), start=1):
        text: object = line
        if path.name.endswith((".jsonl", ".jsonl.gz")):
            try:
                text = json.loads(line)
            except ValueError as error:
                remedy = "give a JSON object a line"
                raise Refusal(path, f"line {number}", f"is not JSON ({error})", remedy) from error
            if isinstance(text, dict):
                if field not in text:
                    known = ", ".join(map(str, text)) or "nothing"
                    raise Refusal(path, f"line {number}, {field}", f"is missing (it has {known})", "give --field")
                text = text[field]
        if not isinstance(text, str) or not text.strip():
            raise Refusal(path, f"line {number}", f"contains no caption ({text!r})", "describe the example in words")
        yield text.strip()


def _read(path: Path) -> str:
    remedy = "give text in UTF-8: a file with a caption a line, or one beside each picture"
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return content.decode("utf-8-sig")
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Refusal(path, "file", f"cannot be read ({reason})", remedy) from error
    except UnicodeDecodeError as error:
        raise Refusal(path, "file", f"is not UTF-8 (byte {error.start})", remedy) from error
