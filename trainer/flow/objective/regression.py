"""Errors of predictions: of a target, beside features like a teacher, of approximated features, and of heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path as FilePath
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from moe.seeds import fold_in
from netsim.foundation.settings import Section
from trainer.flow.chain import Chain, by_value
from trainer.flow.condition import Condition, keyed_normal, keyed_uniform
from trainer.flow.objective.monge import MongeGap, Regularised
from trainer.flow.objective.protocol import BuiltIn, LossTerms, Model, Objective, ObjectiveInputs
from trainer.flow.path.protocol import PathSample
from trainer.flow.question import Approximation, HeadVelocities, NextStates, WithProjection
from trainer.flow.target import Quantity


class Squared(Section):
    """The square of the difference; nothing to set."""

    kind: Literal["squared"] = "squared"

    def __call__(self, difference: Tensor) -> Tensor:
        return difference.square()


class PseudoHuber(Section):
    """sqrt(difference^2 + scale^2) - scale: quadratic far below the scale, the absolute value far above it.

    Charbonnier et al., 1997; Wang et al., "Rectified Diffusion", arXiv 2410.07303, train with scale 1e-3.
    """

    kind: Literal["pseudo_huber"] = "pseudo_huber"
    scale: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    """Difference at which the error changes from quadratic to absolute."""

    def __call__(self, difference: Tensor) -> Tensor:
        return (difference.square() + self.scale**2).sqrt() - self.scale


Error = Annotated[Squared | PseudoHuber, Field(discriminator="kind")]

Point = tuple[Tensor, Tensor]
"""States [B, *D] and times [B]."""


def at_points(model: Model, condition: Condition, *points: Point) -> tuple[Tensor, ...]:
    """Predictions [B, *D] at each of several points of B examples, by one call with an example's points adjacent."""
    if len(points) == 1:
        ((x, t),) = points
        return (model(x, t, condition).to(x.dtype),)
    x, t = (torch.stack(values, dim=1).flatten(0, 1) for values in zip(*points, strict=True))
    rows = torch.arange(len(points[0][1]), device=t.device).repeat_interleave(len(points))
    predicted = model(x, t, condition.rows(rows)).to(x.dtype)
    return predicted.unflatten(0, (-1, len(points))).unbind(1)


@contextmanager
def not_learning(model: Model) -> Iterator[None]:
    """Passes in evaluation mode without gradients; modes are set module by module, so that no collective is called."""
    learning = [module for module in model.modules() if module.training] if isinstance(model, nn.Module) else []
    for module in learning:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in learning:
            module.training = True


class FieldWeights(Section):
    """Weights of the parts of a state."""

    image: float = Field(default=0.5, ge=0)
    """Weight of the mean error of the image."""
    label: float = Field(default=0.5, ge=0)
    """Weight of the mean error of the label's planes."""


