"""The quantities that a network may predict, each converted into the others by the coefficients of a path."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.path.protocol import Path, PathSample
from trainer.flow.target.conversion import convert, convert_pair, determines, pair_determines
from trainer.flow.target.protocol import Quantity, Target


class Single(Target):
    """One quantity, which is converted into others by the coefficients of the path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def determines(cls, quantity: Quantity, path: Path) -> bool:
        (source,) = cls.quantities
        return determines(source, quantity, path)

    def convert(self, prediction: Tensor, x_t: Tensor, t: Tensor, to: Quantity) -> Tensor:
        """The predicted quantity itself needs no coefficients."""
        (source,) = self.quantities
        return convert(prediction, x_t, t, self.path, source=source, to=to)


class VelocityConfig(Section):
    """The network predicts dx/dt; nothing to set."""

    kind: Literal["velocity"] = "velocity"


class Velocity(Single):
    """The velocity of the path; its conditional mean transports the source to the data.

    Source: Lipman et al., "Flow Matching for Generative Modeling", arXiv 2210.02747, theorem 2.
    """

    quantities = ("velocity",)

    def make(self, sample: PathSample) -> Tensor:
        return sample.velocity


class DataConfig(Section):
    """The network predicts the data point x_1; nothing to set."""

    kind: Literal["data"] = "data"


class Data(Single):
    """The data point x_1; its conditional mean is the denoised state.

    Source: Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", arXiv 2202.00512,
    section 4.
    """

    quantities = ("data",)
    end = "data"

    def make(self, sample: PathSample) -> Tensor:
        return sample.x_1


class NoiseConfig(Section):
    """The network predicts the noise in the state: z where the path adds noise of its own, else x_0."""

    kind: Literal["noise"] = "noise"


class Noise(Single):
    """The noise: z where the path adds noise of its own, else the source point x_0.

    The conditional mean of z is the score times -g. That of x_0 is the score times -a if the source is standard normal
    and independent of the data.

    Source: Ho et al., "Denoising Diffusion Probabilistic Models", arXiv 2006.11239, section 3.2.
    """

    quantities = ("noise",)
    end = "source"

    def make(self, sample: PathSample) -> Tensor:
        return sample.noise


class ScoreConfig(Section):
    """The network predicts the gradient of the log density; nothing to set."""

    kind: Literal["score"] = "score"


class Score(Single):
    """The score -z / g, or -x_0 / a on a path without noise of its own from a standard normal source.

    In the second case the source must be independent of the data. The divisor is at least 1e-3 of the path's noise
    scale; the score grows without bound where the noise vanishes.

    Source: Vincent, "A Connection Between Score Matching and Denoising Autoencoders", 2011; Song et al., arXiv
    2011.13456, equation 7.
    """

    quantities = ("score",)
    end = "source"

    def make(self, sample: PathSample) -> Tensor:
        return convert(sample.noise, sample.x_t, sample.t, self.path, source="noise", to="score")


class VPredictionConfig(Section):
    """The network predicts b x_0 - a x_1 on a path with a^2 + b^2 = 1; nothing to set."""

    kind: Literal["v_prediction"] = "v_prediction"


class VPrediction(Single):
    """v = b x_0 - a x_1: the pair (state, v) is the pair (x_0, x_1) after a rotation.

    Source: Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", arXiv 2202.00512,
    appendix D, where alpha is b and sigma is a.
    """

    quantities = ("v_prediction",)

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if not path.preserves_variance:
            raise ValueError(
                "flow.target.kind: v_prediction is defined on a path with a^2 + b^2 = 1; use a variance-preserving "
                "path, or another target"
            )

    def make(self, sample: PathSample) -> Tensor:
        c = self.path.coefficients(sample.t).broadcast(sample.x_t)
        return c.b * sample.x_0 - c.a * sample.x_1


class VelocityAndNoiseConfig(Section):
    """The network predicts dx/dt and z on a path with noise of its own; nothing to set."""

    kind: Literal["velocity_and_noise"] = "velocity_and_noise"


class VelocityAndNoise(Target):
    """Velocity b and denoiser eta of a stochastic interpolant, two fields of one network.

    They determine the score -eta / g of any source, and with it every diffusion that has the marginals of the flow.

    Source: Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants", arXiv 2303.08797, sections 2.2 and 2.4.
    """

    quantities = ("velocity", "noise")
    num_fields = 2

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def determines(cls, quantity: Quantity, path: Path) -> bool:
        return pair_determines(quantity, path)

    def make(self, sample: PathSample) -> Tensor:
        return torch.cat([sample.velocity, sample.noise], dim=1)

    def convert(self, prediction: Tensor, x_t: Tensor, t: Tensor, to: Quantity) -> Tensor:
        """Velocity and noise themselves need no coefficients."""
        velocity, noise = prediction.chunk(2, dim=1)
        return convert_pair(velocity, noise, x_t, t, self.path, to=to)
