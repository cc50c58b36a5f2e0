"""The index of a folder of pairs: what they are and how they were made, known before any of them is read."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from netsim.foundation.files import replacing
from netsim.foundation.settings import Section
from trainer.data.shard.class_names import ClassNames, check_class_names
from trainer.data.shard.index import INDEX, ShardEntry


class PairIndex(Section):
    """index.json: the shards in their order, and what they hold.

    A shard has the keys ``x_0`` and ``x_1``, [num_examples, *shape], where there are classes ``labels``, int64
    [num_examples], and where pairs are parts of paths ``interval``, float32 [num_examples, 2]: the times of both.
    """

    format: Literal["flowfabric.pairs/1"] = "flowfabric.pairs/1"
    shape: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    """Of a source point, and of a data point."""
    dtype: Literal["float32", "float16"]
    """Of both in every shard."""
    num_classes: NonNegativeInt
    """Labels are 0 to num_classes - 1; 0: there are none."""
    class_names: ClassNames = ()
    """Of the classes 0, 1, ...; left out: they have none."""
    segments: PositiveInt | None = None
    """Into how many equal parts paths were cut, of which each pair holds the ends of one; null: into none."""
    nodes: tuple[float, ...] | None = None
    """Times from 0 to 1 at which paths were cut, each pair holding two neighbouring states; null: at none."""
    data_scale: PositiveFloat = 1.0
    """What states on the way of the teacher are multiplied by, where pairs are parts of paths: the `x_0` are such
    states, and the `x_1` are divided by it."""
    latents: str | None = None
    """Digest of the folder of latents whose autoencoder makes images of both points; null: they are no latents."""
    made_by: dict[str, JsonValue]
    """What decides every value: the digest of the teacher's weights, its sampler and guidance, the seed; `source`: the
    configuration of the data set that paths begin at, where they do not begin at noise."""
    shards: Annotated[tuple[ShardEntry, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_fit_the_classes(self) -> PairIndex:
        check_class_names(self.class_names, self.num_classes)
        return self

    @property
    def num_examples(self) -> int:
        """Pairs of all shards together."""
        return sum(shard.num_examples for shard in self.shards)

    @property
    def source(self) -> JsonValue:
        """Configuration of the data set that paths begin at; None: they begin at noise."""
        return self.made_by.get("source")

    @property
    def digest(self) -> str:
        """Of everything that the index says, without a `data_scale` of 1, and `nodes` and `latents` that are null."""
        unsaid = {"data_scale": self.data_scale == 1, "nodes": self.nodes is None, "latents": self.latents is None}
        said = self.model_dump_json(exclude={name for name, left_out in unsaid.items() if left_out})
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    @property
    def arrays(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape of a row and type of each array of a shard."""
        found: dict[str, tuple[tuple[int, ...], str]] = dict.fromkeys(("x_0", "x_1"), (self.shape, self.dtype))
        if self.num_classes:
            found["labels"] = ((), "int64")
        if self.segments is not None or self.nodes is not None:
            found["interval"] = ((2,), "float32")
        return found

    def write(self, folder: Path) -> None:
        """Puts the index into a folder whose shards are complete."""
        with replacing(folder / INDEX) as temporary:
            temporary.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
