"""The quantity that a network predicts: the protocol, its kinds, and the union `Config` of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, Self, cast

import torch
from torch import Tensor

from netsim.foundation.own_class import KindOrClass, OwnClass, build_own
from netsim.foundation.settings import Section
from trainer.flow.letters import centred
from trainer.flow.path.protocol import End, Path, PathSample
from trainer.flow.target.conversion import Quantity, convert, convert_pair, determines, pair_determines


class Target(Protocol):
    """A quantity that a network can be trained on, and its conversion into the others.

    Attributes:
        quantities: the quantities of a prediction, in order.
        num_fields: number of quantities, 1 unless a network predicts several. They are concatenated in dimension 1: for
            states [B, C, *rest] a prediction is [B, num_fields C, *rest].
        end: the only end of the path that a prediction estimates; None if it depends on both. Where the state equals
            that end, the prediction is the state, and the velocity is undetermined.
    """

    quantities: ClassVar[tuple[Quantity, ...]]
    num_fields: ClassVar[int] = 1
    end: ClassVar[End | None] = None

    @classmethod
    def determines(cls, quantity: Quantity, path: Path) -> bool:  # noqa: ARG003
        """Whether a prediction on `path` determines a quantity at every time in (0, 1): whether `convert` gives it."""
        return quantity in cls.quantities

    def make(self, sample: PathSample) -> Tensor:
        """Returns the value that the network is trained to predict at `sample`, [B, num_fields C, *rest]."""
        ...

    def convert(self, prediction: Tensor, x_t: Tensor, t: Tensor, to: Quantity) -> Tensor:
        """Converts a prediction of this target into another quantity [B, *D].

        Args:
            prediction: [B, num_fields C, *rest] output of the network.
            x_t: [B, *D] the state of the prediction.
            t: [B] times in [0, 1].
            to: "velocity", "data" (the estimate of x_1), "noise" (the estimate of z where the path adds noise of its
                own, of x_0 where it does not), "score" (the gradient of the log density; where the path adds no noise
                of its own, the source must be standard normal and independent of the data) or "v_prediction"
                (b x_0 - a x_1, where a^2 + b^2 = 1).

        Raises:
            ValueError: the path has no coefficients, or the prediction does not determine the quantity on it.
        """
        ...


class BuiltIn(Section):
    """A target that is its settings, and is built on the path of the states."""

    quantities: ClassVar[tuple[Quantity, ...]]
    num_fields: ClassVar[int] = 1
    end: ClassVar[End | None] = None
    if TYPE_CHECKING:
        _path: ClassVar[Path]  # of the instance that `build` returns

    def build(self, path: Path) -> Self:
        built = self.model_copy()
        vars(built)["_path"] = path  # read in every step; a private attribute of pydantic takes microseconds
        return built


class Single(BuiltIn):
    """One quantity, which is converted into others by the coefficients of the path."""

    @classmethod
    def determines(cls, quantity: Quantity, path: Path) -> bool:
        (source,) = cls.quantities
        return determines(source, quantity, path)

    def convert(self, prediction: Tensor, x_t: Tensor, t: Tensor, to: Quantity) -> Tensor:
        (source,) = self.quantities
        return convert(prediction, x_t, t, self._path, source=source, to=to)


class Velocity(Single):
    """The network predicts dx/dt; nothing to set.

    The conditional mean of the velocity transports the source to the data: Lipman et al., arXiv 2210.02747, theorem 2.
    """

    kind: Literal["velocity"] = "velocity"
    quantities: ClassVar[tuple[Quantity, ...]] = ("velocity",)

    def make(self, sample: PathSample) -> Tensor:
        return sample.velocity


class Data(Single):
    """The network predicts the data point x_1; nothing to set.

    Its conditional mean is the denoised state: Salimans and Ho, arXiv 2202.00512, section 4.
    """

    kind: Literal["data"] = "data"
    quantities: ClassVar[tuple[Quantity, ...]] = ("data",)
    end: ClassVar[End | None] = "data"

    def make(self, sample: PathSample) -> Tensor:
        return sample.x_1


class Noise(Single):
    """The network predicts the noise in the state: z where the path adds noise of its own, else x_0.

    The conditional mean of z is the score times -g, that of x_0 times -a if the source is standard normal and
    independent of the data. Ho et al., arXiv 2006.11239, section 3.2.
    """

    kind: Literal["noise"] = "noise"
    quantities: ClassVar[tuple[Quantity, ...]] = ("noise",)
    end: ClassVar[End | None] = "source"

    def make(self, sample: PathSample) -> Tensor:
        return sample.noise


class Score(Single):
    """The network predicts the gradient of the log density; nothing to set.

    -z / g, or -x_0 / a on a path without noise of its own from a standard normal source independent of the data; the
    divisor is at least 1e-3 of the path's noise scale. Vincent, 2011; Song et al., arXiv 2011.13456, equation 7.
    """

    kind: Literal["score"] = "score"
    quantities: ClassVar[tuple[Quantity, ...]] = ("score",)
    end: ClassVar[End | None] = "source"

    def make(self, sample: PathSample) -> Tensor:
        return convert(sample.noise, sample.x_t, sample.t, self._path, source="noise", to="score")


class VPrediction(Single):
    """The network predicts b x_0 - a x_1 on a path with a^2 + b^2 = 1; nothing to set.

    (state, v) is (x_0, x_1) after a rotation: Salimans and Ho, arXiv 2202.00512, appendix D, alpha is b and sigma a.
    """

    kind: Literal["v_prediction"] = "v_prediction"
    quantities: ClassVar[tuple[Quantity, ...]] = ("v_prediction",)

    def build(self, path: Path) -> Self:
        if not path.preserves_variance:
            raise ValueError(
                "flow.target.kind: v_prediction is defined on a path with a^2 + b^2 = 1; use a variance-preserving "
                "path, or another target"
            )
        return super().build(path)

    def make(self, sample: PathSample) -> Tensor:
        c = self._path.coefficients(sample.t).broadcast(sample.x_t)
        return c.b * sample.x_0 - c.a * sample.x_1


class Token(Single):
    """The network predicts logits of the letter at each place of a sequence; nothing to set.

    Their softmax over dimension 1 is the conditional mean of the data: states are of one-hot letters, less their mean
    1 / V. Guidance mixes logits, and so distributions geometrically: p_condition^scale p_nothing^(1 - scale), which is
    not the affine mixture of velocities.

    Source: Campbell et al., "Generative Flows on Discrete State-Spaces", arXiv 2402.04997, section 3.2 (the denoiser).
    """

    kind: Literal["token"] = "token"
    quantities: ClassVar[tuple[Quantity, ...]] = ("data",)
    end: ClassVar[End | None] = "data"

    def make(self, sample: PathSample) -> Tensor:
        return sample.x_1

    def convert(self, prediction: Tensor, x_t: Tensor, t: Tensor, to: Quantity) -> Tensor:
        return super().convert(centred(prediction.softmax(1)), x_t, t, to)


class VelocityAndNoise(BuiltIn):
    """The network predicts dx/dt and z on a path with noise of its own; nothing to set.

    Velocity and denoiser eta of a stochastic interpolant determine the score -eta / g of any source, and so every
    diffusion that has the marginals of the flow. Albergo et al., arXiv 2303.08797, sections 2.2 and 2.4.
    """

    kind: Literal["velocity_and_noise"] = "velocity_and_noise"
    quantities: ClassVar[tuple[Quantity, ...]] = ("velocity", "noise")
    num_fields: ClassVar[int] = 2

    @classmethod
    def determines(cls, quantity: Quantity, path: Path) -> bool:
        return pair_determines(quantity, path)

    def make(self, sample: PathSample) -> Tensor:
        return torch.cat([sample.velocity, sample.noise], dim=1)

    def convert(self, prediction: Tensor, x_t: Tensor, t: Tensor, to: Quantity) -> Tensor:
        velocity, noise = prediction.chunk(2, dim=1)
        return convert_pair(velocity, noise, x_t, t, self._path, to=to)


class OwnTarget(OwnClass, frozen=True):
    """A class that keeps `Target`; its constructor may take ``path``."""

    protocol: ClassVar[str] = "trainer.flow.target.Target"
    passed: ClassVar[tuple[str, ...]] = ("path",)

    def build(self, path: Path) -> Target:
        made = build_own(self, path=path)
        return cast(Target, made.build(path)) if isinstance(made, BuiltIn) else made


Config = Annotated[Velocity | Data | Noise | Score | VPrediction | VelocityAndNoise | Token | OwnTarget, KindOrClass()]


def class_of(config: Config) -> Any:
    """The class of a target; what it declares holds for every path."""
    return config.imported() if isinstance(config, OwnTarget) else type(config)


def num_fields(config: Config) -> int:
    return getattr(class_of(config), "num_fields", 1)
