"""Tokens of text: bytes or those of a tokenizer.json, and the index of a folder of them."""

import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue, NonNegativeInt, PositiveInt, model_validator

from netsim.foundation.files import reading
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.data.shard.index import FolderIndex, Split

TOKENIZER = "tokenizer.json"
REMEDY = "write the folder again (python -m trainer encode-text)"
NUMPY_TYPES = {"uint8": "<u1", "uint16": "<u2", "uint32": "<u4"}
"""numpy's names of the tokens' types in shards; always little-endian."""

TokenType = Literal["uint8", "uint16", "uint32"]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def token_type(vocabulary: int) -> TokenType:
    """The narrowest type of tokens 0 to vocabulary - 1."""
    return "uint8" if vocabulary <= 1 << 8 else "uint16" if vocabulary <= 1 << 16 else "uint32"


class TokenShard(Section):
    """One file of tokens, without a header: nothing but little-endian integers."""

    file: Annotated[str, Field(pattern=r"^[\w-]+\.bin$")]
    """Its name in the folder."""
    num_tokens: PositiveInt
    sha256: Sha256
    """SHA-256 of the bytes of the file."""


class TextSplit(Section):
    """The documents of one split, concatenated, with an end token after each."""

    num_documents: PositiveInt
    num_bytes: PositiveInt
    """Bytes of the documents in UTF-8, without what stands between them."""
    num_tokens: PositiveInt
    """Tokens of the documents, end tokens included."""
    shards: Annotated[tuple[TokenShard, ...], Field(min_length=1)]
    """Shards in their order; a document may begin in one and end in the next."""

    @model_validator(mode="after")
    def _shards_add_up(self) -> Self:
        held = sum(shard.num_tokens for shard in self.shards)
        if held != self.num_tokens:
            raise ValueError(f"num_tokens: the shards hold {held}, not {self.num_tokens}; {REMEDY}")
        return self


class TextIndex(FolderIndex):
    """index.json: the shards of both splits, what their tokens are and how they were made."""

    remedy: ClassVar[str] = REMEDY
    remedy_of_absence: ClassVar[str] = "give a folder that python -m trainer encode-text has finished"

    format: Literal["flowfabric.text/1"] = "flowfabric.text/1"
    vocabulary: PositiveInt
    """Tokens are 0 to vocabulary - 1."""
    dtype: TokenType
    """Number format of the tokens in every shard."""
    end_token: NonNegativeInt
    """Token that stands behind every document."""
    tokenizer: Sha256 | None = None
    """SHA-256 of the file tokenizer.json in the folder; null: tokens are the bytes of UTF-8."""
    train: TextSplit
    held_out: TextSplit
    made_by: dict[str, JsonValue]
    """What decided every token: the options, and how many files and documents were left out."""

    @model_validator(mode="after")
    def _tokens_fit(self) -> Self:
        if self.end_token >= self.vocabulary:
            raise ValueError(f"end_token: {self.end_token} is not below the vocabulary of {self.vocabulary}; {REMEDY}")
        if self.dtype != token_type(self.vocabulary):
            raise ValueError(f"dtype: {self.dtype} is not that of a vocabulary of {self.vocabulary}; {REMEDY}")
        return self

    def split(self, split: Split) -> TextSplit:
        return self.train if split == "train" else self.held_out

    @property
    def bytes_per_token(self) -> float:
        """Bytes per token of the held-out documents, whose end tokens count as tokens."""
        return self.held_out.num_bytes / self.held_out.num_tokens


BYTE_VALUES = 256
END_TOKENS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
"""Usual names of the end token, for a tokenizer whose file has exactly one of them."""


class Tokenizer(Protocol):
    """Turns text into tokens, 0 to vocabulary - 1, and tokens into text."""

    vocabulary: int

    def end_token(self, name: str | None = None) -> int:
        """Returns the token that ends documents and no text has: `name`, or the usual one; ValueError if absent."""
        ...

    def encode(self, text: bytes) -> list[int]:
        """The tokens of a text in UTF-8, without an end token; ValueError if it is not UTF-8."""
        ...

    def encode_documents(self, texts: Sequence[bytes]) -> list[NDArray[np.integer[Any]]]:
        """The tokens of texts in UTF-8, in the type that shards have."""
        ...

    def decode(self, tokens: Sequence[int]) -> bytes:
        """Returns the UTF-8 text of tokens; a letter that is cut off gives its first bytes, or U+FFFD."""
        ...


class ByteTokenizer(Tokenizer):
    """Every byte of UTF-8 is a token. Byte 0, which no text contains, ends every document."""

    vocabulary = BYTE_VALUES

    def end_token(self, name: str | None = None) -> int:
        if name is not None:
            problem = f"{name!r} is a token of a tokenizer, and documents of bytes end with byte 0"
            raise ValueError(f"--end-token: {problem}; leave it out")
        return 0

    def encode(self, text: bytes) -> list[int]:
        """Returns the bytes as tokens; they need not be UTF-8."""
        return list(text)

    def encode_documents(self, texts: Sequence[bytes]) -> list[NDArray[np.integer[Any]]]:
        return [np.frombuffer(text, np.uint8) for text in texts]

    def decode(self, tokens: Sequence[int]) -> bytes:
        return bytes(tokens)


class FileTokenizer(Tokenizer):
    """A tokenizer.json of the library `tokenizers`. Special tokens in a text are taken as ordinary text."""

    def __init__(self, content: bytes, source: Path) -> None:
        # Documents are spread over processes by whoever encodes; threads beside them would fight over the cores.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            import tokenizers
        except ImportError as error:
            remedy = "pip install 'flowfabric[hf]', or leave the tokenizer out to learn from bytes"
            raise ValueError(f"{source}: needs the package tokenizers; {remedy}") from error
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
        except Exception as error:  # the library raises bare Exception
            problem = f"is not a tokenizer.json ({' '.join(str(error).split())})"
            raise Refusal(source, "tokenizer", problem, "save it with tokenizers' Tokenizer.save") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self._source, self._numbers = source, self._tokenizer.get_vocab(with_added_tokens=True)
        if not self._numbers:
            raise Refusal(source, "tokenizer", "has no tokens (0)", "train it first")
        self.vocabulary = max(self._numbers.values()) + 1
        self._type = np.dtype(token_type(self.vocabulary))

    def end_token(self, name: str | None = None) -> int:
        """Returns the token `name`, or by default the only one of `END_TOKENS` that the file has."""
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
        encodings = self._tokenizer.encode_batch_fast(decoded, add_special_tokens=False)
        return [np.array(encoding.ids, self._type) for encoding in encodings]

    def decode(self, tokens: Sequence[int]) -> bytes:
        """Returns the text of tokens, special tokens included."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=False).encode("utf-8")


@functools.lru_cache(maxsize=4)
def read_tokenizer(path: Path | None) -> Tokenizer:
    """Returns the tokenizer of a tokenizer.json, or that of bytes; raises ValueError if the library is missing."""
    return ByteTokenizer() if path is None else FileTokenizer(tokenizer_content(path), path)


def tokenizer_content(path: Path) -> bytes:
    with reading(path, "give a tokenizer.json", "tokenizer"):
        return path.read_bytes()


def sha256_of(content: bytes) -> str:
    """Returns the SHA-256 by which an index and a configuration identify a tokenizer."""
    return hashlib.sha256(content).hexdigest()
