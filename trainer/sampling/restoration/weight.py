"""The weight of the prior that a request and a calibration come to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trainer.flow.inverse import Config, Flair, build, calibration_levels, weight_of
from trainer.flow.path import Path


def built(config: Config, path: Path, errors: Tensor | None) -> Flair:
    """The solver of a request; its refusal names the section. `errors` float64 [L] of the calibration, None without
    one.
    """
    try:
        return build(config, path=path, errors=None if errors is None else errors[None])
    except ValueError as error:
        raise ValueError(f"method.{error}") from error


def weights_of(config: Config, errors: Tensor | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Noise levels from the last step's to 1, and the weights in parts of these; `errors` float64 [L] of the
    calibration.
    """
    weight = weight_of(config, None if errors is None else errors[None])
    levels = calibration_levels()
    levels = levels[levels >= config.last]
    return levels.numpy(), (weight.at(levels) / levels).numpy()
