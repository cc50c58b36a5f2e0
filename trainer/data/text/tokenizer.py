"""Between text and tokens: bytes as they are, or a Hugging Face tokenizer.json."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from netsim.foundation.refusal import Refusal
from trainer.data.text.index import token_type

BYTE_VALUES = 256
END_TOKENS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
"""What tokenizers call the end of a document, for those whose file has exactly one of them."""


class Tokenizer(Protocol):
    """Makes tokens of text and text of tokens.

    Attributes:
        vocabulary: tokens are 0 to vocabulary - 1.
    """

    vocabulary: int

    def end_token(self, name: str | None = None) -> int:
        """The token that stands behind every document and comes from no text.

        Args:
            name: its text; None: the usual one.

        Raises:
            ValueError: there is no such token.
        """
        ...

    def encode(self, text: bytes) -> list[int]:
        """The tokens of a text, without an end token.

        Args:
            text: UTF-8.

        Raises:
            ValueError: it is not UTF-8.
        """
        ...

    def encode_documents(self, texts: Sequence[bytes]) -> list[NDArray[np.integer[Any]]]:
        """The tokens of texts in UTF-8, in the type that shards have."""
        ...

    def decode(self, tokens: Sequence[int]) -> bytes:
        """The text of tokens; where it breaks off inside a letter, what there is of it, or U+FFFD."""
        ...


class ByteTokenizer(Tokenizer):
    """Every byte of UTF-8 is a token. Byte 0, which no text holds, stands behind every document."""

    vocabulary = BYTE_VALUES

    def end_token(self, name: str | None = None) -> int:
        if name is not None:
            problem = f"{name!r} is a token of a tokenizer, and documents of bytes end with byte 0"
            raise ValueError(f"--end-token: {problem}; leave it out")
        return 0

    def encode(self, text: bytes) -> list[int]:
        """Any bytes are taken."""
        return list(text)

    def encode_documents(self, texts: Sequence[bytes]) -> list[NDArray[np.integer[Any]]]:
        return [np.frombuffer(text, np.uint8) for text in texts]

    def decode(self, tokens: Sequence[int]) -> bytes:
        return bytes(tokens)


class FileTokenizer(Tokenizer):
    """A tokenizer of the library `tokenizers`. What looks like a special token in a text is taken as ordinary text.

    Raises:
        ValueError: the library is missing.
        Refusal: `content`, of a ``tokenizer.json``, is no such tokenizer.
    """

    def __init__(self, content: bytes, source: Path) -> None:
        # Documents are spread over processes by whoever encodes; threads beside them would fight over the cores.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            import tokenizers
        except ImportError as error:
            raise ValueError(
                f"{source}: needs the package tokenizers; pip install 'flowfabric[hf]', or leave the tokenizer out to "
                "learn from bytes"
            ) from error
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
        except Exception as error:  # the library raises bare Exception
            problem = " ".join(str(error).split())
            raise Refusal(
                source, "tokenizer", f"is not a tokenizer.json ({problem})", "save it with tokenizers' Tokenizer.save"
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self._source, self._numbers = source, self._tokenizer.get_vocab(with_added_tokens=True)
        if not self._numbers:
            raise Refusal(source, "tokenizer", "has no tokens (0)", "train it first")
        self.vocabulary = max(self._numbers.values()) + 1
        self._type = np.dtype(token_type(self.vocabulary))

    def end_token(self, name: str | None = None) -> int:
        """The usual one is that of `END_TOKENS` which the file has."""
        if name is not None:
            if name not in self._numbers:
                problem = f"has no token {name!r}"
                raise Refusal(self._source, "tokenizer", problem, "give the text of one of its tokens as --end-token")
            return self._numbers[name]
        known = [usual for usual in END_TOKENS if usual in self._numbers]
        if len(known) != 1:
            problem = f"has {' and '.join(known) or 'none of ' + ', '.join(END_TOKENS)} for the end of a document"
            raise Refusal(self._source, "tokenizer", problem, "say which token it is with --end-token")
        return self._numbers[known[0]]

    def encode(self, text: bytes) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8"), add_special_tokens=False).ids

    def encode_documents(self, texts: Sequence[bytes]) -> list[NDArray[np.integer[Any]]]:
        decoded = [text.decode("utf-8") for text in texts]
        return [
            np.array(encoding.ids, self._type)
            for encoding in self._tokenizer.encode_batch_fast(decoded, add_special_tokens=False)
        ]

    def decode(self, tokens: Sequence[int]) -> bytes:
        """Special tokens are shown."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=False).encode("utf-8")


@functools.lru_cache(maxsize=4)
def read_tokenizer(path: Path) -> FileTokenizer:
    """Reads a tokenizer.json; raises ValueError if the library is missing."""
    return FileTokenizer(tokenizer_content(path), path)


def tokenizer_content(path: Path) -> bytes:
    """The bytes of a tokenizer.json."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Refusal(path, "tokenizer", f"cannot be read ({error.strerror})", "give a tokenizer.json") from error


def sha256_of(content: bytes) -> str:
    """What an index and a configuration call a tokenizer."""
    return hashlib.sha256(content).hexdigest()
