"""Restorations of batches of pictures by a trained flow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import trainer.data
from moe.seeds import fold_in
from netsim.foundation.refusal import Refusal
from trainer.flow import Condition
from trainer.flow.condition import keyed_normal
from trainer.flow.context import Identity
from trainer.flow.control import ControlInputs, controlled
from trainer.flow.inverse import Consistency, InverseSolver, agreeing, calibration_errors
from trainer.flow.operator import Mask, Operator
from trainer.flow.sampler import Field
from trainer.model.network import Network
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.flow import keys_of, states_of_images
from trainer.sampling.requested_pictures import Pictures
from trainer.sampling.restore_request import RestorePlan

CALIBRATION = "calibration.json"
EXAMPLES = 256
"""Training examples by which the errors are measured."""
DIGITS = 6
"""Decimal digits to which an error is rounded."""


def measured_errors(flow: TrainedFlow, *, labelled: bool, guidance: float, seed: int, together: int) -> Tensor:
    """Means of `calibration_errors` over training examples, float64 [L], rounded so that all ranks agree."""
    try:
        dataset = trainer.data.build(flow.config.data)
        batch = dataset.get(trainer.data.first_data_points(dataset, "train", EXAMPLES))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"method.weight: calibrated is measured on examples of the run, which cannot be read ({error}); bring them "
            "back, or use constant"
        ) from error
    errors = []
    for own in torch.arange(len(batch.x_1)).split(together):
        keys = keys_of(own, "calibration", seed=seed).to(flow.device)
        examples = batch.x_1[own].to(flow.device)
        states = flow.parts.states_of(examples, torch.Generator().manual_seed(int(own[0])))
        known = batch.labels[own] if labelled and batch.labels is not None else None
        label = torch.full((len(own),), flow.parts.null_label) if known is None else known
        condition = Condition(label=label, caption=no_captions(flow, len(own))).to(flow.device)
        field = flow.parts.field(flow.model, condition, guidance)
        errors.append(calibration_errors(field, states, flow.parts.path, keys).cpu())
    means = torch.cat(errors).mean(0).tolist()
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
    """Result for one observation.

    Attributes:
        arrays: ``observed`` and its ``pseudo_inverse`` [C, H, W], ``restored`` [S, C, H, W], and where they are known
            the ``truth`` [C, H, W] and the hidden pixels as ``hole`` [1, H, W]; ``residuals``, and beside a truth
            ``errors``, are float64 [S + 2] means over the values of squared differences: of the pseudo-inverse, of each
            sample, and of the mean of the samples. ``spread``, float64 [1], is the mean unbiased variance of the
            samples, and ``evaluations``, int64 [1], counts those of the network for all samples. Where states are
            latents, ``decoded_residuals``, float64 [S], are those of the decoded samples before they are brought into
            agreement.
        problem: why there are no arrays; empty if there are.
    """

    arrays: Mapping[str, Tensor]
    problem: str = ""


class _CountedNetwork:
    """A network, and the number of examples that it has computed."""

    def __init__(self, network: Network) -> None:
        self.network, self.examples = network, 0

    def __call__(self, x: Tensor, t: Tensor, condition: Condition, *questions: Any) -> Tensor:
        self.examples += len(x)
        return self.network(x, t, condition, *questions)


class Restoration:
    """Restorations of a run's pictures."""

    def __init__(self, flow: TrainedFlow, plan: RestorePlan, pictures: Pictures, solver: InverseSolver) -> None:
        self._flow, self._plan, self._pictures, self._solver = flow, plan, pictures, solver
        self._request = plan.request
        self._coded = not isinstance(flow.parts.space, Identity)
        """Whether states are latents."""

    @torch.no_grad()
    def restored(self, rows: Tensor) -> list[Restored]:
        """Restores the pictures at places int64 [B], as a function of them alone."""
        images, problems = self._pictures.readable(rows)
        images, operator = images.to(self._flow.device), self._operator(rows)
        observed = self._observed(rows, images, operator)
        pseudo_inverse, samples = operator.pseudo_inverse(observed), self._samples(rows, observed)
        restored = samples["restored"]
        candidates = torch.cat([pseudo_inverse[:, None], restored, restored.mean(dim=1, keepdim=True)], dim=1)
        residuals = torch.stack([operator.apply(images) - observed for images in candidates.unbind(1)], dim=1)
        arrays = {
            "observed": observed,
            "pseudo_inverse": pseudo_inverse,
            "residuals": _mean_square(residuals),
            "spread": torch.stack([variance(one).mean() for one in restored])[:, None],
            **samples,
        }
        if not self._request.observed:
            arrays |= {"truth": images, "errors": _mean_square(candidates - images[:, None])}
        if isinstance(operator, Mask):
            arrays["hole"] = operator.hole.expand(len(rows), -1, -1, -1)
        arrays = {name: values.cpu() for name, values in arrays.items()}
        return [
            Restored({}, problems[row])
            if row in problems
            else Restored({name: values[place] for name, values in arrays.items()})
            for place, row in enumerate(rows.tolist())
        ]

    def _operator(self, rows: Tensor) -> Operator:
        """The operator of some pictures; its random draws for a picture depend on the seed and the picture's name."""
        numbers = self._pictures.keys(rows, "operator", seed=self._request.seed)
        return self._request.operator.build(
            self._plan.image_shape, numbers, seed=self._request.seed, device=self._flow.device
        )

    def _observed(self, rows: Tensor, images: Tensor, operator: Operator) -> Tensor:
        """The observations, projected on the operator's range; this removes noise that no picture could cause."""
        observed = images
        if not self._request.observed:
            observed = operator.apply(images)
            if self._request.noise > 0:
                keys = self._pictures.keys(rows, "noise", seed=self._request.seed)
                observed = observed + self._request.noise * keyed_normal(observed, keys, 0)
        return operator.apply(operator.pseudo_inverse(observed))

    def _samples(self, rows: Tensor, observed: Tensor) -> dict[str, Tensor]:
        """Solves the inverse problem of each observation [B, ...] as often as there are samples, all at once.

        Returns ``restored``, ``evaluations`` and ``decoded_residuals`` as in `Restored`, for each observation.
        """
        flow, count = self._flow, self._request.samples
        rows_of_samples, repeated = rows.repeat_interleave(count), observed.repeat_interleave(count, dim=0)
        operator, network = self._operator(rows_of_samples), _CountedNetwork(flow.model)
        agreement = self._agreement(operator, repeated)
        field = self._field(network, rows_of_samples, agreement)
        keys = self._pictures.keys(rows, "restored", seed=self._request.seed)
        keys = fold_in(keys[:, None], torch.arange(count)).flatten().to(flow.device)
        states = self._solver.solve(field, agreement, keys=keys).states
        images = flow.parts.space.decode(flow.parts.data_of(states))
        samples = {"evaluations": torch.full((len(rows), 1), network.examples // len(rows))}
        if self._coded:
            residuals = _mean_square((operator.apply(images) - repeated)[:, None])
            samples["decoded_residuals"] = residuals.reshape(len(rows), count)
            if self._request.method.consistency == "hard":
                images = agreeing(operator, repeated, images)
        return {"restored": images.unflatten(0, (len(rows), count)), **samples}

    def _agreement(self, operator: Operator, observed: Tensor) -> Consistency:
        parts, method = self._flow.parts, self._request.method
        if not self._coded:
            return method.agreement(operator, observed, scale=parts.data_scale)
        return method.agreement(
            operator,
            observed,
            decode=lambda states: parts.space.decode(parts.data_of(states)),
            initial=states_of_images(parts.space, operator.pseudo_inverse(observed)) * parts.data_scale,
        )

    def _field(self, network: _CountedNetwork, rows: Tensor, agreement: Consistency) -> Field:
        """The field of some pictures under the request's controls."""
        flow, plan = self._flow, self._plan
        label = torch.full((len(rows),), flow.parts.null_label if plan.label is None else plan.label)
        if plan.label is None and plan.labelled:
            assert self._pictures.labels is not None
            label = self._pictures.labels[rows]
        condition = Condition(label=label, caption=no_captions(flow, len(rows))).to(flow.device)
        field = flow.parts.field(network, condition, plan.guidance)
        if not self._request.controls:
            return field
        inputs = ControlInputs(flow.parts.path, condition, network, agreement.initial())
        return controlled(field, [config.build(inputs) for config in self._request.controls])


def _mean_square(differences: Tensor) -> Tensor:
    """Mean squares float64 [B, K] of values [B, K, *D]."""
    return differences.double().square().flatten(2).mean(2)


def variance(samples: Tensor) -> Tensor:
    """Unbiased variance float64 [*D] of samples [S, *D]; 0 for one sample."""
    return samples.double().var(dim=0, correction=int(len(samples) > 1))
