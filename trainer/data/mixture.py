"""Several data sets that a run learns from together, each at a share of its own."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import BeforeValidator, Field, PositiveInt, model_validator
from torch import Tensor

from netsim.foundation.documents import JsonFile
from netsim.foundation.refusal import nearest, prefixed
from netsim.foundation.settings import Section, by_kind
from trainer.data.derived import Revealed, counts_of
from trainer.data.kinds import AnyOneConfig, OneConfig
from trainer.data.order import RAREST
from trainer.data.pairs import PairsConfig
from trainer.data.protocol import (
    SOURCE_BIT,
    SOURCE_BITS,
    BadExamples,
    Batch,
    Dataset,
    Mix,
    Split,
    data_points_up_to,
    id_of,
    source_of,
)
from trainer.data.shard.index import resolved_inside
from trainer.data.shards import latents_of

TOLERANCE = 1e-6
"""Largest deviation of the sum of shares from 1."""

Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]
"""Name of a source, which becomes the suffix of its metrics."""


class MixtureFile(JsonFile):
    """Shares of sources, and the figures by which they were chosen."""

    remedy: ClassVar[str] = "write it again, or give the shares in the configuration"

    format: Literal["flowfabric.mixture/1"]
    shares: Annotated[dict[Name, Share], Field(min_length=1)]
    """Share of the positions of training that each source takes; together 1."""
    figures: dict[str, Any] | None = None
    """Figures by which the shares were chosen, for display."""

    @model_validator(mode="after")
    def _make_one(self) -> Self:
        check_sum(self.shares)
        return self


def check_sum(shares: dict[str, float]) -> None:
    """Refuses, with a ValueError, shares whose sum is not 1."""
    if abs((total := sum(shares.values())) - 1) > TOLERANCE:
        scaled = ", ".join(f"{name}: {share / total:.4g}" for name, share in shares.items()) if total else "{NAME: 1}"
        raise ValueError(f"shares: sum to {total:g}, not to 1; write such as {{{scaled}}}")


LISTED = 50_000
"""Examples of a source from which on examples of the mixture are not listed."""


Shares = Annotated[
    dict[str, Share] | None,
    BeforeValidator(lambda shares: shares, json_schema_input_type=dict[str, Share] | Path | None),
]
"""Shares, or a file of them; the file is read before validation, and the schema allows it."""


SHARED = {
    "shape": "give examples of one shape",
    "vocabulary": "encode all text by one tokenizer",
    "tokenizer": "encode all text by one tokenizer",
    "alphabet": "give each the data.alphabet of all letters",
    "num_classes": "give sources of the same classes, or set labels: source",
}
"""Facts that all sources must share, each with a remedy."""


class MixtureConfig(Section):
    """Several data sets in one: each position of training takes an example of one of them.

    Which one depends on the seed and the position alone, and each source is dealt in shuffled epochs of its own. The
    held-out examples are those of all sources, and the metrics have the loss of each besides that of all.
    """

    kind: Literal["mixture"] = "mixture"
    sources: Annotated[
        dict[Name, OneConfig],
        Field(min_length=1, max_length=2**SOURCE_BITS, json_schema_extra={"x-values": "mapping to sections, as data"}),
    ]
    """The data sets by names of letters, digits and underscores; their examples have one shape."""
    shares: Shares = None
    """Share of the positions of training that each source takes, such as {photos: 0.7, drawings: 0.3}, or a
    mixture.json; null: in proportion to its number of training examples."""
    labels: Annotated[Literal["own", "source"], Field(exclude_if=lambda labels: labels == "own")] = "own"
    """own: labels are those of the sources, which have the same classes; source: the class of an example is its source.
    """
    size: Annotated[PositiveInt | None, Field(exclude_if=lambda size: size is None)] = None
    """Training examples in all, divided among the sources by their shares with largest remainders. Of each source they
    are the first of a fixed shuffle, so that a larger size contains a smaller one. null: every example of each. All
    held-out examples stay."""

    @classmethod
    def resolved(cls, document: dict[str, Any]) -> dict[str, Any]:
        sources = document.get("sources")
        if not isinstance(sources, dict):
            return document
        return {**document, "sources": {name: _resolved(name, source) for name, source in sources.items()}}

    @property
    def parts(self) -> tuple[AnyOneConfig, ...]:
        return tuple(self.sources.values())

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.parts[0].shape)

    @property
    def num_classes(self) -> int:
        """Number of classes of every source, or number of sources where the sources are the classes."""
        return self.parts[0].num_classes if self.labels == "own" else len(self.parts)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes 0, 1, ...: of the first source that has some, or the names of the sources."""
        if self.labels == "source":
            return tuple(self.sources)
        return next((names for part in self.parts if (names := tuple(part.class_names))), ())

    @property
    def vocabulary(self) -> int | None:
        """Size of the vocabulary of sources that are text; None for other sources."""
        return getattr(self.parts[0], "vocabulary", None)

    @property
    def tokenizer(self) -> str | None:
        """SHA-256 of the tokenizer of sources that are text; None if tokens are bytes, or sources are no text."""
        return getattr(self.parts[0], "tokenizer", None)

    @property
    def alphabet(self) -> str:
        """Letters of sources that are sequences; empty for other sources."""
        return getattr(self.parts[0], "alphabet", "")

    @property
    def bytes_per_token(self) -> tuple[float, ...]:
        """Bytes per token in the held-out documents of each source that is text; 1 for other sources."""
        return tuple(getattr(part, "bytes_per_token", 1.0) for part in self.parts)

    @model_validator(mode="before")
    @classmethod
    def _shares_may_be_in_a_file(cls, document: Any) -> Any:
        if not (isinstance(document, dict) and isinstance(document.get("shares"), str | Path)):
            return document
        with prefixed("shares: "):
            return {**document, "shares": MixtureFile.read(Path(document["shares"])).shares}

    @model_validator(mode="after")
    def _sources_fit_together(self) -> Self:
        first_name, first = next(iter(self.sources.items()))
        for name, source in self.sources.items():
            if isinstance(source, PairsConfig):
                raise ValueError(
                    f"sources.{name}.kind: pairs have source points of their own, and a mixture deals examples alone; "
                    "give images, points or text"
                )
            if len(getattr(source, "shapes", ())) > 1:
                raise ValueError(f"sources.{name}: its images have several shapes, and a mixture has one; give squares")
            for what, remedy in SHARED.items():
                if what == "num_classes" and self.labels == "source":
                    continue
                value, other = (getattr(section, what, None) for section in (source, first))
                value, other = (list(one) if isinstance(one, tuple) else one for one in (value, other))
                if value != other:
                    problem = f"its {what} is {value}, and that of {first_name} is {other}"
                    raise ValueError(f"sources.{name}: {problem}; {remedy}")
            names = tuple(source.class_names)
            if self.labels == "own" and names and names != self.class_names:
                other = next(pair for pair in zip(names, self.class_names, strict=True) if pair[0] != pair[1])
                raise ValueError(
                    f"sources.{name}: its class {other[0]} is {other[1]} in other sources; give sources of the same "
                    "classes, or set labels: source"
                )
        return self

    @model_validator(mode="after")
    def _shares_are_those_of_the_sources(self) -> Self:
        if self.shares is None:
            for name, source in self.sources.items():
                if getattr(source, "endless", False):
                    raise ValueError(_sizeless(name).removeprefix("data."))
            return self
        for name in self.shares:
            if name not in self.sources:
                near = nearest(name, self.sources)
                remedy = f"write {near}" if near else f"use {', '.join(self.sources)}"
                raise ValueError(f"shares.{name}: is no source; {remedy}")
        for name in self.sources:
            if name not in self.shares:
                raise ValueError(f"shares: {name} has none; give each source one, 0 to leave it out of training")
        check_sum(self.shares)
        _check_rarest(self.shares, "shares")
        return self

    def open(self) -> "Mixture":
        return Mixture(self, {name: source.open() for name, source in self.sources.items()})


