"""The sampler that somebody asks for on the command line, in place of the run's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from netsim.foundation.complaint import first_complaint
from netsim.foundation.run_reference import ReferenceConfig
from netsim.foundation.settings import Section
from trainer.config.rules.drawing import of_drawn
from trainer.config.rules.objection import refuse
from trainer.config.run import RunConfig
from trainer.config.sample import ImageSample, PointSample
from trainer.flow import sampler
from trainer.flow.sampler import (
    AnyConfig,
    CausalTransitionConfig,
    Dopri5Config,
    OwnSampler,
    SegmentedConfig,
)
from trainer.sampling.reference import Reference
from trainer.sampling.searched import check_made_of, sampler_of, segments_of

_REMEDY = "give a kind such as heun, or settings such as '{kind: heun, steps: 10}'"


class _Asked(Section):
    sampler: sampler.Config


@dataclass(frozen=True)
class SamplerChoice:
    """Request for the sampler; each field overrides the run's sampler, None leaves it.

    Attributes:
        sampler: a kind, or settings as YAML or JSON.
        steps: number of steps, or a file of searched times for Euler's method.
        evaluations: of the field, for which the file has times; None: the most.
    """

    sampler: str | None = None
    steps: int | Path | None = None
    evaluations: int | None = None

    def check(self) -> None:
        """Refuses options that contradict each other."""
        if self.evaluations is not None and not isinstance(self.steps, Path):
            raise ValueError(
                f"--evaluations: {self.evaluations} chooses among the times of a file; give --steps FILE.json too, or "
                "a number of --steps in its place"
            )
        if self.sampler is not None and isinstance(self.steps, Path):
            raise ValueError(
                f"--sampler: {self.sampler} does not go with the times of {self.steps}, which are for Euler's method; "
                "leave one of them out"
            )
        if isinstance(self.steps, int) and self.steps < 1:
            raise ValueError(f"--steps: {self.steps} is below 1; use 1 or more")

    def resolved(self, run_dir: Path, config: RunConfig, guidance: float) -> AnyConfig:
        """The sampler for a run."""
        assert isinstance(config.sample, ImageSample | PointSample)
        own = config.sample.sampler
        if isinstance(self.steps, Path):
            found = sampler_of(config, self.steps, self.evaluations, guidance=guidance)
            check_made_of(self.steps, Reference.of_run(ReferenceConfig(run=run_dir)).digest)
            return found
        chosen = own if self.sampler is None else _read(self.sampler, own)
        if self.steps is not None:
            chosen = with_steps(chosen, self.steps)
        if chosen != own:
            try:
                refuse(of_drawn(config, chosen, guidance))
            except ValueError as error:
                option = "--steps" if self.sampler is None else "--sampler"
                raise ValueError(f"{option}: {error}") from error
        return chosen


def with_steps(chosen: AnyConfig, steps: int) -> AnyConfig:
    """The same sampler with another number of steps from source to data, those of all segments together."""
    within, segments = (chosen.within, chosen.segments) if isinstance(chosen, SegmentedConfig) else (chosen, 1)
    if isinstance(within, Dopri5Config):
        raise ValueError("--steps: dopri5 chooses its steps itself; leave it out, or give --sampler heun")
    if isinstance(within, CausalTransitionConfig):
        raise ValueError(
            "--steps: causal_transition draws a token at each step, so that their number is that of the tokens; leave "
            "it out, or give the steps of its head with --sampler '{kind: causal_transition, head: {kind: heun, "
            "steps: 4}}'"
        )
    if steps % segments:
        near = max(1, round(steps / segments)) * segments
        raise ValueError(f"--steps: {steps} cannot be shared out over {segments} segments of time; use {near}")
    if isinstance(within, OwnSampler):
        if within.setting("steps") is None:
            raise ValueError(f"--steps: {within.kind} has no setting named steps; give its own with --sampler")
        return within.with_settings(steps=steps)
    if getattr(within, "times", None) is not None and within.steps * segments != steps:
        raise ValueError(
            f"--steps: the run's sampler has times for {within.steps * segments} steps alone, and you ask for {steps}; "
            f"give a sampler without written times, such as --sampler {within.kind}"
        )
    changed = within.model_copy(update={"steps": steps // segments})
    return chosen.model_copy(update={"within": changed}) if isinstance(chosen, SegmentedConfig) else changed


def _read(text: str, own: AnyConfig) -> AnyConfig:
    """The sampler of a text; one for a segment where the run's own goes segment by segment."""
    document: Any = {"kind": text.strip()}
    if not text.strip().replace("_", "").isalnum():
        try:
            document = yaml.safe_load(text)
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"--sampler: {text} cannot be read ({reason}); {_REMEDY}") from error
    if not isinstance(document, dict):
        raise ValueError(f"--sampler: {text} is neither a kind nor settings; {_REMEDY}")
    asked = {"sampler": document}
    try:
        found: AnyConfig = _Asked.model_validate(asked).sampler
    except ValidationError as error:
        complaint = first_complaint(error, asked, _Asked)
        raise ValueError(f"--{complaint.field}: {complaint.problem}; {complaint.remedy or _REMEDY}") from error
    if segments_of(own) > 1 and not isinstance(found, SegmentedConfig) and sampler.follows_velocity(found):
        within = {"kind": "segmented", "segments": segments_of(own), "within": found.model_dump()}
        return _Asked.model_validate({"sampler": within}).sampler
    return found
