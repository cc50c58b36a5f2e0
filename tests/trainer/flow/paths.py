"""Every kind of path in every setting that changes its form, for the contract tests."""

from pathlib import Path
from typing import Literal

from tests.forked import ROOT
from trainer.flow import path
from trainer.flow.path.kinetic_optimal import digest

GAMMAS = (
    path.BrownianConfig(),
    path.BrownianConfig(factor=2.0),
    path.QuadraticConfig(),
    path.SineSquaredConfig(),
    path.ZeroConfig(),
)
INTERPOLATIONS: tuple[Literal["linear", "trigonometric", "encoding_decoding"], ...] = (
    "linear",
    "trigonometric",
    "encoding_decoding",
)
EXCLUDED = {("trigonometric", "sine_squared"), ("encoding_decoding", "zero")}
TABLE = ROOT / "tests" / "files" / "path.safetensors"
"""The kinetic-optimal path to eight points on a circle, in 100 steps."""

AFFINE: tuple[path.Config, ...] = (
    path.LinearConfig(),
    path.LinearConfig(sigma_min=0.1),
    path.TrigonometricConfig(),
    path.VariancePreservingConfig(),
    path.VariancePreservingConfig(beta_min=1.0, beta_max=8.0),
    path.DiffusionStepsConfig(),
    path.DiffusionStepsConfig(beta_start=8.5e-4, beta_end=0.012, spacing="square_root"),
    *(
        path.StochasticInterpolantConfig(interpolation=interpolation, gamma=path.ZeroConfig())
        for interpolation in INTERPOLATIONS
        if (interpolation, "zero") not in EXCLUDED
    ),
    path.TabulatedConfig(path=TABLE, digest=digest(TABLE)),
)
NOISY: tuple[path.Config, ...] = (
    *(
        path.StochasticInterpolantConfig(interpolation=interpolation, gamma=gamma)
        for interpolation in INTERPOLATIONS
        for gamma in GAMMAS
        if gamma.kind != "zero" and (interpolation, gamma.kind) not in EXCLUDED
    ),
    *(path.MirrorInterpolantConfig(gamma=gamma) for gamma in GAMMAS if gamma.kind != "zero"),
    path.OneSidedInterpolantConfig(),
    path.OneSidedInterpolantConfig(interpolation="trigonometric"),
)
ALL = AFFINE + NOISY


def name(config: path.Config) -> str:
    """What a test of a path is called: its kind and settings."""
    values = config.model_dump().values()
    return "-".join(value.name if isinstance(value, Path) else str(value) for value in values)