class Mixture(Dataset):
    """Examples of several data sets; an id is that in the source, with the source's number from bit `SOURCE_BIT` on."""

    def __init__(self, config: MixtureConfig, sources: Mapping[str, Dataset]) -> None:
        for name, source in sources.items():
            _check_source(name, source)
        self.shape, self.num_classes = config.shape, config.num_classes
        self._by_source = config.labels == "source"
        shares = config.shares or _by_size(sources)
        if config.size is not None:
            counts = revealed_counts(sources, shares, config.size)
            sources = {name: Revealed(source, counts[name]) for name, source in sources.items()}
            shares = {name: count / config.size for name, count in counts.items()}
        self._sources = tuple(sources.values())
        for name, source in sources.items():
            if shares[name] > 0 and not source.endless and source.count("train") == 0:
                raise ValueError(f"data.sources.{name}: has no training example; give it the share 0, or leave it out")
        total = sum(shares.values())
        self.files = tuple(files for source in self._sources for files in source.files)
        self.mix = Mix(sources, tuple(shares[name] / total for name in sources))

    def indices(self, split: Split) -> Tensor:
        """Returns the ids of each source, one source after the other; an endless source lists no training ids."""
        return torch.cat([id_of(number, source.indices(split)) for number, source in enumerate(self._sources)])

    def count(self, split: Split) -> int:
        return sum(source.count(split) for source in self._sources)

    def data_points(self, split: Split) -> Tensor:
        """Returns data points in an order whose every prefix is mixed as the whole is.

        For training, as many as the shares allow without repeating one; a source too large to list gives `LISTED`.
        """
        assert self.mix is not None
        listed = [data_points_up_to(LISTED, source, split) for source in self._sources]
        shares = self.mix.shares if split == "train" else [len(ids) for ids in listed]
        mixed = [(id_of(n, ids), share) for n, (ids, share) in enumerate(zip(listed, shares, strict=True)) if share > 0]
        places = torch.cat([(torch.arange(len(ids), dtype=torch.float64) + 0.5) / share for ids, share in mixed])
        full = min(len(ids) / share for ids, share in mixed)
        order = places.argsort(stable=True)
        return torch.cat([ids for ids, _ in mixed])[order[places[order] < full]]

    def augmented(self, batch: Batch, positions: Tensor, *, seed: int) -> Batch:
        sources, _ = source_of(batch.ids)
        x_1 = batch.x_1.clone()
        for number in sources.unique().tolist():
            own = sources == number
            labels = None if batch.labels is None else batch.labels[own]
            part = Batch(batch.x_1[own], labels, batch.ids[own])
            x_1[own] = self._sources[number].augmented(part, positions[own], seed=seed).x_1
        return replace(batch, x_1=x_1)

    def get(self, indices: Tensor) -> Batch:
        sources, own = source_of(indices)
        parts: list[Batch] = []
        rows: list[Tensor] = []
        bad: dict[int, str] = {}
        for number in sources.unique().tolist():
            rows.append((sources == number).nonzero().flatten())
            try:
                parts.append(self._sources[number].get(own[rows[-1]]))
            except BadExamples as error:
                bad |= {int(id_of(number, torch.tensor(one))): reason for one, reason in error.reasons.items()}
        if bad:
            raise BadExamples(bad)
        order = torch.cat(rows).argsort()

        def joined(name: str, what: str) -> Tensor | None:
            values = [getattr(part, name) for part in parts]
            given = [one for one in values if one is not None]
            if given and len(given) < len(values):
                raise ValueError(f"data.sources: examples of some sources have {what}, and those of others have none")
            return torch.cat(given)[order] if given else None

        return Batch(
            torch.cat([part.x_1 for part in parts])[order],
            sources if self._by_source else joined("labels", "labels"),
            indices,
            x_0=joined("x_0", "source points"),
            interval=joined("interval", "times"),
            captions=joined("captions", "captions"),
            context=joined("context", "contexts"),
            sources=sources,
        )


