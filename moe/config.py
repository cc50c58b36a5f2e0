"""What a run says about its mixture of experts. Free of torch and Megatron, so that a configuration is checked fast."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


class TopKRouterConfig(BaseModel):
    """Each token goes to the experts with the largest gate value (Shazeer et al. 2017; Fedus et al. 2021)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["top_k"] = "top_k"
    score: Literal["softmax", "sigmoid"] = "softmax"
    """Function that turns a logit into a gate value."""
    normalise_over: Literal["all", "selected"] = "all"
    """Softmax over all experts before the selection, or over the selected ones after it."""
    aux_loss: float = Field(default=0.01, ge=0)
    """Weight of the load-balancing loss of the Switch Transformer (its equation 4)."""
    z_loss: float = Field(default=0.0, ge=0)
    """Weight of the penalty on large logits (ST-MoE, equation 5)."""


class MoEConfig(BaseModel):
    """The mixture-of-experts feed-forward layers of a model."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    num_experts: PositiveInt
    """Experts of each layer."""
    top_k: PositiveInt = 1
    """Experts that each token visits in a layer."""
    expert_hidden: PositiveInt
    """Width of an expert's hidden layer."""
    router: TopKRouterConfig = TopKRouterConfig()
    dispatch: Literal["home"] = "home"
    """home: a token returns to its rank after each layer."""
    placement: Path | None = None
    """Placement file (``python -m moe place``); null: experts in order of their ids."""

    @model_validator(mode="after")
    def _selection_is_possible(self) -> "MoEConfig":
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k: {self.top_k} exceeds num_experts {self.num_experts}; choose at most that many")
        if self.top_k == 1 and self.router.score == "softmax" and self.router.normalise_over == "selected":
            raise ValueError(
                "router.normalise_over: selected with top_k 1 makes every gate value 1, and the router never learns; "
                "choose all"
            )
        return self
