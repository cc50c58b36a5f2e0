"""How a path is fitted."""

from typing import Any

from pydantic import Field, NonNegativeInt, PositiveInt

from netsim.foundation.settings import Section
from trainer.config.run import FLOWLESS, RunConfig

TABLE = "path.safetensors"
"""Name of the table that a stage writes."""


class FitRequest(Section):
    """From how many points a path is fitted, and how steep it may be."""

    num_points: int = Field(default=4000, ge=2)
    """Training examples that the path is fitted to. Fewer points can be distinguished in more noise, so that the path
    comes out straighter."""
    draws: PositiveInt = 2000
    """Noisy points that the estimate averages over."""
    seed: NonNegativeInt = 0
    """Of the choice of points and of all draws."""
    least_price: float = Field(default=1e-3, gt=0, le=1)
    """Smallest kinetic energy of a turn from noise to data that the fit assumes, as a share of the largest (G in
    :mod:`trainer.flow.path.kinetic_optimal`): the smaller, the steeper the path may be at the source; 1 gives the
    straight path."""

    def what_decides(self, config: RunConfig) -> dict[str, Any]:
        """Everything that changes the path: the settings of the fit, and the states of the run that it leads to."""
        assert config.flow is not None
        states = config.flow.model_dump(mode="json", include={"latent", "data_scale"})
        return {**self.model_dump(), "data": config.data.model_dump(mode="json"), "flow": states}


def without_path(document: dict[str, Any]) -> dict[str, Any]:
    """The sections of a configuration whose path is not known yet."""
    flow = document.get("flow")
    if not isinstance(flow, dict):
        return document
    return {**document, "flow": {name: value for name, value in flow.items() if name != "path"}}


def check_fitted_to(config: RunConfig) -> None:
    """Refuses a run without a flow, or whose flow begins at data: no path is fitted to it."""
    if config.flow is None:
        raise ValueError(f"model.kind: {FLOWLESS[config.model.kind]} and follows no path; give a run with a flow")
    if config.source_data is not None:
        raise ValueError(
            f"flow.source: this finds the path from noise, and these paths begin at {config.source_data.kind} data; "
            "remove it"
        )
