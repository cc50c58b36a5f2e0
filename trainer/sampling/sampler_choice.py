"""Sampler and controls that a person chooses for a run, in place of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from netsim.foundation.complaint import Complaint, first_complaint
from netsim.foundation.documents import parse_yaml, read_yaml
from netsim.foundation.files import reading
from netsim.foundation.refusal import Refusal, prefixed
from netsim.foundation.run_reference import ReferenceConfig
from netsim.foundation.settings import Section
from trainer.config.rules.drawing import of_cost, of_drawn
from trainer.config.rules.objection import refuse
from trainer.config.run import RunConfig
from trainer.config.sample import Controls, FlowSample
from trainer.flow import Condition, sampler
from trainer.flow.control import AnyConfig as AnyControl
from trainer.flow.control import ControlInputs, CostGradientConfig, OwnControl
from trainer.flow.sampler import (
    AnyConfig,
    CausalTransition,
    Dopri5,
    Euler,
    OwnSampler,
    Segmented,
)
from trainer.flow.sampler.protocol import StepsFile
from trainer.sampling.trained import Reference


def segments_of(own: AnyConfig) -> int:
    """Number of segments of time of a sampler; 1: the whole time."""
    return own.segments if isinstance(own, Segmented) else 1


def euler_of(own: AnyConfig, euler: Euler) -> Euler | Segmented:
    """The sampler `euler` for a run: within each segment of time where the run's own sampler has segments."""
    return own.model_copy(update={"within": euler}) if isinstance(own, Segmented) else euler


