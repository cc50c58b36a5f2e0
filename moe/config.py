"""Settings of the mixture of experts of a run."""

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from netsim.foundation.settings import Section


def capacity_of(tokens: int, *, top_k: int, num_experts: int, cap: float) -> int:
    """Returns the choices of a rank that fit an expert: `cap` times its even share, rounded up, at most `tokens`."""
    return min(tokens, math.ceil(round(cap * tokens * top_k / num_experts, 6)))


class _RouterSection(Section):
    """Settings of a router, and what follows from them for the layers, the messages and the traces of a run."""

    @property
    def cap(self) -> float | None:
        """Most choices of a rank that an expert takes in training, as a multiple of its even share; None: no limit."""
        return None

    @property
    def dropping(self) -> tuple[str, object] | None:
        """Name and value of a setting by which drops at inference depend on the rank's other tokens; None: none."""
        return None

    def most_choices(self, top_k: int, num_experts: int) -> int:  # noqa: ARG002
        """Experts that one token can visit in a layer at most."""
        return top_k

    def check_top_k(self, top_k: int) -> None:
        """Raises a ValueError if the router cannot send a token to `top_k` experts."""


class TopKRouterConfig(_RouterSection):
    """Each token goes to the experts with the largest gate value (Shazeer et al. 2017; Fedus et al. 2021)."""

    kind: Literal["top_k"] = "top_k"
    score: Literal["softmax", "sigmoid"] = "softmax"
    """Function that turns a logit into a gate value."""
    normalise_over: Literal["all", "selected"] = "all"
    """Softmax over all experts before the selection, or over the selected ones after it."""
    aux_loss: float = Field(default=0.01, ge=0)
    """Weight of the load-balancing loss of the Switch Transformer (its equation 4)."""
    z_loss: float = Field(default=0.0, ge=0)
    """Weight of the penalty on large logits (ST-MoE, equation 5)."""
    capacity_factor: PositiveFloat | None = None
    """An expert takes at most this multiple of the mean load of a rank's micro batch; null: no limit."""
    drop_policy: Literal["probs", "position"] = "probs"
    """Choices that a full expert drops: those with the smallest gate values, or those of the last tokens."""
    bias_rate: float = Field(default=0.0, ge=0)
    """Step of the bias that nudges overloaded experts down after every optimiser step (Wang et al. 2024, loss-free
    balancing); 0: no bias. Needs score sigmoid."""

    @property
    def cap(self) -> float | None:
        return self.capacity_factor

    @property
    def dropping(self) -> tuple[str, object] | None:
        return None if self.capacity_factor is None else ("capacity_factor", self.capacity_factor)

    def check_top_k(self, top_k: int) -> None:
        if top_k == 1 and self.score == "softmax" and self.normalise_over == "selected":
            raise ValueError(
                "router.normalise_over: selected with top_k 1 makes every gate value 1, and the router never learns; "
                "choose all"
            )
        if self.bias_rate and self.score != "sigmoid":
            raise ValueError(
                f"router.bias_rate: {self.bias_rate} with score softmax would make every gate depend on the bias; "
                "choose score sigmoid"
            )


class SinkhornRouterConfig(_RouterSection):
    """The best experts of the balanced entropic plan (Clark et al. 2022, S-BASE)."""

    kind: Literal["sinkhorn"] = "sinkhorn"
    epsilon: PositiveFloat = 0.1
    """Entropic regularisation, in standard deviations of the logits."""
    iterations: PositiveInt = 20
    """Sinkhorn iterations of a plan."""
    z_loss: float = Field(default=0.0, ge=0)
    """Weight of the penalty on large logits (ST-MoE, equation 5)."""


class BaseAssignmentRouterConfig(_RouterSection):
    """The exact balanced assignment of tokens to experts (Lewis et al. 2021, BASE layers); solved on the host."""

    kind: Literal["base"] = "base"
    z_loss: float = Field(default=0.0, ge=0)
    """Weight of the penalty on large logits (ST-MoE, equation 5)."""

    @property
    def cap(self) -> float | None:
        return 1.0

    def check_top_k(self, top_k: int) -> None:
        if top_k > 1:
            raise ValueError(f"top_k: {top_k} with router base, which assigns one expert to a token; choose 1")


class ExpertChoiceRouterConfig(_RouterSection):
    """Each expert takes the tokens with the largest gate values (Zhou et al. 2022)."""

    kind: Literal["expert_choice"] = "expert_choice"
    z_loss: float = Field(default=0.0, ge=0)
    """Weight of the penalty on large logits (ST-MoE, equation 5)."""

    @property
    def cap(self) -> float | None:
        return 1.0

    @property
    def dropping(self) -> tuple[str, object] | None:
        return "kind", self.kind

    def most_choices(self, top_k: int, num_experts: int) -> int:  # noqa: ARG002
        return num_experts


