"""A sampler that draws the states of a chain one after the other, each token by token."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal, NoReturn

import torch
from pydantic import Field as Setting
from pydantic import PositiveInt, model_validator
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.chain import Chain
from trainer.flow.keyed_draws import keyed_normal
from trainer.flow.past import Past
from trainer.flow.sampler.ode import EulerConfig, HeunConfig
from trainer.flow.sampler.protocol import Field, Sampler, Trajectory, VelocityField, check_times
from trainer.flow.target import Quantity


class CausalTransitionConfig(Section):
    """Transitions of a causal network, each token of which is drawn by a head.

    Attributes:
        head: how the velocity of the head is followed for each token.
        tokens: calls of the network, one for each token of each transition; left out: as many as the model has.
    """

    kind: Literal["causal_transition"] = "causal_transition"
    head: Annotated[EulerConfig | HeunConfig, Setting(discriminator="kind")] = EulerConfig(steps=16)
    tokens: PositiveInt | None = None

    @model_validator(mode="after")
    def _no_searched_times(self) -> CausalTransitionConfig:
        if not isinstance(self.head.times, tuple | None):
            raise ValueError(
                f"head.times: {self.head.times} holds times that were searched for the field of a flow, and a head "
                "follows one of its own; write them out, or leave them out"
            )
        return self


class TokenField(Field):
    """A field that tells how the next token of a chain is distributed, with condition and guidance already bound.

    It has no quantity at a state, and refuses a sampler that asks for one.
    """

    chain: Chain

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:  # noqa: ARG002
        self._refuse("velocity")

    def estimate(self, x: Tensor, t: Tensor, *quantities: Quantity) -> tuple[Tensor, ...]:  # noqa: ARG002
        self._refuse(" or ".join(quantities))

    def _refuse(self, quantity: str) -> NoReturn:
        raise ValueError(
            f"sampler: it asks for the {quantity} at a state, and a causal_transition network draws tokens and has "
            "none; use sampler causal_transition"
        )

    @abstractmethod
    def next_features(self, tokens: Tensor, t: Tensor, past: Past) -> Tensor:
        """Reads further tokens, and returns features of the one that comes next.

        Args:
            tokens: [B, S, P]; the first of a past are all tokens of a state.
            t: [B] the time of that state.
            past: what was read before; they are added to it.

        Returns:
            [R, H]; R is B, or twice B where guidance needs two conditions.
        """

    @abstractmethod
    def of_token(self, features: Tensor, /) -> VelocityField:
        """The velocity of the head, [B, P], at states [B, P] and times [B] of the token that has some features."""


class CausalTransitionSampler(Sampler):
    """X_(t+1) is drawn from X_t, or from all states so far, token after token by the ordinary equation of the head.

    Source: Shaul et al., "Transition Matching", arXiv 2506.23589, sections 3.2 and 3.3 (ARTM, FHTM).
    """

    def __init__(self, head: Sampler, times: Tensor) -> None:
        self.head, self.times = head, times

    def sample(self, field: Field, x_init: Tensor, times: Tensor, *, keys: Tensor | None = None) -> Trajectory:
        """The trajectory holds the states of the chain, whatever is between the ends of the grid, which are 0 and 1."""
        check_times(times)
        if not isinstance(field, TokenField):
            raise ValueError("field: it draws no tokens; sampler causal_transition is for causal_transition networks")
        if (float(times[0]), float(times[-1])) != (0.0, 1.0):
            raise ValueError(
                f"times: a chain leads from source (0) to data (1), and these from {times[0]:g} to {times[-1]:g}; "
                "use another sampler"
            )
        if keys is None:
            raise ValueError("keys: None, and this sampler draws noise; give one for each example")
        chain, states = field.chain, [x_init]
        keys = keys.to(x_init.device)
        network_calls = head_calls = 0
        past = Past()
        tokens = chain.tokens(x_init)  # what the network has not read yet
        for transition in range(chain.transitions):
            t = x_init.new_full((len(x_init),), transition / chain.transitions)
            if chain.history == "last":
                past, tokens = Past(), chain.tokens(states[-1])
            drawn: list[Tensor] = []
            for _ in range(chain.num_tokens):
                features = field.next_features(tokens, t, past)
                noise = keyed_normal(tokens[:, -1], keys, network_calls)
                way = self.head.sample(field.of_token(features), noise, self.times)  # pyright: ignore[reportArgumentType]  a solver evaluates the velocity alone
                tokens = way.final[:, None]
                drawn.append(tokens)
                network_calls += 1
                head_calls += way.calls["network"]
            states.append(chain.states(torch.cat(drawn, dim=1)))
        grid = torch.linspace(0.0, 1.0, len(states), dtype=times.dtype)
        return Trajectory(torch.stack(states), grid, {"network": network_calls, "head": head_calls})