class Spread(Section):
    """Keeps velocities from depending on where a path begins, so that all paths of a condition end at one point.

    The mean of 1 - cos over pairs of predictions at one time, on paths from several source points to one data point.
    The vectors compared are those along dimension 1, such as the velocity of an atom. Source: TS-GEN.
    """

    draws: int = Field(default=5, ge=2)
    """Source points of each example; the network is evaluated on so many times as many states."""
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Weight of this term beside the mean error."""


class Regression(BuiltIn):
    """The mean error of the prediction.

    Conditional flow matching: mean over D of the error of prediction - target. Sources: Lipman et al., arXiv
    2210.02747, equation 9; for errors in the space of the data Wang et al., arXiv 2410.07303, algorithm 1, and for
    parts of paths (phased) section 3.4; for antithetic pairs Albergo, Boffi and Vanden-Eijnden, arXiv 2303.08797,
    section 6.1.
    """

    kind: Literal["regression"] = "regression"
    error: Error = Squared()
    """Error of a difference."""
    space: Literal["prediction", "data", "velocity"] = "prediction"
    """The quantity that is compared: the prediction itself, the velocity, or the data point of the pair. A pair with an
    interval has the point at its end in place of the data point; a first-order step leads there from x_t."""
    antithetic: bool = False
    """Average over every point and its mirror, for less variance. The path must have noise of its own, and the network
    is evaluated on twice as many points."""
    monge_gap: MongeGap | None = None
    """Regulariser that keeps the map of one step from moving points more than necessary; null: none."""
    field_weights: Annotated[FieldWeights, Field(exclude_if=lambda weights: weights == FieldWeights())] = FieldWeights()
    """Weights of the mean errors of image and label, where a state has both."""
    spread: Annotated[Spread | None, Field(exclude_if=lambda spread: spread is None)] = None
    """Term that keeps paths of one condition together; null: they end wherever the data are."""

    def build(self, inputs: ObjectiveInputs) -> Self | Regularised | KeptTogether:
        built = super().build(inputs)
        if self.spread is not None:
            return KeptTogether(built, inputs, self.spread)
        return built if self.monge_gap is None else Regularised(built, inputs.target, self.monge_gap)

    def loss(self, model: Model, sample: PathSample, condition: Condition) -> LossTerms:
        """If a prediction has several fields, the terms are their mean errors."""
        if self.antithetic:
            assert sample.mirror is not None, "the rules of composition exclude other paths"
            sample, condition = sample.beside(sample.mirror), condition.beside(condition)
        estimate, truth = self._compared(model(sample.x_t, sample.t, condition), sample)
        errors = self.error(estimate - truth)
        if self._inputs.fields:
            return self._weighted(errors)
        values = errors.unflatten(0, (2, -1)).movedim(0, 1) if self.antithetic else errors
        if self.space != "prediction" or self._inputs.target.num_fields == 1:
            return LossTerms(values, {})
        name = f"mean_{self.error.kind}_error"
        fields = errors.detach().chunk(self._inputs.target.num_fields, dim=1)
        named = zip(self._inputs.target.quantities, fields, strict=True)
        return LossTerms(values, {f"{quantity}_{name}": field.mean() for quantity, field in named})

    def _weighted(self, errors: Tensor) -> LossTerms:
        """The mean error [B] of each example, a weighted sum over the fields of a state [B, C + P, *rest]."""
        fields = errors.split([*self._inputs.fields.values()], dim=1)
        means = {name: field.flatten(1).mean(1) for name, field in zip(self._inputs.fields, fields, strict=True)}
        values = self.field_weights.image * means["image"] + self.field_weights.label * means["label"]
        return LossTerms(values, {f"{name}_error": mean.detach().mean() for name, mean in means.items()})

    def _compared(self, prediction: Tensor, sample: PathSample) -> tuple[Tensor, Tensor]:
        match self.space:
            case "prediction":
                return prediction, self._inputs.target.make(sample)
            case "data":
                return self._data_of_the_pair(prediction, sample)
            case "velocity":
                return self._quantity(prediction, sample, "velocity"), sample.velocity

    def _data_of_the_pair(self, prediction: Tensor, sample: PathSample) -> tuple[Tensor, Tensor]:
        data = self._quantity(prediction, sample, "data")
        if sample.end is None:
            return data, sample.x_1
        end, noise = sample.end.broadcast(data), self._quantity(prediction, sample, "noise")
        return end.a * noise + end.b * data, end.a * sample.x_0 + end.b * sample.x_1

    def _quantity(self, prediction: Tensor, sample: PathSample, to: Quantity) -> Tensor:
        return self._inputs.target.convert(prediction.to(sample.x_t.dtype), sample.x_t, sample.t, to)


class KeptTogether(Objective):
    """A regression plus weight x disagreement of the velocities on paths from several source points to one end."""

    draws: ClassVar[bool] = True

    def __init__(self, regression: Objective, inputs: ObjectiveInputs, spread: Spread) -> None:
        self.regression, self.inputs, self.spread = regression, inputs, spread

    def loss(self, model: Model, sample: PathSample, condition: Condition) -> LossTerms:
        path, start, keys = self.inputs.path, self.inputs.start, sample.keys
        assert path is not None
        assert start is not None
        assert keys is not None, "an objective that draws gets keys"
        share, states = path.coefficients(sample.t).broadcast(sample.x_t).a, [sample.x_t]
        for number in range(1, self.spread.draws):
            other = start(sample.x_0.shape[1:], condition, fold_in(keys, number)).to(sample.x_0)
            states.append(sample.x_t + share * (other - sample.x_0))
        predictions = at_points(model, condition, *((x_t, sample.t) for x_t in states))
        regression = self.regression.loss(lambda *_: predictions[0], sample, condition)
        pairs = zip(predictions, states, strict=True)
        convert = self.inputs.target.convert
        apart = disagreement(torch.stack([convert(one.to(x_t.dtype), x_t, sample.t, "velocity") for one, x_t in pairs]))
        terms = regression.terms | {"spread": apart.detach().mean()}
        return LossTerms(regression.values + self.spread.weight * apart, terms)


def disagreement(velocities: Tensor) -> Tensor:
    """The mean of 1 - cos over pairs of velocities [K, B, C, *rest], [B, 1, *rest]; 0 where all are 0, as at rest."""
    number = len(velocities)
    lengths = velocities.square().sum(2, keepdim=True)
    directions = velocities / (lengths + 1e-12).sqrt()
    pairs = number * (number - 1)
    cosines = (directions.sum(0).square().sum(1, keepdim=True) - number) / pairs
    return torch.where((lengths > 0).any(0), 1 - cosines, 0.0)


class Aligned(BuiltIn):
    """The mean error of the prediction, minus the similarity of the network's features to a teacher's of the data.

    Mean error - weight x mean over tokens of cos(projected features at x_t, the teacher's features of x_1); a single
    vector of an example is compared with all of its tokens. Park et al., "Blockwise Flow Matching", arXiv 2510.21167,
    section 3.2; after Yu et al., "Representation Alignment for Generation", arXiv 2410.06940, equation 8.
    """

    kind: Literal["aligned"] = "aligned"
    teacher: FilePath
    """A feature extractor in a safetensors file, such as the features verb writes."""
    weight: float = Field(default=0.05, gt=0, allow_inf_nan=False)
    """Weight of the similarity, which is a cosine."""
    error: Error = Squared()
    """Error of a difference between prediction and target."""

    def loss(self, model: Callable[..., Any], sample: PathSample, condition: Condition) -> LossTerms:
        prediction, projected = model(sample.x_t, sample.t, condition, WithProjection())
        regression = Regression(error=self.error).build(self._inputs).loss(lambda *_: prediction, sample, condition)
        assert self._inputs.teacher is not None
        cosine = alignment(projected, self._inputs.teacher(sample.x_1))
        terms = {"prediction_error": regression.mean().detach(), "feature_cosine": cosine.mean().detach()}
        return LossTerms(regression.per_example - self.weight * cosine, regression.terms | terms)


def alignment(projected: Tensor, taught: Tensor) -> Tensor:
    """The mean cosine [B] over tokens of projections [B, N, F] and features [B, F] or [B, F, rows, columns]."""
    by_token = taught.flatten(2).transpose(1, 2) if taught.ndim > 2 else taught[:, None]
    return functional.cosine_similarity(projected, by_token.to(projected.dtype), dim=2).mean(1)


def tokens_of(shape: torch.Size | tuple[int, ...]) -> int | None:
    """Number of tokens that a teacher's features [F, *places] are compared with; any number (None) for a vector [F]."""
    return None if len(shape) == 1 else int(torch.Size(shape[1:]).numel())


class FeatureResidual(BuiltIn):
    """The squared error of approximated features; only the residual network is trained.

    Mean over tokens and width of (features(x_s, s) + share residual(x_t, t) - features(x_t, t))^2, where s is the first
    time of the segment of t, and x_s the state of the same pair. Park et al., arXiv 2510.21167, section 3.3.
    """

    kind: Literal["feature_residual"] = "feature_residual"

    def loss(self, model: Callable[..., Any], sample: PathSample, condition: Condition) -> LossTerms:
        """The figure for the metrics is the error divided by the mean square of the true features."""
        path = self._inputs.path
        assert path is not None

        def states_at(t: Tensor) -> Tensor:
            c = path.coefficients(t).broadcast(sample.x_1)
            return c.a * sample.x_0 + c.b * sample.x_1 + c.g * sample.noise

        approximated, true = model(sample.x_t, sample.t, condition, Approximation(states_at))
        errors = (approximated.float() - true.float()).square()
        return LossTerms(errors, {"feature_relative_error": errors.detach().mean() / true.float().square().mean()})


class Transition(BuiltIn):
    """The squared error of the head's velocity, for a network with a head.

    Mean over draws and D of (g(Y_s, s, h) - (Y - Y_0))^2, Y_s = (1 - s) Y_0 + s Y: Y is data less source, Y_0 is
    standard normal, s is uniform, another one for each token, h are the features of the tokens at (x_t, t). Draws are
    functions of the keys of the pairs. Shaul et al., "Transition Matching", arXiv 2506.23589, section 3 (difference
    transition matching).
    """

    kind: Literal["transition"] = "transition"
    draws: int = Field(default=4, ge=1)
    """States of the head for each state of the flow: the trunk is called once for all of them."""

    def loss(self, model: Callable[..., Any], sample: PathSample, condition: Condition) -> LossTerms:
        assert sample.keys is not None, "an objective that draws gets keys"
        y, num, keys = sample.velocity, self.draws, sample.keys
        y_0 = torch.stack([keyed_normal(y, keys, 2 * number) for number in range(num)])
        s = torch.stack([keyed_uniform(keys, self._inputs.tokens, 2 * number + 1) for number in range(num)])
        s_of_values = by_value(s, y.shape[1:]).to(y.dtype)
        y_s = (1 - s_of_values) * y_0 + s_of_values * y
        predicted: Tensor = model(sample.x_t, sample.t, condition, HeadVelocities(y_s, s))
        return LossTerms((predicted - (y - y_0)).square().movedim(0, 1), {})


TRANSITION, NOISES, STARTS, TIMES = range(4)
"""Numbers of the draws of an example: its transition, the noise of its states, where the head starts, and its times."""


class CausalTransition(BuiltIn):
    """The squared error of the head's velocities, from its noise to the tokens of the next state.

    Mean over draws, next states and values of (g(y_s, s, h) - (X_(t+1) - y_0))^2, y_s = (1 - s) y_0 + s X_(t+1), with
    X_t = (1 - t / T) noise_t + t / T x_1 for t = 0, ..., T, features h and a time s of each token. A network that reads
    only the last state learns one transition of each example; one that reads all states learns every transition. Shaul
    et al., arXiv 2506.23589, sections 3.2 and 3.3 (ARTM, FHTM).
    """

    kind: Literal["causal_transition"] = "causal_transition"
    process: Literal["linear", "independent"] = "independent"
    """independent: each state of a chain has noise of its own; linear: all share one noise and lie on a line."""
    draws: PositiveInt = 4
    """Noises and times of the head for each token, from one call of the network."""

    @property
    def chain(self) -> Chain:
        assert self._inputs.chain is not None
        return self._inputs.chain

    def loss(self, model: Callable[..., Any], sample: PathSample, condition: Condition) -> LossTerms:
        assert sample.keys is not None
        states, t = self.states(sample.x_0, sample.x_1, sample.keys)
        following = states[1:]
        num, several = len(sample.x_1), (self.draws, *following.shape[:2])
        y_0 = keyed_normal(sample.x_1.new_empty(num, *several[:2], *self.chain.shape), sample.keys, STARTS)
        y_0 = y_0.movedim(0, 2)
        count = several[0] * several[1] * self.chain.num_tokens
        s = keyed_uniform(sample.keys, count, TIMES).view(num, *several[:2], -1).movedim(0, 2)
        velocity = following - y_0
        share = self.chain.states(s[..., None].expand(*s.shape, self.chain.token_values))
        predicted = model(states[0], t, condition, NextStates(following, y_0 + share * velocity, s))
        return LossTerms((predicted - velocity).square().movedim(2, 0), {})

    def states(self, x_0: Tensor, x_1: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """States [K + 1, B, *D] of chains for one pass, the first with noise `x_0`, and the time [B] of the first."""
        total, following = self.chain.transitions, self.chain.read_at_once
        first = torch.zeros_like(keys)
        if self.chain.history == "last":
            first = (keyed_uniform(keys, 1, TRANSITION)[:, 0] * total).long()
        noises = x_0.expand(following, *x_0.shape)
        if self.process == "independent":
            noises = keyed_normal(x_1.new_empty(len(x_1), following, *x_1.shape[1:]), keys, NOISES).movedim(1, 0)
        noises = torch.cat([x_0[None], noises])
        numbers = first + torch.arange(following + 1, device=keys.device)[:, None]
        share = (numbers.to(x_1) / total).view(*numbers.shape, *[1] * (x_1.ndim - 1))
        return (1 - share) * noises + share * x_1, first.to(x_1) / total
