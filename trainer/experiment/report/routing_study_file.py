"""The file of a study of routing that knows distances: bytes between ranks and held-out loss by hop cost.

``python -m tests.benchmarks.placement_aware_routing`` writes it.
"""

from collections import Counter
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from netsim.foundation.complaint import first_complaint
from netsim.foundation.documents import parse_json
from netsim.foundation.refusal import Refusal

_REMEDY = "write it with `python -m tests.benchmarks.placement_aware_routing --out DIR`"
_Name = Annotated[str, Field(min_length=1)]
_Count = Annotated[int, Field(gt=0, strict=True)]
_Finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]
_NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StudiedRun(_Record):
    """One training.

    Attributes:
        strength: hop cost of the sparse-OT router in standard deviations of the logits; None: the rival router.
        placed: whether the experts were placed; False: contiguous.
        cross_rank_bytes: bytes that left their rank for experts and routers in a step, mean of the recorded steps.
    """

    strength: _NotNegative | None
    placed: bool
    seed: Annotated[int, Field(ge=0, strict=True)]
    held_out_loss: _Finite
    cross_rank_bytes: _NotNegative


class Experiment(_Record):
    """All trainings on one data set: every strength, and the rival router, with every seed, placed and not."""

    name: _Name
    config: _Name
    dispatch: Literal["home", "capped", "copies", "coherent", "hierarchical"]
    steps: _Count
    ranks: _Count
    rival: _Name
    runs: tuple[StudiedRun, ...]

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        seeds = sorted({run.seed for run in self.runs})
        if len(seeds) < 2:
            raise ValueError(f"runs: {len(seeds)} seeds have no spread to compare a loss with; give two or more")
        seen = Counter((run.strength, run.placed, run.seed) for run in self.runs)
        for strength in (*sorted({0.0, *self.strengths}), None):
            for placed in (False, True):
                for seed in seeds:
                    times = seen[strength, placed, seed]
                    if times != 1:
                        which = "the rival" if strength is None else f"strength {strength:g}"
                        where = "placed" if placed else "contiguous"
                        raise ValueError(f"runs: {which}, {where}, seed {seed} occurs {times} times; give it once")
        return self

    @property
    def strengths(self) -> list[float]:
        """The hop costs, ascending; the first is 0."""
        return sorted({run.strength for run in self.runs if run.strength is not None})

    def of(self, strength: float | None, placed: bool) -> list[StudiedRun]:
        """The runs with a strength, by seed; None: those of the rival."""
        chosen = (run for run in self.runs if run.strength == strength and run.placed == placed)
        return sorted(chosen, key=lambda run: run.seed)

    def loss(self, strength: float | None, placed: bool) -> float:
        """Mean held-out loss over the seeds."""
        return fmean(run.held_out_loss for run in self.of(strength, placed))

    def bytes(self, strength: float | None, placed: bool) -> float:
        """Mean bytes between ranks over the seeds."""
        return fmean(run.cross_rank_bytes for run in self.of(strength, placed))

    def spread(self, placed: bool) -> float:
        """Standard deviation of the held-out loss over the seeds without a hop cost."""
        return stdev(run.held_out_loss for run in self.of(0.0, placed))

    def rises(self, strength: float | None, placed: bool) -> list[float]:
        """How much each seed's loss lies above its loss without a hop cost."""
        pairs = zip(self.of(strength, placed), self.of(0.0, placed), strict=True)
        return [run.held_out_loss - without.held_out_loss for run, without in pairs]

    def error(self, strength: float | None, placed: bool) -> float:
        """Standard error of the mean rise over the seeds."""
        rises = self.rises(strength, placed)
        return stdev(rises) / len(rises) ** 0.5

    def is_free(self, strength: float, placed: bool) -> bool:
        """Whether the mean rise of the loss, seed by seed, is within its standard error: nothing that was measured."""
        return fmean(self.rises(strength, placed)) <= self.error(strength, placed)


class RoutingStudy(_Record):
    """The whole file."""

    format: Literal["flowfabric.routing_study/1"]
    experiments: tuple[Experiment, ...]

    @model_validator(mode="after")
    def _has_experiments(self) -> Self:
        if not self.experiments:
            raise ValueError("experiments: there are none; give at least one")
        return self

    @classmethod
    def read(cls, path: Path) -> "RoutingStudy":
        """Reads a file."""
        try:
            document = parse_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise Refusal(path, "file", f"cannot be read ({error.strerror})", _REMEDY) from error
        except ValueError as error:
            raise Refusal(path, "document", f"is not JSON ({error})", _REMEDY) from error
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            found = first_complaint(error, document)
            raise Refusal(path, found.field, found.problem, found.remedy or _REMEDY) from error

    def free_strength(self, placed: bool) -> float:
        """The largest strength that costs nothing measurable on any data set, nor does any smaller one."""
        free = 0.0
        for strength in sorted({strength for one in self.experiments for strength in one.strengths}):
            if not all(one.is_free(strength, placed) for one in self.experiments if strength in one.strengths):
                break
            free = strength
        return free
