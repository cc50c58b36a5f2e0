"""Inverse problems, with a flow as the prior: the protocol, its implementations, their configuration and `build`.

A run is calibrated once, whatever its operators will be, under the same field as restoring: on examples that it has
not learned from, or has, which makes little difference. 100 evaluations of a batch of 256 are enough.

    errors = None
    if config.weight == "calibrated":
        errors = calibration_errors(field, parts.states_of(examples, generator), parts.path, keys)   # [256, 100]
    solver = build(config, path=parts.path, errors=errors)      # refuses weights that diverge, in one line
    solver.largest_ratio, solver.vanished                       # to be told

Then each batch is solved. Where states are images:

    agreement = consistency(config, operator, observed, scale=parts.data_scale)
    solution = solver.solve(field, agreement, keys=keys)

Where they are latents, the operator acts on decoded images:

    initial = parts.states_of(operator.pseudo_inverse(observed), generator)
    agreement = consistency(
        config, operator, observed, decode=lambda states: parts.space.decode(parts.data_of(states)), initial=initial
    )
    images = agreeing(operator, observed, decoded)              # what the autoencoder lost of the observations
"""

from torch import Tensor

from trainer.flow.inverse.consistency import Decode, DecodedConsistency, ExactConsistency, agreeing
from trainer.flow.inverse.flair import Flair, FlairConfig
from trainer.flow.inverse.protocol import Consistency, InverseSolver, Solution
from trainer.flow.inverse.weight import Weight, calibrated, calibration_errors, calibration_levels, constant, ramp
from trainer.flow.operator import Operator
from trainer.flow.path import Path

Config = FlairConfig


def build(config: Config, *, path: Path, errors: Tensor | None = None) -> Flair:
    """The solver of a configuration; `errors`, where the weight is calibrated, are of `calibration_errors`.

    Raises:
        ValueError: the path adds noise of its own, or the weight is so large that steps diverge.
    """
    return Flair(
        path,
        weight_of(config, errors),
        steps=config.steps,
        last=config.last,
        trajectory_adjustment=config.trajectory_adjustment,
    )


def weight_of(config: Config, errors: Tensor | None) -> Weight:
    """The weight of the prior that a configuration asks for."""
    match config.weight:
        case "constant":
            return constant(config.scale)
        case "ramp":
            return ramp(config.scale)
        case "calibrated":
            assert errors is not None
            return calibrated(errors, config.scale)


def consistency(
    config: Config,
    operator: Operator,
    observed: Tensor,
    *,
    decode: Decode | None = None,
    initial: Tensor | None = None,
    scale: float = 1.0,
) -> Consistency:
    """The agreement of a batch with its observations that a configuration asks for.

    Args:
        config: its section.
        operator: made for the images of the batch.
        observed: [B, *S] what was observed of them.
        decode: from states to images, where states are latents; None: states are images.
        initial: [B, *D] states to begin with; needed where there is `decode`.
        scale: factor between images and states, where states are images.
    """
    share = config.share if config.consistency == "soft" else 1.0
    exact = ExactConsistency(operator, observed, share=share, scale=scale)
    if decode is None and config.consistency != "gradient":
        return exact
    assert decode is None or initial is not None
    return DecodedConsistency(
        operator,
        observed,
        decode or (lambda states: states / scale),
        exact.initial() if initial is None else initial,
        iterations=1 if config.consistency == "soft" else config.iterations,
        tolerance=config.tolerance,
        share=share,
    )


__all__ = [
    "Config",
    "Consistency",
    "Decode",
    "DecodedConsistency",
    "ExactConsistency",
    "Flair",
    "FlairConfig",
    "InverseSolver",
    "Solution",
    "Weight",
    "agreeing",
    "build",
    "calibrated",
    "calibration_errors",
    "calibration_levels",
    "consistency",
    "constant",
    "ramp",
    "weight_of",
]
