"""What is asked of a teacher."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

import trainer.flow.sampler
from moe.validation.section import Section


class PairsRequest(Section):
    """Pairs of source and data points, drawn with the averaged weights of a run's newest whole checkpoint."""

    run: Path
    """Folder of the teacher's run."""
    num: PositiveInt
    """Pairs, the classes in turn; of segments, the segments in turn, each pair of the class of its example."""
    sampler: trainer.flow.sampler.Config = trainer.flow.sampler.Dopri5Config()
    """How the teacher's field is followed; a coarse one bakes its error into the pairs."""
    guidance: float = Field(default=1.0, ge=0)
    """Scale of classifier-free guidance; what is asked of the teacher is in the student without any."""
    seed: NonNegativeInt = 0
    segments: PositiveInt | None = None
    """Cut time into so many parts, of which each pair holds the ends of one, from noised examples of the teacher's
    data; null: pairs are whole paths from noise."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the files; float16 is for images."""
    shard_examples: PositiveInt = 4096
    """Pairs of a file; ranks share the work file by file."""

    @model_validator(mode="after")
    def _steps_divide_among_the_segments(self) -> "PairsRequest":
        if self.segments is None:
            return self
        if self.num < self.segments:
            raise ValueError(f"num: {self.num} leave some of the {self.segments} segments without a pair; draw more")
        steps = len(trainer.flow.sampler.times(self.sampler)) - 1
        if steps % self.segments and steps > 1:
            raise ValueError(
                f"segments: {self.segments} do not divide the {steps} steps of the sampler; use a divisor, or other "
                "sampler.steps"
            )
        return self

    def what_decides(self, weights: str, source: dict[str, Any] | None) -> dict[str, Any]:
        """Everything that the pairs are a function of.

        Args:
            weights: digest of the teacher's.
            source: configuration of the data set that its paths begin at; None: they begin at noise.
        """
        begins = {} if source is None else {"source": source}
        if trainer.flow.sampler.steps_file(self.sampler) is not None:
            begins["times"] = trainer.flow.sampler.times(self.sampler).tolist()
        return {"weights": weights, **begins, **self.model_dump(mode="json", exclude={"run"})}