class SparseOTRouterConfig(_RouterSection):
    """Sparsity-constrained optimal transport: balanced, capped and sparse (Liu, Puigcerver, Blondel, ICLR 2023)."""

    kind: Literal["sparse_ot"] = "sparse_ot"
    gamma: PositiveFloat = 0.1
    """Quadratic regularisation, in standard deviations of the logits: larger spreads a token over more experts."""
    capacity_factor: Annotated[float, Field(ge=1)] = 1.25
    """No expert takes more than this multiple of the mean load."""
    candidates: PositiveInt = 2
    """Experts that a token may visit at most."""
    gate: Literal["prob", "plan", "straight_through"] = "prob"
    """Gate value: the softmax probability, the plan's share, or the plan's share with the probability's gradient."""
    potentials: Literal["rank", "global"] = "rank"
    """rank: balance the tokens of each rank alone; global: those of all ranks together. global takes an all-reduce for
    each evaluation, of one number for every pair of experts, in the last two of one number an expert."""
    evaluations: PositiveInt = 8
    """Transport plans that a solve computes in training, each a step towards balance: a fixed number, so that a device
    need not be waited for. From the potentials of the step before, 8 come within about 1 % of balance with up to 256
    experts and one or two choices; 5 are enough where logits are mild. ``residual`` in the report says how near they
    came; ``python -m tests.benchmarks.sparse_ot_convergence`` has a table."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the moving average of the expert potentials that routes at inference without a solve."""
    hop_cost: float = Field(default=0.0, ge=0)
    """Cost of a hop, in standard deviations of the logits. The hops between two ranks are the placement's cost matrix,
    or 1 between any two without a placement file. Needs potentials global: where each rank is balanced alone, it sends
    the same amount to far experts at any cost. Routing then depends on the placement, so that a replay under another
    one is no longer exact. ``tests.benchmarks.placement_aware_routing`` measures what a strength saves and costs."""
    inference_capacity_factor: Annotated[float, Field(ge=1)] | None = None
    """No expert takes more than this multiple of the mean load at inference, where the average potentials balance only
    roughly; null: no limit."""
    z_loss: float = Field(default=0.0, ge=0)
    """Weight of the penalty on large logits (ST-MoE, equation 5)."""

    @property
    def cap(self) -> float | None:
        return self.capacity_factor if self.potentials == "rank" else None

    @property
    def dropping(self) -> tuple[str, object] | None:
        factor = self.inference_capacity_factor
        return None if factor is None else ("inference_capacity_factor", factor)

    def most_choices(self, top_k: int, num_experts: int) -> int:
        return min(max(self.candidates, top_k), num_experts)

    @model_validator(mode="after")
    def _has_an_effect(self) -> "SparseOTRouterConfig":
        if self.hop_cost and self.potentials != "global":
            raise ValueError(
                f"hop_cost: {self.hop_cost} with potentials rank is cancelled by the balance of each rank; "
                "choose potentials global"
            )
        if self.gate == "plan" and self.candidates == 1:
            raise ValueError(
                "gate: plan with candidates 1 makes every gate value the same, and the router never learns; "
                "choose prob, or 2 candidates or more"
            )
        return self


RouterConfig = Annotated[
    TopKRouterConfig
    | SinkhornRouterConfig
    | BaseAssignmentRouterConfig
    | ExpertChoiceRouterConfig
    | SparseOTRouterConfig,
    Field(discriminator="kind"),
]


class MigrationConfig(Section):
    """Experts that move between ranks during training, when the traffic has drifted from their placement."""

    every: PositiveInt
    """Optimiser steps between two checks of the traffic."""
    first: PositiveInt = 1
    """No check before this step: early routing is nearly random."""
    regret: PositiveFloat = 0.1
    """Move when the traffic costs this share more than under a fresh placement, at two checks in a row."""
    horizon: PositiveInt = 1000
    """Steps within which a move must save as much as it costs."""
    most_moves: PositiveInt = 16
    """Largest number of experts that move at a time, over all layers."""


class MoEConfig(Section):
    """The mixture-of-experts feed-forward layers of a model."""

    num_experts: int = Field(gt=0, le=16_384)
    """Experts of each layer."""
    top_k: PositiveInt = 1
    """Experts that each token visits in a layer; the average where the router decides their number."""
    expert_hidden: int = Field(gt=0, le=1_048_576)
    """Width of an expert's hidden layer."""
    shared_expert_hidden: int | None = Field(default=None, gt=0, le=1_048_576)
    """Width of a shared expert that every token visits too; null: none."""
    router: RouterConfig = TopKRouterConfig()
    """How tokens are assigned to experts."""
    dispatch: Literal["home", "capped", "copies", "hierarchical", "coherent"] = "home"
    """home: a token returns to its rank after each layer; capped: as home, but in messages of one size, with room for
    as many tokens as the router lets an expert take, so that no rank counts or waits in training (at inference as
    home); copies: as home, but one copy of a token for each rank, however many of its experts are there; hierarchical:
    as home, but one copy of a token for each node, which a rank there passes on inside the node; coherent: a token
    stays on the rank of its expert (ExFlow)."""
    placement: Path | None = None
    """Placement file (``python -m moe place``); null: experts in order of their ids. With migration it is the placement
    at the start; a resumed run continues with that of its checkpoint."""
    replicas: Literal["even", "least_loaded"] = "even"
    """Which replica serves a token, where the placement puts an expert on several ranks. even: each rank's tokens are
    split evenly over the replicas; least_loaded: tokens are split so that the busiest of all ranks computes as little
    as possible, planned anew for every layer and micro batch."""
    migration: MigrationConfig | None = None
    """When experts move between ranks in the run; null: they stay where they are."""

    def capacity(self, tokens: int) -> int | None:
        """Most choices that an expert takes of so many tokens of a rank in training; None: there is no limit."""
        if self.router.cap is None:
            return None
        return capacity_of(tokens, top_k=self.top_k, num_experts=self.num_experts, cap=self.router.cap)

    @property
    def most_choices(self) -> int:
        """Experts that one token can visit in a layer at most: the width of a routing trace."""
        return self.router.most_choices(self.top_k, self.num_experts)

    @model_validator(mode="after")
    def _selection_is_possible(self) -> "MoEConfig":
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k: {self.top_k} exceeds num_experts {self.num_experts}; choose at most that many")
        self.router.check_top_k(self.top_k)
        return self
