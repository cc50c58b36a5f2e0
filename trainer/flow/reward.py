"""Rewards: how good a drawn example is, by ink, by distance, by a classifier, or by a custom class.

reward = config.build(RewardInputs(shape=(1, 8, 8), num_classes=10, labelled=read, seed=0))
rewards = reward(examples, condition)  # [B]

Shape suffixes: N training examples, B batch, D values of an example, C classes.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from moe.host_copies import to_device
from netsim.foundation.own_class import KindOrClass, OwnClass, build_own
from netsim.foundation.picture_file import BadPicture, read_picture
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.flow.condition import Condition


class Reward(Protocol):
    """A value of each example, the larger the better; it need not be differentiable."""

    def __call__(self, examples: Tensor, condition: Condition, /) -> Tensor:
        """Rewards float [B], each a function of its row alone; larger is better.

        Examples [B, *shape] are decoded: images from -1 to 1, or points; never latents.
        """
        ...


@dataclass(frozen=True)
class RewardInputs:
    """Whatever a reward may be built from; `num_classes` 0 if absent.

    `labelled` reads training examples, float32 [N, *shape] on the CPU, and their classes, int64 [N], the same on every
    rank; it is called once, by a reward that learns from them.
    """

    shape: tuple[int, ...]
    num_classes: int
    labelled: Callable[[], tuple[Tensor, Tensor]]
    seed: int


class CheckedReward(Reward):
    """Calls a reward, and raises ValueError with its name unless it gives every example a finite reward.

    On a device, the number of bad values is copied to the host without a wait. The error is raised by the first call
    after the end of the copy, or by `settle`.
    """

    def __init__(self, reward: Reward, name: str, *, differentiable: bool) -> None:
        self.name, self.differentiable = name, differentiable
        self._reward = reward
        self._pending: list[tuple[Tensor, int, Any]] = []

    def __call__(self, examples: Tensor, condition: Condition, /) -> Tensor:
        self._raise_known()
        rewards = self._reward(examples, condition)
        if not isinstance(rewards, Tensor):
            raise ValueError(f"{self._subject} returns {type(rewards).__name__}; return a tensor [{len(examples)}]")
        if rewards.shape != (len(examples),) or not rewards.is_floating_point():
            returned = f"{str(rewards.dtype).removeprefix('torch.')} {list(rewards.shape)}"
            raise ValueError(
                f"{self._subject} returns {returned} for {len(examples)} examples; return floats [{len(examples)}]"
            )
        needs_gradient = self.differentiable and torch.is_grad_enabled() and examples.requires_grad
        if needs_gradient and not rewards.requires_grad:
            raise ValueError(
                f"{self._subject} has no gradient in the examples; compute it from them by operations of torch, or say "
                "differentiable = False in the class"
            )
        self._look_at(rewards.detach())
        return rewards

    def settle(self) -> None:
        """Waits until the values of all calls so far are checked; raises ValueError if one was not finite."""
        for _, _, copied in self._pending:
            copied.synchronize()
        self._raise_known()

    @property
    def _subject(self) -> str:
        return f"reward {self.name}"

    def _look_at(self, rewards: Tensor) -> None:
        bad = (~rewards.isfinite()).sum()
        if rewards.device.type == "cpu":
            self._judge(int(bad), len(rewards))
            return
        on_host = bad.to("cpu", non_blocking=True)
        copied = torch.get_device_module(rewards.device).Event()
        copied.record()
        self._pending.append((on_host, len(rewards), copied))

    def _raise_known(self) -> None:
        """Raises if a call whose copy is complete had bad values; takes calls in their order and never waits."""
        while self._pending and self._pending[0][2].query():
            bad, num, _ = self._pending.pop(0)
            self._judge(int(bad), num)

    def _judge(self, bad: int, num: int) -> None:
        if bad:
            raise ValueError(
                f"{self._subject} is not finite for {bad} of {num} examples; return a finite number for every example"
            )


class BuiltIn(Section):
    """A reward that is made of its settings and of examples."""

    differentiable: ClassVar[bool] = True
    kind: str

    def build(self, inputs: RewardInputs) -> CheckedReward:
        return CheckedReward(self.made(inputs), self.kind, differentiable=True)

    @abstractmethod
    def made(self, inputs: RewardInputs) -> Reward:
        """Builds the reward, whose values are not yet checked."""


SOFTNESS = 0.1
"""Brightness on both sides of mid grey over which a pixel turns from paper to stroke."""


class Ink(BuiltIn):
    """How much of an image is bright."""

    kind: Literal["ink"] = "ink"
    measure: Literal["brightness", "strokes"] = "brightness"
    """brightness: the mean of all pixels, from 0 for black to 1 for white; strokes: the share of pixels above mid grey,
    with a soft step so that it has a gradient."""
    weight: float = 1.0
    """Factor of the amount of brightness; below 0: the darker the better."""

    def __call__(self, examples: Tensor, condition: Condition, /) -> Tensor:  # noqa: ARG002
        values = examples.flatten(1)
        pixels = (values + 1) / 2 if self.measure == "brightness" else (values / SOFTNESS).sigmoid()
        return self.weight * pixels.mean(1)

    def made(self, inputs: RewardInputs) -> Reward:  # noqa: ARG002
        return self


class Distance(BuiltIn):
    """Minus the Euclidean distance to a point or a picture."""

    kind: Literal["distance"] = "distance"
    target: Annotated[tuple[float, ...], Field(min_length=1)] | Path
    """The coordinates of a point; or a picture, which is cut and resized as images are."""

    def made(self, inputs: RewardInputs) -> Reward:
        """A Refusal for a picture that cannot be read, a ValueError for examples of another shape than the target."""
        shape, target = list(inputs.shape), self.target
        if isinstance(target, tuple):
            if shape != [len(target)]:
                problem = f"a point of {len(target)} coordinates, and examples have shape {shape}"
                remedy = f"write {shape[0]} coordinates" if len(shape) == 1 else "name a picture"
                raise ValueError(f"target: is {problem}; {remedy}")
            return DistanceTo(torch.tensor(target))
        if len(shape) != 3 or shape[0] not in (1, 3):
            remedy = "write coordinates" if len(shape) == 1 else "use a reward of your own"
            raise ValueError(f"target: {target} is a picture, and examples have shape {shape}; {remedy}")
        try:
            pixels = read_picture(target, *shape)
        except BadPicture as error:
            raise Refusal(target, "target", str(error), "give a picture that examples should be near to") from error
        return DistanceTo(torch.from_numpy(pixels.copy()).float() / 127.5 - 1)


class DistanceTo(Reward):
    """Minus the Euclidean distance over all values of an example."""

    def __init__(self, target: Tensor) -> None:
        self._target = target

    def __call__(self, examples: Tensor, condition: Condition, /) -> Tensor:  # noqa: ARG002
        if self._target.device != examples.device:
            self._target = to_device(self._target, examples.device)
        return -torch.linalg.vector_norm((examples - self._target).flatten(1), dim=1)


GRID = 2.0**-12
"""Grid of the rounded weights. The fit ends a billion times closer to its one optimum, so that machines whose
sums differ in the last digits end with the same bits."""

TOLERANCE = 1e-13
"""Largest slope of the fitted loss at its end, which Newton steps pass by far."""


class Classifier(BuiltIn):
    """Log-probability of the requested class, by a classifier of the training examples."""

    kind: Literal["classifier"] = "classifier"
    ridge: float = Field(default=1e-3, gt=0)
    """Penalty on the squares of the classifier's weights: larger values make it less sure, and its reward smoother."""

    def made(self, inputs: RewardInputs) -> FittedClassifier:
        """Fits a classifier to the training examples, to the same bits on every rank and on another machine.

        The strictly convex loss is minimised in float64 on the CPU far beyond the grid that weights are rounded to.
        ValueError: data without classes, a class without examples, or examples that are all equal.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression  # nearly a second to import

        if inputs.num_classes < 2:
            raise ValueError(
                f"kind: classifier tells classes apart, and the data have {inputs.num_classes}; use data with "
                "classes, or reward ink, distance or one of your own"
            )
        examples, labels = inputs.labelled()
        counts = labels.bincount(minlength=inputs.num_classes)
        if int(counts.min()) == 0:
            missing = int(counts.argmin())
            raise ValueError(
                f"kind: classifier has no training example of class {missing}; bring some, or drop the class"
            )
        values_ND = examples.flatten(1).double()
        centre_D = values_ND.mean(0)
        scale = (values_ND - centre_D).square().mean().sqrt()
        if not float(scale) > 0:
            raise ValueError(
                "kind: classifier cannot tell training examples apart that are all equal; correct the data"
            )
        model = LogisticRegression(
            C=1 / (self.ridge * len(values_ND)), solver="newton-cg", tol=TOLERANCE, max_iter=1000
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", UserWarning)  # the last digits of a line search
            model.fit(((values_ND - centre_D) / scale).numpy(), labels.numpy())
        weight_CD, bias_C = torch.as_tensor(model.coef_), torch.as_tensor(model.intercept_)
        if len(weight_CD) == 1:  # one logit for two classes
            weight_CD, bias_C = torch.cat([-weight_CD, weight_CD]) / 2, torch.cat([-bias_C, bias_C]) / 2
        weight_CD, bias_C = ((part - part.mean(0)).div(GRID).round().mul(GRID).float() for part in (weight_CD, bias_C))
        return FittedClassifier(weight_CD, bias_C, centre_D.float(), scale.float())


class FittedClassifier(Reward):
    """log p(requested class | example), or of the likeliest if none is, by logistic regression of scaled examples."""

    def __init__(self, weight_CD: Tensor, bias_C: Tensor, centre_D: Tensor, scale: Tensor) -> None:
        self.weight_CD, self.bias_C, self._centre_D, self._scale = weight_CD, bias_C, centre_D, scale

    def __call__(self, examples: Tensor, condition: Condition, /) -> Tensor:
        if condition.label is None:
            raise ValueError("kind: classifier rewards the requested class, and no class is requested; ask for classes")
        log_BC = self.log_probabilities(examples)
        log_BC = torch.cat([log_BC, log_BC.amax(1, keepdim=True)], dim=1)
        return log_BC.gather(1, condition.label[:, None])[:, 0]

    def log_probabilities(self, examples: Tensor) -> Tensor:
        if self.bias_C.device != examples.device:
            parts = (self.weight_CD, self.bias_C, self._centre_D, self._scale)
            self.weight_CD, self.bias_C, self._centre_D, self._scale = (
                to_device(part, examples.device) for part in parts
            )
        values_BD = (examples.flatten(1).float() - self._centre_D) / self._scale
        return torch.nn.functional.linear(values_BD, self.weight_CD, self.bias_C).log_softmax(1)


class OwnReward(OwnClass, frozen=True):
    """A class that keeps `Reward`; its constructor may take any part of `RewardInputs`.

    It has a gradient in the examples unless it says ``differentiable = False``.
    """

    protocol: ClassVar[str] = "trainer.flow.reward.Reward"
    passed: ClassVar[tuple[str, ...]] = ("shape", "num_classes", "labelled", "seed")

    @property
    def differentiable(self) -> bool:
        return bool(getattr(self.imported(), "differentiable", True))

    def build(self, inputs: RewardInputs) -> CheckedReward:
        return CheckedReward(build_own(self, **vars(inputs)), self.kind, differentiable=self.differentiable)


AnyConfig = Ink | Distance | Classifier | OwnReward
Config = Annotated[AnyConfig, KindOrClass()]
