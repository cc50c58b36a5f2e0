"""Edits of pictures by a trained flow, and the files of results."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from trainer.flow import Condition
from trainer.flow.condition import keyed_normal
from trainer.flow.control import ControlInputs, controlled
from trainer.flow.inversion import Inverted, zero_order
from trainer.flow.question import Question
from trainer.flow.sampler import Field
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.edit_request import HOLD, EditPlan, held_states, scaled
from trainer.sampling.flow import states_of_images
from trainer.sampling.pictures import write_png

ROWS = 64
"""Edits that pass through the network at once; memory, and nothing else, depends on it."""


@dataclass(frozen=True)
class Edits:
    """Edits of B pictures at L levels under K classes.

    Attributes:
        edited: [B, L, K, C, H, W] the edits.
        reconstructed: [B, C, H, W] images drawn from a picture's noise under its own class.
        fresh: [B, K, C, H, W] images of the classes drawn from fresh noise, the same for all classes of a picture.
        coded: [B, C, H, W] the pictures encoded and decoded again; without latents, the pictures.
        inversion_errors: [B, I] mean squared distance of states, of each iterate of the inversion; None if it has none.
        edit_errors: [B, K, J] the same distance for each corrected noise and class; None if noises are not corrected.
    """

    edited: Tensor
    reconstructed: Tensor
    fresh: Tensor
    coded: Tensor
    inversion_errors: Tensor | None
    edit_errors: Tensor | None
    calls: Calls


@dataclass(frozen=True)
class Calls:
    """Calls of the network for one picture: for its inversion, for one drawing without controls, and for each level."""

    inversion: int
    drawing: int
    levels: tuple[int, ...]


class Editor:
    """Edits pictures with a trained flow, whose network ranks may share."""

    def __init__(self, flow: TrainedFlow, plan: EditPlan) -> None:
        self.flow, self.plan = flow, plan
        self._sampler = plan.sampler.build(flow.parts.path)
        self._times = plan.sampler.grid()
        self._inversion = plan.request.inversion.build(sampler=plan.sampler, path=flow.parts.path)
        self._calls = 0

    @torch.no_grad()
    def edits(self, pictures: Tensor, sources: Tensor, noise_keys: Tensor, fresh_keys: Tensor) -> Edits:
        """Edits pictures [B, C, H, W] of the classes `sources` int64 [B]; each edit depends on its row alone.

        The keys int64 [B] determine the draws of an inversion, and fresh noise.
        """
        flow, plan, device = self.flow, self.plan, self.flow.device
        pictures = pictures.to(device)
        states = torch.cat([states_of_images(flow.parts.space, one[None]) for one in pictures]) * flow.parts.data_scale
        field, _ = self._field(sources, plan.request.guidance.source)
        self._calls = 0
        inverted = self._inversion.invert(field, states, self._times, keys=noise_keys.to(device))
        inverted_by, self._calls = self._calls, 0
        reconstructed = self._decoded(self._drawn(field, inverted.noise, noise_keys))
        drawn_by = self._calls
        fresh_noise = keyed_normal(states, fresh_keys, 0)
        columns = [
            self._columns(targets, states, inverted, noise_keys, fresh_noise)
            for targets in torch.tensor(plan.targets).split(max(1, ROWS // len(pictures)))
        ]
        edited, fresh, errors, levels = zip(*columns, strict=True)
        return Edits(
            torch.cat(edited, dim=2).cpu(),
            reconstructed.cpu(),
            torch.cat(fresh, dim=1).cpu(),
            self._decoded(states).cpu(),
            None if inverted.errors is None else inverted.errors.T.cpu(),
            None if errors[0] is None else torch.cat([part for part in errors if part is not None], dim=1).cpu(),
            Calls(inverted_by, drawn_by, levels[0]),
        )

    def _columns(
        self, targets: Tensor, states: Tensor, inverted: Inverted, keys: Tensor, fresh_noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, tuple[int, ...]]:
        """Edits, fresh draws, errors of corrected noises and calls, for k classes of every picture."""
        count, classes = len(states), len(targets)

        def each(values: Tensor) -> Tensor:
            return values.repeat_interleave(classes, dim=0)

        def apart(values: Tensor) -> Tensor:
            return values.unflatten(0, (count, classes))

        field, condition = self._field(targets.repeat(count), self.plan.guidance)
        inputs = ControlInputs(self.flow.parts.path, condition, self._counted, each(states))
        noise, row_keys = each(inverted.noise), each(keys)
        if self.plan.method is None:
            ends, calls, errors = self._by_strength(field, inputs, noise, row_keys)
        else:
            ends, calls, errors = self._by_iteration(self._held(field, inputs), each(states), noise, row_keys)
        edited = torch.stack([apart(self._decoded(end)) for end in ends], dim=1)
        fresh = apart(self._decoded(self._drawn(field, each(fresh_noise), row_keys)))
        return edited, fresh, None if errors is None else apart(errors), calls

    def _by_strength(
        self, field: Field, inputs: ControlInputs, noise: Tensor, keys: Tensor
    ) -> tuple[list[Tensor], tuple[int, ...], None]:
        """The final states for each strength of the controls, and the network calls of each."""
        ends, calls = [], []
        for strength in self.plan.levels:
            controls = [one.build(inputs) for one in scaled(self.plan.request.controls, strength)]
            self._calls = 0
            ends.append(self._drawn(self._held(controlled(field, controls), inputs), noise, keys))
            calls.append(self._calls)
        return ends, tuple(calls), None

    def _by_iteration(
        self, field: Field, states: Tensor, noise: Tensor, keys: Tensor
    ) -> tuple[list[Tensor], tuple[int, ...], Tensor]:
        """The final states after each requested number of corrections, the calls of each, and all errors [N, J]."""
        method, ends, calls = self.plan.method, list[Tensor](), list[int]()
        assert method is not None

        def keep(number: int, _: Tensor, drawn: Tensor) -> None:
            if number in method.iterations:
                ends.append(drawn.to(noise.dtype))
                calls.append(self._calls)

        self._calls = 0
        iterated = zero_order(
            lambda z: self._drawn(field, z, keys), states, noise, max(method.iterations), method.step_size, keep
        )
        return ends, tuple(calls), iterated.errors.T

    def _held(self, field: Field, inputs: ControlInputs) -> Field:
        """The field under a control that keeps the masked part of the picture; without a mask, the field itself."""
        held = self.plan.held
        if held is None:
            return field
        mask = held_states(held, tuple(self.flow.config.state_shape)).to(self.flow.device)
        only = ControlInputs(inputs.path, inputs.condition, inputs.network, inputs.picture, mask)
        return controlled(field, [HOLD.build(only)])

    def _field(self, labels: Tensor, guidance: float) -> tuple[Field, Condition]:
        condition = Condition(label=labels.to(self.flow.device))
        return self.flow.parts.field(self._counted, condition, guidance), condition

    def _drawn(self, field: Field, noise: Tensor, keys: Tensor) -> Tensor:
        return self._sampler.sample(field, noise, self._times, keys=keys).final

    def _decoded(self, states: Tensor) -> Tensor:
        """The images [B, C, H, W] of states at the ends of paths."""
        return self.flow.parts.space.decode(self.flow.parts.data_of(states))

    def _counted(self, x: Tensor, t: Tensor, condition: Condition, *questions: Question) -> Tensor:
        self._calls += 1
        return self.flow.model(x, t, condition, *questions)


def padded(rows: Tensor, together: int) -> Tensor:
    """Rows int64 [B] filled up with the last one, since smaller batches use other kernels with other rounding."""
    return torch.cat([rows, rows[-1:].expand(together - len(rows))])


EDITED = "edited"
"""Folder of the edited pictures, with a folder for each picture."""


@dataclass(frozen=True)
class PictureEdits(Edits):
    """The picture of row b of `Edits` and its edits, without the first dimension."""

    picture: Tensor

    @classmethod
    def of(cls, pictures: Tensor, edits: Edits, row: int) -> Self:
        """The edits of one row of a batch, whose pictures are [B, C, H, W]."""
        of_row: dict[str, Any] = {
            name: values[row] for name, values in vars(edits).items() if isinstance(values, Tensor)
        }
        return cls(picture=pictures[row], **(vars(edits) | of_row))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Tensor]) -> Self:
        """Rebuilds edits from the result of `arrays`."""
        inverted, drawn, *levels = arrays["calls"].tolist()
        held: dict[str, Any] = {one.name: arrays.get(one.name) for one in fields(cls) if one.name != "calls"}
        return cls(**held, calls=Calls(inverted, drawn, tuple(levels)))

    def arrays(self) -> dict[str, Tensor]:
        """All fields as tensors, for a file."""
        calls = torch.tensor([self.calls.inversion, self.calls.drawing, *self.calls.levels])
        return {name: values for name, values in {**vars(self), "calls": calls}.items() if values is not None}


def write_pictures(out: Path, name: str, edits: PictureEdits, plan: EditPlan) -> None:
    """Writes the edits of a picture as PNG, one file for each level and class."""
    for level, images in zip(plan.levels, edits.edited.numpy(), strict=True):
        for target, image in zip(file_names(plan), images, strict=True):
            words = [f"{plan.level_name}_{level:.4g}", *([target] if target else [])]
            write_png(out / EDITED / name / f"{'_'.join(words)}.png", image)


def file_names(plan: EditPlan) -> Sequence[str]:
    """The names of the classes as parts of names of files, no two the same."""
    plain = [re.sub(r"[^\w.-]+", "_", name) for name in plan.names]
    if len(set(plain)) == len(plain):
        return plain
    return [f"{name}_{target}" for name, target in zip(plain, plan.targets, strict=True)]
