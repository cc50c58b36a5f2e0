"""Features of points of two surfaces whose functional maps agree with each other.

Shape suffixes: B pairs, P points, K eigenfunctions, W values of a feature, S directions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

import trainer.data
from moe.host_copies import to_device
from moe.ot import wasserstein_1d
from trainer.config.run import RunConfig
from trainer.config.sample import SurfaceSample
from trainer.config.task import CorrespondenceTaskConfig
from trainer.data import Batch
from trainer.data.surfaces import Pair, SurfacePairs
from trainer.evaluation.correspondence import Features, matched, own_map
from trainer.evaluation.correspondence_page import CorrespondenceMeasurement, show_pairs
from trainer.flow.objective import LossTerms
from trainer.model.network import Network
from trainer.observe.measurement import Measurement, MeasurementSpec, Progress
from trainer.training.task import Builders, MicroBatchTask, Networks

LEAST = 1e-6
"""Added to the diagonal of matrices before inversion, relative to its mean."""


class DrawnPairs(NamedTuple):
    """Pairs of surfaces, as data of kind surfaces give them.

    Attributes:
        signatures: [B, 2, P, D].
        context: [B, 2, P + 1, 1 + K].
        directions: [S, W] of length 1; None: there is no sliced transport.
    """

    log_weight: None
    signatures: Tensor
    context: Tensor
    directions: Tensor | None
    sources: Tensor | None = None


class Side(NamedTuple):
    """One surface of each pair: areas [B, P], eigenvalues [B, K], eigenfunctions [B, P, K], features [B, P, W]."""

    areas: Tensor
    eigenvalues: Tensor
    functions: Tensor
    features: Tensor

    @classmethod
    def of(cls, context: Tensor, features: Tensor) -> Side:
        return cls(context[:, 1:, 0], context[:, 0, 1:], context[:, 1:, 1:], features)

    def spectral(self, values_BPW: Tensor) -> Tensor:
        """Coefficients [B, K, W] of functions at the points, in float64; sampled eigenfunctions are not orthonormal."""
        functions_BPK = self.functions.double()
        weighted_BKP = (self.areas[..., None] * functions_BPK).mT
        return _solved(weighted_BKP @ functions_BPK, weighted_BKP @ values_BPW.double())


def functional_maps(first: Side, second: Side, smoothness: float) -> Tensor:
    """Functional maps [B, K, K], float64, that carry functions, such as features, from the first side to the second.

    Row i is C_i = b_i A' (A A' + smoothness diag(D_i))^-1, D_ij the squared difference of eigenvalues in units of the
    largest: Ren et al., "Structured regularization of functional map computations", 2019, section 3.
    """
    a_BKW, b_BKW = first.spectral(first.features), second.spectral(second.features)
    largest = torch.maximum(first.eigenvalues.amax(1), second.eigenvalues.amax(1))[:, None, None]
    apart_BKK = ((second.eigenvalues[:, :, None] - first.eigenvalues[:, None]) / largest).square()
    gram_BKK = a_BKW @ a_BKW.mT
    penalised = gram_BKK[:, None] + smoothness * apart_BKK.diag_embed()
    return _solved(penalised, (a_BKW @ b_BKW.mT).mT[..., None])[..., 0]


def likened(of: Side, among: Side, temperature: float) -> Tensor:
    """Soft assignment [B, P, P] of the points of `of` to those of `among`; rows sum to 1, padding points get 0."""
    absent = among.areas[:, None] == 0
    alike = (of.features @ among.features.mT / temperature).masked_fill(absent, torch.finfo(torch.float32).min)
    return alike.softmax(-1)


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    """Solves systems with positive matrices; the host does not wait for a check."""
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    lifted = matrix + (LEAST * diagonal.mean(-1, keepdim=True)).expand_as(diagonal).diag_embed()
    return torch.linalg.solve_ex(lifted, right).result


class CorrespondenceTask(MicroBatchTask[DrawnPairs]):
    """Losses that make functional maps agree with maps of points that can be inverted and keep areas."""

    def __init__(self, config: RunConfig) -> None:
        assert isinstance(config.task, CorrespondenceTaskConfig)
        self.config, self.settings = config, config.task
        self._width: int = getattr(config.model, "features", 0)  # the layout is refused without

    def draw_one(self, batch: Batch, generator: torch.Generator) -> DrawnPairs:
        assert batch.context is not None, "data of kind surfaces have eigenfunctions"
        directions = None
        if self.settings.sliced:
            drawn = torch.randn(self.settings.slices, self._width, generator=generator)
            directions = to_device(torch.nn.functional.normalize(drawn, dim=1), batch.x_1.device)
        return DrawnPairs(None, batch.x_1, batch.context, directions, batch.sources)

    def loss(self, model: Callable[..., Any], drawn: DrawnPairs) -> LossTerms:
        settings, features = self.settings, model(drawn.signatures)
        sides = [Side.of(drawn.context[:, side], features[:, side]) for side in range(2)]
        identity = torch.eye(drawn.context.shape[-1] - 1, dtype=torch.float64, device=features.device)
        maps, per_term = [], {name: [] for name in ("orthogonality", "alignment", "sliced")}
        for first, second in (sides, sides[::-1]):
            carries = functional_maps(first, second, settings.smoothness)
            plan = likened(second, first, settings.temperature)
            maps.append(carries)
            per_term["orthogonality"].append(_squared(carries.mT @ carries - identity))
            per_term["alignment"].append(_squared(carries - second.spectral(plan @ first.functions)))
            if drawn.directions is not None:
                carried = plan.detach() @ first.features
                per_term["sliced"].append(sliced(second, carried, drawn.directions))
        per_term["bijectivity"] = [_squared(one @ other - identity) for one, other in (maps, maps[::-1])]
        terms = {name: torch.stack(both).sum(0).float() for name, both in per_term.items() if both}
        loss = torch.stack([getattr(settings, name) * values for name, values in terms.items()]).sum(0)
        return LossTerms(loss, {name: values.detach().mean() for name, values in terms.items()})

    def show(self, networks: Networks, stem: Path, *, seed: int) -> None:  # noqa: ARG002
        pairs = self._shown
        with networks.average() as model:
            features = [features_of(model, pair) for pair in pairs]
        if dist.get_rank() == 0:
            maps = (own_map(pair, values, self._sample)[0] for pair, values in zip(pairs, features, strict=True))
            show_pairs([*zip(pairs, maps, strict=True)], stem)

    def measure(self, networks: Networks, spec: MeasurementSpec, progress: Progress) -> Measurement:
        measured = []
        for number, pair in enumerate(self._shown, 1):
            progress(f"matching pair {number} of {len(self._shown)}")
            with networks.average() as model:
                features = features_of(model, pair)
            mirror, temperature = self._dataset.config.mirror, self.settings.temperature
            measured.append(matched(pair, features, self._sample, temperature=temperature, mirror=mirror))
        return CorrespondenceMeasurement(spec.checkpoint, measured)

    @property
    def _sample(self) -> SurfaceSample:
        assert isinstance(self.config.sample, SurfaceSample)
        return self.config.sample

    @cached_property
    def _dataset(self) -> SurfacePairs:
        dataset = trainer.data.build(self.config.data)
        assert isinstance(dataset, SurfacePairs)
        return dataset

    @cached_property
    def _shown(self) -> list[Pair]:
        """The first held-out pairs."""
        return [self._dataset.pair(number) for number in self._dataset.indices("held_out")[: self._sample.num].tolist()]


def features_of(model: Network, pair: Pair) -> Features:
    """Features of all vertices of both surfaces; collective where ranks share the network."""
    device = next(model.parameters()).device
    first, second = (
        model(torch.from_numpy(side.signatures).float().to(device)).double().cpu().numpy()
        for side in (pair.first, pair.second)
    )
    return first, second


def sliced(side: Side, carried: Tensor, directions_SW: Tensor) -> Tensor:
    """Squared sliced transport distances [B] of the points' features from those carried to them, weighted by area."""
    masses = side.areas[:, None]
    own, other = (directions_SW @ values.mT for values in (side.features, carried))
    return wasserstein_1d(own, other, masses, masses).mean(-1)


def _squared(matrix_BKK: Tensor) -> Tensor:
    """Squared Frobenius norms [B], divided by the number of rows."""
    return matrix_BKK.square().sum((1, 2)) / matrix_BKK.shape[-1]


TASKS: Builders = {CorrespondenceTaskConfig: CorrespondenceTask}