def sampler_of(config: RunConfig, path: Path, evaluations: int | None = None, *, guidance: float) -> AnyConfig:
    """Euler's method on a file's grid, in the segments of the run's sampler; `evaluations` None: the largest grid."""
    assert isinstance(config.sample, FlowSample)
    own = config.sample.sampler
    segments = segments_of(own)
    number = max(StepsFile.read(path).grids) if evaluations is None else evaluations
    if number < 1 or number % segments:
        least = max(1, number // segments) * segments
        unfit = "is below 1" if number < 1 else f"does not divide among {segments} segments"
        raise ValueError(f"--evaluations: {number} {unfit}; use {least}")
    chosen = euler_of(own, Euler(steps=number // segments, times=path))
    refuse(of_drawn(config, chosen, guidance))
    return chosen


def check_made_of(path: Path, weights: str) -> None:
    """Refuses grids searched for other averaged weights, by their SHA-256; a file without a digest passes."""
    made_by = StepsFile.read(path).made_by
    made_with = made_by.get("weights", weights)
    if made_with != weights:
        problem = (
            f"names the weights {str(made_with)[:12]} of {made_by.get('run', 'another run')}, and {weights[:12]} draw"
        )
        raise Refusal(path, "made_by", problem, "search for these with python -m trainer steps")


_REMEDY = "give a kind such as heun, or settings such as '{kind: heun, steps: 10}'"


class _Sampler(Section):
    sampler: sampler.Config


@dataclass(frozen=True)
class SamplerChoice:
    """Request for the sampler; each field overrides the run's sampler, None leaves it.

    Attributes:
        sampler: a kind, or settings as YAML or JSON.
        steps: number of steps, or a file of searched times for Euler's method.
        evaluations: number of field evaluations, by which a file's grid of times is chosen; None: its largest grid.
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
        assert isinstance(config.sample, FlowSample)
        own = config.sample.sampler
        if isinstance(self.steps, Path):
            resolved = sampler_of(config, self.steps, self.evaluations, guidance=guidance)
            check_made_of(self.steps, Reference.of_run(ReferenceConfig(run=run_dir)).digest)
            return resolved
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
    """The same sampler with `steps` steps from source to data, counted over all segments."""
    within, segments = (chosen.within, chosen.segments) if isinstance(chosen, Segmented) else (chosen, 1)
    if isinstance(within, Dopri5):
        raise ValueError("--steps: dopri5 chooses its steps itself; leave it out, or give --sampler heun")
    if isinstance(within, CausalTransition):
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
    return chosen.model_copy(update={"within": changed}) if isinstance(chosen, Segmented) else changed


def _read(text: str, own: AnyConfig) -> AnyConfig:
    """Reads a sampler from a text; it is used within segments if the run's own sampler has segments."""
    document: Any = {"kind": text.strip()}
    if not text.strip().replace("_", "").isalnum():
        try:
            document = parse_yaml(text)
        except ValueError as error:
            raise ValueError(f"--sampler: {text:.80} cannot be read ({error}); {_REMEDY}") from error
    if not isinstance(document, dict):
        raise ValueError(f"--sampler: {text:.80} is neither a kind nor settings; {_REMEDY}")
    section = {"sampler": document}
    try:
        resolved: AnyConfig = _Sampler.model_validate(section).sampler
    except ValidationError as error:
        complaint = first_complaint(error, section, _Sampler)
        raise ValueError(f"--{complaint.field}: {complaint.problem}; {complaint.remedy or _REMEDY}") from error
    if segments_of(own) > 1 and not isinstance(resolved, Segmented) and resolved.follows_velocity:
        within = {"kind": "segmented", "segments": segments_of(own), "within": resolved.model_dump()}
        return _Sampler.model_validate({"sampler": within}).sampler
    return resolved


_OPTION = "--controls"
_LISTED = "give a list such as '[{kind: cost_gradient, cost: {class: \"my_costs:Ink\"}}]' or a YAML file, '[]' for none"


class _Controls(Section):
    controls: Controls


def read_controls(text: str) -> tuple[AnyControl, ...]:
    """The controls of a list or a single one, as YAML or JSON or in a file, perhaps under ``controls``."""
    if text.lstrip()[:1] not in ("[", "{", "-", ""):
        return _in_file(Path(text))
    try:
        document = parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"{_OPTION}: {text:.80} cannot be read ({error}); {_LISTED}") from error
    if not isinstance(document, list | dict):
        raise ValueError(f"{_OPTION}: {text!r} lists no controls; {_LISTED}")
    controls = _validated(document)
    if isinstance(controls, Complaint):
        raise ValueError(f"--{controls.field}: {controls.problem}; {controls.remedy or _LISTED}") from controls.cause
    return controls


def check_chosen_controls(config: RunConfig, drawn_by: AnyConfig, guidance: float) -> None:
    """Refuses controls that do not suit a run or a sampler."""
    with prefixed(f"{_OPTION}: "):
        refuse(of_drawn(config, drawn_by, guidance))


def _in_file(path: Path) -> tuple[AnyControl, ...]:
    with reading(path, _LISTED):
        document = read_yaml(path, "another file")
    if not isinstance(document, list | dict):
        raise Refusal(path, "document", "lists no controls", "write a list such as - {class: my_module:Mine}")
    controls = _validated(document)
    if isinstance(controls, Complaint):
        raise Refusal(
            path, controls.field, controls.problem, controls.remedy or "correct the value"
        ) from controls.cause
    return controls


def _validated(document: list[Any] | dict[str, Any]) -> tuple[AnyControl, ...] | Complaint:
    if isinstance(document, dict):
        document = document["controls"] if list(document) == ["controls"] else [document]
    section = {"controls": document}
    try:
        return _Controls.model_validate(section).controls
    except ValidationError as error:
        return first_complaint(error, section, _Controls)


def check_requested(controls: Sequence[AnyControl], config: RunConfig, field: str) -> None:
    """Builds each built-in control for one picture, so that what does not suit the run is refused at once."""
    assert config.flow is not None
    inputs = ControlInputs(
        path=config.flow.path.build(),
        condition=Condition(label=torch.zeros(1, dtype=torch.int64)),
        network=_nothing,
        picture=torch.zeros(1, *config.state_shape),
    )
    for number, control in enumerate(controls):
        if isinstance(control, OwnControl):
            continue
        if isinstance(control, CostGradientConfig):
            refuse(of_cost(config, control.cost, f"{field}.{number}.cost"))
        with prefixed(f"{field}.{number}."):
            control.build(inputs)


def _nothing(*_: object) -> Tensor:
    return torch.zeros(0)
