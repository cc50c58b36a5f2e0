"""The controls of a request, held to a run before it begins."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.config.rules.drawing import of_cost
from trainer.config.rules.objection import refuse
from trainer.config.run import RunConfig
from trainer.flow import Condition
from trainer.flow.control import AnyConfig, ControlInputs, CostGradientConfig, OwnControl, build


def check_requested(controls: Sequence[AnyConfig], config: RunConfig, field: str) -> None:
    """Builds each built-in control for one picture, so that what does not suit the run is refused at once."""
    assert config.flow is not None
    inputs = ControlInputs(
        path=config.flow.path.build(),
        condition=Condition(label=torch.zeros(1, dtype=torch.int64)),
        network=_nothing,
        picture=torch.zeros(1, *config.state_shape),
    )
    for number, control in enumerate(controls):
        if isinstance(control, OwnControl):
            continue
        if isinstance(control, CostGradientConfig):
            refuse(of_cost(config, control.cost, f"{field}.{number}.cost"))
        try:
            build(control, inputs)
        except ValueError as error:
            raise ValueError(f"{field}.{number}.{error}") from error


def _nothing(*_: object) -> Tensor:
    return torch.zeros(0)
