"""Restores batches of pictures with a trained flow."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import trainer.data
import trainer.flow.control
import trainer.flow.operator
from moe.seeds import fold_in
from netsim.foundation.refusal import Refusal
from trainer.flow import Condition
from trainer.flow.condition import keyed_normal
from trainer.flow.context import Identity
from trainer.flow.inverse import Consistency, InverseSolver, agreeing, calibration_errors
from trainer.flow.operator import Mask, Operator
from trainer.flow.sampler import Field
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.flow import keys_of, states_of_images
from trainer.sampling.requested_pictures import Pictures
from trainer.sampling.restoration.plan import RestorePlan

CALIBRATION = "calibration.json"
EXAMPLES = 256
"""Of the training split, by which the errors are measured."""

DIGITS = 6
"""Of an error."""


def measured_errors(
    flow: TrainedFlow,
    *,
    labelled: bool,
    guidance: float,
    seed: int,
    together: int,
    progress: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """Means over examples that the run has learned from of `calibration_errors`: float64 [L].

    They have so many digits that ranks which round differently agree.

    Args:
        labelled: whether the field gets the class of each example, or none.
        together: examples that pass through the network at once.
    """
    try:
        dataset = trainer.data.build(flow.config.data)
        batch = dataset.get(trainer.data.first_data_points(dataset, "train", EXAMPLES))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"method.weight: calibrated is measured on examples of the run, which cannot be read ({error}); bring them "
            "back, or use constant"
        ) from error
    found = []
    for own in torch.arange(len(batch.x_1)).split(together):
        keys = keys_of(own, "calibration", seed=seed).to(flow.device)
        examples = batch.x_1[own].to(flow.device)
        states = flow.parts.states_of(examples, torch.Generator().manual_seed(int(own[0])))
        known = batch.labels[own] if labelled and batch.labels is not None else None
        label = torch.full((len(own),), flow.parts.null_label) if known is None else known
        condition = Condition(label=label, caption=no_captions(flow, len(own))).to(flow.device)
        field = flow.parts.field(flow.model, condition, guidance)
        found.append(calibration_errors(field, states, flow.parts.path, keys).cpu())
        progress(int(own[-1]) + 1)
    means = torch.cat(found).mean(0).tolist()
    return torch.tensor([float(f"{mean:.{DIGITS}g}") for mean in means], dtype=torch.float64)


def no_captions(flow: TrainedFlow, num: int) -> Tensor | None:
    """The vectors [B, W] that stand for no caption; None: the network reads none."""
    width = flow.config.caption_width
    return torch.zeros(num, width) if width else None


def read_errors(folder: Path) -> Tensor | None:
    """The errors float64 [L] of an earlier start in a folder of results; None if absent."""
    path = folder / CALIBRATION
    if not path.exists():
        return None
    try:
        return torch.tensor(json.loads(path.read_text(encoding="utf-8"))["errors"], dtype=torch.float64)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Refusal(path, "errors", f"cannot be read ({error})", "delete it; it is then measured again") from error


@dataclass(frozen=True)
class Restored:
    """What was made of one observation.

    Attributes:
        arrays: ``observed`` and its ``pseudo_inverse`` [C, H, W], ``restored`` [S, C, H, W], and where they are known
            the ``truth`` [C, H, W] and the hidden pixels as ``hole`` [1, H, W]; ``residuals``, and beside a truth
            ``errors``, are float64 [S + 2] means over the values of squared differences: of the pseudo-inverse, of each
            sample, and of the mean of the samples. ``spread``, float64 [1], is the mean unbiased variance of the
            samples, and ``evaluations``, int64 [1], counts those of the network for all samples. Where states are
            latents, ``decoded_residuals``, float64 [S], are those of the decoded samples before they are brought into
            agreement.
        problem: why there is nothing; empty: there is.
    """

    arrays: Mapping[str, Tensor]
    problem: str = ""


class Restoration:
    """Restorations of a run's pictures."""

    def __init__(self, flow: TrainedFlow, plan: RestorePlan, pictures: Pictures, solver: InverseSolver) -> None:
        self._flow, self._plan, self._pictures, self._solver = flow, plan, pictures, solver
        self._request = plan.request

    @torch.no_grad()
    def restored(self, rows: Tensor) -> list[Restored]:
        """Restores the pictures at places int64 [B], as a function of them alone."""
        flow, samples = self._flow, self._request.samples
        images, problems = self._pictures.readable(rows)
        operator = self._operator(rows)
        observed = self._observed(rows, images.to(flow.device), operator)
        all_rows = rows.repeat_interleave(samples)
        repeated = observed.repeat_interleave(samples, dim=0)
        wide = self._operator(all_rows)
        agreement = self._consistency(wide, repeated)
        field, evaluated = self._field(all_rows, agreement)
        keys = self._pictures.keys(rows, "restored", seed=self._request.seed)
        keys = fold_in(keys[:, None], torch.arange(samples)).flatten().to(flow.device)
        states = self._solver.solve(field, agreement, keys=keys).states
        drawn = flow.parts.space.decode(flow.parts.data_of(states))
        lost = _mean_square((wide.apply(drawn) - repeated)[:, None]).reshape(len(rows), samples)
        if self._coded and self._request.method.consistency == "hard":
            drawn = agreeing(wide, repeated, drawn)
        drawn = drawn.unflatten(0, (len(rows), samples))
        first = operator.pseudo_inverse(observed)
        shown = torch.cat([first[:, None], drawn, drawn.mean(dim=1, keepdim=True)], dim=1)
        missed = torch.stack([operator.apply(one) - observed for one in shown.unbind(1)], dim=1)
        arrays = {
            "observed": observed,
            "pseudo_inverse": first,
            "restored": drawn,
            "residuals": _mean_square(missed),
            "spread": torch.stack([variance(one).mean() for one in drawn])[:, None],
            "evaluations": torch.full((len(rows), 1), evaluated[0] // len(rows)),
        }
        if self._coded:
            arrays["decoded_residuals"] = lost
        if not self._request.observed:
            truth = images.to(flow.device)
            arrays |= {"truth": truth, "errors": _mean_square(shown - truth[:, None])}
        if isinstance(operator, Mask):
            arrays["hole"] = operator.hole.expand(len(rows), -1, -1, -1)
        held = {name: values.cpu() for name, values in arrays.items()}
        return [
            Restored({}, problems[row])
            if row in problems
            else Restored({name: values[place] for name, values in held.items()})
            for place, row in enumerate(rows.tolist())
        ]

    def _operator(self, rows: Tensor) -> Operator:
        """The operator of some pictures; what it draws for one depends on the seed and on that picture's name."""
        numbers = self._pictures.keys(rows, "operator", seed=self._request.seed)
        return self._request.operator.build(
            self._plan.image_shape, numbers, seed=self._request.seed, device=self._flow.device
        )

    def _observed(self, rows: Tensor, images: Tensor, operator: Operator) -> Tensor:
        """The observations, less what no picture would show: noise in hidden pixels, or sharper than any blur."""
        observed = images
        if not self._request.observed:
            observed = operator.apply(images)
            if self._request.noise > 0:
                keys = self._pictures.keys(rows, "noise", seed=self._request.seed)
                observed = observed + self._request.noise * keyed_normal(observed, keys, 0)
        return operator.apply(operator.pseudo_inverse(observed))

    @property
    def _coded(self) -> bool:
        """Whether states are latents."""
        return not isinstance(self._flow.parts.space, Identity)

    def _consistency(self, operator: Operator, observed: Tensor) -> Consistency:
        parts, method = self._flow.parts, self._request.method
        if not self._coded:
            return method.agreement(operator, observed, scale=parts.data_scale)
        return method.agreement(
            operator,
            observed,
            decode=lambda states: parts.space.decode(parts.data_of(states)),
            initial=states_of_images(parts.space, operator.pseudo_inverse(observed)) * parts.data_scale,
        )

    def _field(self, rows: Tensor, agreement: Consistency) -> tuple[Field, list[int]]:
        """The field of some rows under the request's controls, and the rows that the network has computed so far."""
        flow = self._flow
        label = torch.full((len(rows),), flow.parts.null_label if self._plan.label is None else self._plan.label)
        if self._plan.label is None and self._plan.labelled:
            assert self._pictures.labels is not None
            label = self._pictures.labels[rows]
        condition = Condition(label=label, caption=no_captions(flow, len(rows))).to(flow.device)
        evaluated = [0]

        def counted(x: Tensor, t: Tensor, condition: Condition, *questions: Any) -> Tensor:
            evaluated[0] += len(x)
            return flow.model(x, t, condition, *questions)

        field = flow.parts.field(counted, condition, self._plan.guidance)
        if not self._request.controls:
            return field, evaluated
        inputs = trainer.flow.control.ControlInputs(flow.parts.path, condition, counted, agreement.initial())
        controls = [config.build(inputs) for config in self._request.controls]
        return trainer.flow.control.controlled(field, controls), evaluated


def _mean_square(differences: Tensor) -> Tensor:
    """float64 [B, K] of [B, K, *D]: the mean of the squares of each."""
    return differences.double().square().flatten(2).mean(2)


def variance(samples: Tensor) -> Tensor:
    """float64 [*D] of samples [S, *D], without bias; 0 of one sample."""
    return samples.double().var(dim=0, correction=int(len(samples) > 1))