KINDS = by_kind(AnyOneConfig)


def _resolved(name: str, source: Any) -> Any:
    if latents_of(source) is not None:
        raise ValueError(
            f"sources.{name}.path: holds latents, whose scale is that of one folder; give images, or encode all as one"
        )
    return resolved_inside(f"sources.{name}", source, KINDS)


def _check_source(name: str, source: Dataset) -> None:
    if source.mix is not None or source.source is not None:
        raise ValueError(f"data.sources.{name}: is a mixture, or has source points, itself; give its parts as sources")
    if not (source.endless or source.keyed_order):
        if sum(len(group) > 0 for group in source.groups("train")) > 1:
            raise ValueError(f"data.sources.{name}: its examples have several shapes; give examples of one shape")
        _check_ids(name, source.indices("train"))
    _check_ids(name, source.indices("held_out"))


def _check_ids(name: str, ids: Tensor) -> None:
    taken = (2**SOURCE_BITS - 1) << SOURCE_BIT
    wrong = ids[((ids & taken) != 0) | (ids < 0)]
    if len(wrong):
        raise ValueError(
            f"data.sources.{name}: an id of it, {int(wrong[0])}, is negative or 2**{SOURCE_BIT} or more, and a mixture "
            "numbers its sources there; number its examples from 0 on"
        )


def _by_size(sources: Mapping[str, Dataset]) -> dict[str, float]:
    for name, source in sources.items():
        if source.endless:
            raise ValueError(_sizeless(name))
    counts = {name: source.count("train") for name, source in sources.items()}
    shares = {name: count / max(1, sum(counts.values())) for name, count in counts.items()}
    _check_rarest(shares, "data.shares: by size")
    return shares


def revealed_counts(sources: Mapping[str, Dataset], shares: Mapping[str, float], size: int) -> dict[str, int]:
    """Returns how many training examples each source has in a mixture of `size`; refuses a source that has fewer."""
    counts = dict(zip(sources, counts_of([shares[name] for name in sources], size), strict=True))
    for name, source in sources.items():
        if not source.endless and counts[name] > (most := source.count("train")):
            raise ValueError(
                f"data.size: {name} has {most} training examples, and its share of {size} is {counts[name]}; use "
                f"{int(most / shares[name])} or less, or another share"
            )
    return counts


def _sizeless(name: str) -> str:
    return f"data.shares: {name} is endless and has no size; give each source a share"


def _check_rarest(shares: Mapping[str, float], field: str) -> None:
    rarest = min((share, name) for name, share in shares.items() if share > 0)
    if rarest[0] < RAREST:
        raise ValueError(
            f"{field}: {rarest[1]} has {rarest[0]:g}, and less than {RAREST:g} is not dealt; give it more, or 0"
        )
