"""Samplers whose steps a head draws: along a difference of data and source, or the states of a chain by token."""

from __future__ import annotations

from abc import abstractmethod
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, NoReturn, Protocol, Self, cast

import torch
from pydantic import Field as Setting
from pydantic import PositiveInt, model_validator
from torch import Tensor

from trainer.flow.chain import Chain
from trainer.flow.condition import keyed_normal
from trainer.flow.question import Past
from trainer.flow.sampler.ode import Dopri5, Euler, Heun
from trainer.flow.sampler.protocol import BuiltIn, Field, GridSampler, Trajectory, VelocityField, check_times
from trainer.flow.target import Quantity


class DrawingField(Field, Protocol):
    """A field with the trunk and the head by which a sampler draws the direction of a step."""

    def tokens(self, x: Tensor, t: Tensor) -> Tensor:
        """The features [B, N, H] of the tokens of states, from the trunk; guidance may add those of B more examples."""
        ...

    def head_velocity(self, y: Tensor, s: Tensor, tokens: Tensor) -> Tensor:
        """The velocities [B, *D] of the head at its states `y` and times `s` [B, N], given the features of `tokens`."""
        ...


class Transition(GridSampler):
    """Steps whose direction is drawn by a head; each takes one call of the trunk.

    x + h Y, with Y drawn by the head for the tokens of x: a flow of its own from N(0, I) over times s from 0 to 1.
    Draws are functions of the keys of the examples and the step's number. Shaul et al., arXiv 2506.23589, section 3.

    Attributes:
        head: how the head draws a direction from noise.
    """

    kind: Literal["transition"] = "transition"
    steps: int = Setting(default=4, ge=1, le=10_000)
    head: Annotated[Euler | Heun | Dopri5, Setting(discriminator="kind")] = Euler(steps=16)

    def sample(self, field: Field, x_init: Tensor, times: Tensor, *, keys: Tensor | None = None) -> Trajectory:
        check_times(times)
        if keys is None:
            raise ValueError("keys: None, and this sampler draws noise; give one for each example")
        drawing, states, head_calls = cast(DrawingField, field), [x_init], 0
        for number, (t, t_next) in enumerate(pairwise(times.to(x_init.device))):
            x = states[-1]
            drawn = self._draw(drawing, drawing.tokens(x, t.expand(len(x))), keyed_normal(x, keys, number))
            states.append((x + (t_next - t) * drawn.final).to(x_init.dtype))
            head_calls += drawn.calls["network"]
        return Trajectory(torch.stack(states), times, {"network": len(times) - 1, "head": head_calls})

    def _draw(self, field: DrawingField, tokens: Tensor, y_0: Tensor) -> Trajectory:
        def velocity(y: Tensor, s: Tensor) -> Tensor:
            return field.head_velocity(y, s[:, None].expand(-1, tokens.shape[1]), tokens)

        return self.head.sample(velocity, y_0, self.head.grid())

    def calls(self) -> dict[str, int] | None:
        of_head = self.head.calls()
        return None if of_head is None else {"network": self.steps, "head": self.steps * of_head["network"]}


class TokenField(Field):
    """A field of the next token of a chain; it has no quantity at a state, and refuses a sampler that needs one."""

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
        """Adds tokens [B, S, P] of a state at time `t` [B] to a past, and returns features [R, H] of the next token.

        The first tokens that are added to a past are all those of a state. R is B, or twice B where guidance needs two
        conditions.
        """

    @abstractmethod
    def of_token(self, features: Tensor, /) -> VelocityField:
        """Returns the head's velocity [B, P] at states [B, P] and times [B] of the token with these `features`."""


class CausalTransition(BuiltIn):
    """Transitions of a causal network, each token of which is drawn by a head.

    X_(t+1) is drawn from X_t, or from all states so far, token after token by the ordinary equation of the head. Shaul
    et al., "Transition Matching", arXiv 2506.23589, sections 3.2 and 3.3 (ARTM, FHTM).

    Attributes:
        head: how the velocity of the head is followed for each token.
        tokens: calls of the network, one for each token of each transition; left out: as many as the model has.
    """

    kind: Literal["causal_transition"] = "causal_transition"
    head: Annotated[Euler | Heun, Setting(discriminator="kind")] = Euler(steps=16)
    tokens: PositiveInt | None = None
    follows_velocity: ClassVar[bool] = False

    @model_validator(mode="after")
    def _no_searched_times(self) -> Self:
        if not isinstance(self.head.times, tuple | None):
            raise ValueError(
                f"head.times: {self.head.times} holds times that were searched for the field of a flow, and a head "
                "follows one of its own; write them out, or leave them out"
            )
        return self

    def sample(self, field: Field, x_init: Tensor, times: Tensor, *, keys: Tensor | None = None) -> Trajectory:
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
                path = self.head.sample(field.of_token(features), noise, self.head.grid())  # pyright: ignore[reportArgumentType]  a solver evaluates the velocity alone
                tokens = path.final[:, None]
                drawn.append(tokens)
                network_calls += 1
                head_calls += path.calls["network"]
            states.append(chain.states(torch.cat(drawn, dim=1)))
        grid = torch.linspace(0.0, 1.0, len(states), dtype=times.dtype)
        return Trajectory(torch.stack(states), grid, {"network": network_calls, "head": head_calls})

    def calls(self) -> dict[str, int] | None:
        of_head = self.head.evaluations_per_step * self.head.steps
        return None if self.tokens is None else {"network": self.tokens, "head": self.tokens * of_head}

    def with_evaluations(self, evaluations: int) -> Self | None:
        return self if evaluations == self.tokens else None
