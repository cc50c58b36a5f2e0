"""The index of a folder of tokens: what its shards hold, known before any of them is opened."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue, NonNegativeInt, PositiveInt, model_validator

from netsim.foundation.settings import Section
from trainer.data.shard.index import FolderIndex

TOKENIZER = "tokenizer.json"
REMEDY = "write the folder again (python -m trainer encode-text)"
NUMPY_TYPES = {"uint8": "<u1", "uint16": "<u2", "uint32": "<u4"}
"""How numpy names the types of tokens in shards, which are little-endian everywhere."""

Split = Literal["train", "held_out"]
"""What a document belongs to, as `trainer.data.Split`."""
SPLITS: tuple[Split, ...] = ("train", "held_out")
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
    """Of its bytes."""


class TextSplit(Section):
    """The documents of one split, one behind the other, an end token behind each."""

    num_documents: PositiveInt
    num_bytes: PositiveInt
    """Of the documents in UTF-8, without what stands between them."""
    num_tokens: PositiveInt
    """With the end tokens."""
    shards: Annotated[tuple[TokenShard, ...], Field(min_length=1)]
    """In their order; a document may begin in one and end in the next."""

    @model_validator(mode="after")
    def _shards_add_up(self) -> TextSplit:
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
    """Of the tokens in every shard."""
    end_token: NonNegativeInt
    """What stands behind every document."""
    tokenizer: Sha256 | None = None
    """Of the file tokenizer.json in the folder; null: tokens are the bytes of UTF-8."""
    train: TextSplit
    held_out: TextSplit
    made_by: dict[str, JsonValue]
    """What decided every token: the options, and how many files and documents were left out."""

    @model_validator(mode="after")
    def _tokens_fit(self) -> TextIndex:
        if self.end_token >= self.vocabulary:
            raise ValueError(f"end_token: {self.end_token} is not below the vocabulary of {self.vocabulary}; {REMEDY}")
        if self.dtype != token_type(self.vocabulary):
            raise ValueError(f"dtype: {self.dtype} is not that of a vocabulary of {self.vocabulary}; {REMEDY}")
        return self

    @property
    def bytes_per_token(self) -> float:
        """Of the held-out documents, whose end tokens count as tokens."""
        return self.held_out.num_bytes / self.held_out.num_tokens
