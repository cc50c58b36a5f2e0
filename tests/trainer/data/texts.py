"""Small texts, tokenizers and folders of tokens."""

import gzip
import json
from pathlib import Path

import numpy as np

from trainer.data import SPLITS, Split, TextConfig
from trainer.data.text.encode import run
from trainer.data.text.tokens import NUMPY_TYPES, TextIndex

STORIES = [f"Story {number}: {'é' * (number % 5)}{'la ' * (number % 17)}end.\n" for number in range(60)]


def stories(folder: Path) -> Path:
    """Sixty files of text in folders."""
    for number, story in enumerate(STORIES):
        path = folder / f"part{number % 3}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(story, encoding="utf-8")
    return folder


def json_lines(path: Path, texts: list[str], key: str = "text") -> Path:
    """A file with a JSON object a line, compressed if its name ends so."""
    content = "".join(json.dumps({key: text, "number": number}) + "\n" for number, text in enumerate(texts)).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


def small_tokenizer(path: Path, vocabulary: int = 300, end: str = "<|endoftext|>") -> Path:
    """A byte-level BPE tokenizer trained on the stories."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[end], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(STORIES, trainer)
    tokenizer.save(str(path))
    return path


def encoded(out: Path, *paths: Path, **options: object) -> Path:
    """Encodes in this process, a fifth of the documents held out unless the options say otherwise."""
    assert run(paths, out, **{"held_out": 0.2, "workers": 1, **options}) == 0  # pyright: ignore[reportArgumentType]
    return out


def tokens(folder: Path, split: Split) -> list[int]:
    """All tokens of a split, read without the code that is tested."""
    index = TextIndex.read(folder)
    dtype = NUMPY_TYPES[index.dtype]
    return np.concatenate([np.fromfile(folder / s.file, dtype) for s in index.split(split).shards]).tolist()


def documents(folder: Path, split: Split) -> list[list[int]]:
    """The tokens of each document of a split."""
    end = TextIndex.read(folder).end_token
    found: list[list[int]] = [[]]
    for token in tokens(folder, split):
        if token == end:
            found.append([])
        else:
            found[-1].append(token)
    assert found[-1] == [], "an end token behind every document"
    return found[:-1]


def texts_of_bytes(folder: Path) -> dict[Split, list[str]]:
    """The documents of a folder of bytes."""
    return {split: [bytes(text).decode() for text in documents(folder, split)] for split in SPLITS}


def config(folder: Path, **settings: object) -> TextConfig:
    """The section of a run that learns from a folder, completed from its index."""
    return TextConfig.model_validate(TextConfig.resolved({"kind": "text", "path": folder, **settings}))
