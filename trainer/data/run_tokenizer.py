"""The tokenizer that the text of a run was encoded by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from netsim.foundation.refusal import Refusal
from trainer.data.mixture import MixtureConfig
from trainer.data.text.index import TOKENIZER
from trainer.data.text.tokenizer import ByteTokenizer, Tokenizer, read_tokenizer, sha256_of, tokenizer_content
from trainer.data.text_windows import TextConfig


def run_tokenizer(data: Any, folder: Path | None = None) -> Tokenizer:
    """Tokenizer of a run's prompts and samples; of bytes where `data` is no `TextConfig` with a tokenizer.

    `folder` has the run's tokenizer.json, as a checkpoint does; None: the file that `data` names.
    """
    data = _one(data)
    if not isinstance(data, TextConfig) or data.tokenizer is None:
        return ByteTokenizer()
    path = (data.path if folder is None else folder) / TOKENIZER
    _same_content(data, path)
    return read_tokenizer(path)


def tokenizer_file(data: Any) -> bytes | None:
    """The tokenizer.json that every checkpoint of a run keeps; None if the run learns no tokens of one."""
    data = _one(data)
    if not isinstance(data, TextConfig) or data.tokenizer is None:
        return None
    return _same_content(data, data.path / TOKENIZER)


def _one(data: Any) -> Any:
    """The first source of a mixture, whose tokenizer is that of all."""
    return data.parts[0] if isinstance(data, MixtureConfig) else data


def _same_content(data: TextConfig, path: Path) -> bytes:
    content = tokenizer_content(path)
    if sha256_of(content) != data.tokenizer:
        remedy = "bring back the one that the text was encoded by"
        raise Refusal(path, "data.tokenizer", f"has another SHA-256 than {data.tokenizer}", remedy)
    return content
