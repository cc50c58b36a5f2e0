"""Networks of a trunk, which computes features of tokens, and a head, the velocity of a flow over their values.

The trunk is a diffusion transformer, a network for vectors, or a causal transformer that draws the next state of a
chain token by token.

Shape suffixes: B batch, K states that follow the first, M draws of the head, N tokens of a state (1 for a vector), S
tokens of a pass, P values of a token, D width, H features of a token.
"""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.config.model import CausalTransitionConfig
from trainer.config.model.mlp import INPUT_WAVES
from trainer.config.model.transition import HeadConfig, MeanVelocityConfig, TransitionDiTConfig, TransitionMLPConfig
from trainer.flow.chain import Chain
from trainer.flow.condition import Condition, keyed_normal
from trainer.flow.question import FromTokens, HeadVelocities, NextStates, NextToken, OfToken, Past, Question, Tokens
from trainer.model.conditioning import PatchGrid, modulate, steering, time_embedding, wave_embedding, with_waves
from trainer.model.dit import Block, DiT, FeedForward
from trainer.model.mlp import MLP
from trainer.model.network import Builders, Constant, Initial, Network, NetworkSpec, computing_dtype, steered, xavier


class FlowHead(nn.Module):
    """The velocity of a flow over a token's values, given its features, independent of other tokens; zero at first.

    It also reads sines and cosines of state and time, for narrow distributions. Shaul et al., arXiv 2506.23589, section
    3.
    """

    def __init__(self, config: HeadConfig, *, values: int, features: int) -> None:
        super().__init__()
        self.read_state = nn.Linear((values + 1) * (1 + 2 * INPUT_WAVES), config.hidden)
        self.read_features = nn.Linear(features, config.hidden, bias=False)
        self.layers = nn.ModuleList(nn.Linear(config.hidden, config.hidden) for _ in range(config.layers - 1))
        self.output = nn.Linear(config.hidden, values)

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        return Constant(0.0) if name.endswith("bias") or name.startswith("output") else xavier(shape)

    def forward(self, y: Tensor, s: Tensor, features: Tensor) -> Tensor:
        """Velocities, float32 [.., N, P], at states y and times s [.., N]; features may lack dimensions before N."""
        state = torch.cat([y.float(), s.float()[..., None]], dim=-1)
        hidden = self.read_state(with_waves(state).to(features.dtype)) + self.read_features(features)
        for layer in self.layers:
            hidden = layer(functional.silu(hidden))
        return self.output(functional.silu(hidden)).float()


class WithHead(Protocol):
    """A trunk that computes features of tokens, and a head that reads them; `mean` sets how its draws are averaged."""

    mean: MeanVelocityConfig

    def tokens(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The features [B, N, D] of states [B, *D] at times [B]."""
        ...

    def velocities(self, tokens_BND: Tensor, y: Tensor, s: Tensor, /) -> Tensor:
        """The head's velocities [.., B, *D] at its states [.., B, *D] and times [.., B, N]."""
        ...


def answer(network: WithHead, x_t: Tensor, t: Tensor, condition: Condition, question: Question | None = None) -> Tensor:
    """Answers `Tokens`, `FromTokens` or `HeadVelocities`; None: the velocity of the flow, float32 [B, *D]."""
    if isinstance(question, FromTokens):
        return network.velocities(question.tokens, question.y, question.s)
    tokens_BND = network.tokens(x_t, t, condition)
    match question:
        case Tokens():
            return tokens_BND
        case HeadVelocities(y, s):
            return network.velocities(tokens_BND, y, s)
    return _mean_velocity(network, tokens_BND, x_t)


def _mean_velocity(network: WithHead, tokens_BND: Tensor, x_t: Tensor) -> Tensor:
    """The mean over the head's draws, from the same noises for all examples, hence smooth in state and time."""
    key = torch.zeros(1, dtype=torch.int64, device=x_t.device)
    noises = torch.stack([keyed_normal(x_t[:1], key, number) for number in range(network.mean.draws)])
    y = noises.float().expand(-1, *x_t.shape)
    for step in range(network.mean.steps):
        s = y.new_full((len(y), *tokens_BND.shape[:2]), step / network.mean.steps)
        y = y + network.velocities(tokens_BND, y, s) / network.mean.steps
    return y.mean(0)


class TransitionDiT(DiT):
    """A diffusion transformer whose features a head reads, patch by patch: Shaul et al., section 3.1."""

    def __init__(self, spec: NetworkSpec[TransitionDiTConfig]) -> None:
        super().__init__(spec)
        del self.unembed_patches  # the head is in its place
        config = spec.config
        values = spec.image_shape[0] * config.patch_size**2
        self.mean = config.mean_velocity
        self.head = FlowHead(config.head, values=values, features=config.hidden)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition, question: Question | None = None) -> Tensor:
        return answer(self, x_t, t, condition, question)

    def velocities(self, tokens_BND: Tensor, y: Tensor, s: Tensor) -> Tensor:
        patches = self.grid.patches(y.flatten(0, -4)).unflatten(0, y.shape[:-3])
        predicted = self.head(patches, s, tokens_BND)
        return self.grid.images(predicted.flatten(0, -3)).unflatten(0, y.shape[:-3])


class TransitionMLP(MLP):
    """Residual blocks over a vector, whose features a head reads: Shaul et al., section 3.1."""

    def __init__(self, spec: NetworkSpec[TransitionMLPConfig]) -> None:
        super().__init__(spec)
        del self.unembed_values  # the head is in its place
        config = spec.config
        self.mean = config.mean_velocity
        self.head = FlowHead(config.head, values=spec.num_values, features=config.hidden)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition, question: Question | None = None) -> Tensor:
        return answer(self, x_t, t, condition, question)

    def velocities(self, tokens_B1D: Tensor, y: Tensor, s: Tensor) -> Tensor:
        return self.head(y[..., None, :], s, tokens_B1D)[..., 0, :]


class CausalTransition(Network):
    """A transformer over the tokens of a state and of those that follow it, steered by the class, and a head.

    The features at a place are for drawing the token there; the input there is the token before, at first a start
    token. With history `last`, tokens of X_t attend to one another, tokens of X_(t+1) to X_t and to earlier tokens, and
    time steers. With `full`, all states are one causal sequence without a time. Shaul et al., sections 3.2 and 3.3
    (ARTM, FHTM).
    """

    positions: Tensor
    numbers: Tensor
    mask: Tensor

    def __init__(self, spec: NetworkSpec[CausalTransitionConfig]) -> None:
        super().__init__()
        config, shape, num_classes = spec.config, spec.state_shape, spec.num_classes
        self.hidden, self.null_label = config.hidden, num_classes
        self.chain = chain = chain_of(config, shape)
        tokens, states = chain.num_tokens, 1 + config.read_at_once
        self.embed_tokens = nn.Linear(chain.token_values * (1 + 2 * INPUT_WAVES), config.hidden)
        self.embed_state = nn.Embedding(states + 1, config.hidden)
        if chain.history == "last":
            self.embed_time = time_embedding(config.hidden)
        self.embed_label = nn.Embedding(num_classes + 1, config.hidden)
        self.blocks = nn.ModuleList(
            Block(config, FeedForward(config.hidden, config.inner)) for _ in range(config.num_layers)
        )
        self.final_modulation = nn.Linear(config.hidden, 2 * config.hidden)
        places = torch.arange(tokens, dtype=torch.float32)
        of_tokens = wave_embedding(places, config.hidden)
        if len(shape) > 1:
            of_tokens = PatchGrid(*chain.grid, chain.patch_size).positions(config.hidden)
        self.register_buffer("positions", of_tokens.repeat(states, 1), persistent=False)
        numbers = torch.arange(states).repeat_interleave(tokens)
        numbers[self._start] = states
        self.register_buffer("numbers", numbers, persistent=False)
        mask = torch.ones(len(numbers), len(numbers), dtype=torch.bool).tril()
        if chain.history == "last":
            mask[:tokens, :tokens] = True
        self.register_buffer("mask", mask, persistent=False)
        self.head = FlowHead(config.head, values=chain.token_values, features=config.hidden)

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        return steered(name, shape, embeddings=("embed_label", "embed_state"))

    def forward(self, given: Tensor, t: Tensor, condition: Condition, question: Question | None = None) -> Tensor:
        """Answers a question about the values `given`.

        These are states [B, *D] with `NextStates`, tokens [B, S, P] with `NextToken`, and states [B, P] of the head
        with `OfToken`.
        """
        match question:
            case NextStates():
                return self._next_states(given, t, condition, question)
            case NextToken(past):
                return self._next_features(given, t, condition, past)
            case OfToken(features_BD):
                return self.head(given[:, None], t[:, None], features_BD[:, None])[:, 0]
            case _:
                raise ValueError(
                    "question: a causal_transition network draws tokens and predicts nothing at a state alone; "
                    "ask for NextStates, NextToken or OfToken"
                )

    def _next_features(self, tokens_BSP: Tensor, t: Tensor, condition: Condition, past: Past) -> Tensor:
        """Features [B, D] of the token after these, which are added to `past`; the first call gives a whole state."""
        before = past.length
        values_BSP = tokens_BSP if before else self._started(tokens_BSP)
        past.length += values_BSP.shape[1]
        return self._features(values_BSP, t, condition, before, past)[:, -1]

    @property
    def _start(self) -> int:
        return self.chain.num_tokens if self.chain.history == "last" else 0

    def _started(self, tokens_BNP: Tensor) -> Tensor:
        """Inserts the start token, whose values are 0, at its place in the tokens of the first state."""
        parts = [tokens_BNP[:, : self._start], torch.zeros_like(tokens_BNP[:, :1]), tokens_BNP[:, self._start :]]
        return torch.cat(parts, dim=1)

    def _next_states(self, x_t: Tensor, t: Tensor, condition: Condition, question: NextStates) -> Tensor:
        chain = self.chain
        following_BSP = chain.tokens(question.following).movedim(0, 1).flatten(1, 2)
        values_BSP = torch.cat([self._started(chain.tokens(x_t)), following_BSP[:, :-1].to(x_t.dtype)], dim=1)
        features_BSD = self._features(values_BSP, t, condition)
        features_KBND = features_BSD[:, chain.num_tokens :].unflatten(1, (-1, chain.num_tokens)).movedim(1, 0)
        return chain.states(self.head(chain.tokens(question.y), question.s, features_KBND))

    def _features(
        self, values_BSP: Tensor, t: Tensor, condition: Condition, before: int = 0, past: Past | None = None
    ) -> Tensor:
        """Features [B, S, D] at the places of token values, which follow `before` earlier ones."""
        dtype = computing_dtype(self)
        steering_BD = self._steering(t, condition.label, dtype)
        after = before + values_BSP.shape[1]
        places_SD = self.positions[before:after].to(dtype) + self.embed_state(self.numbers[before:after])
        tokens_BSD = self.embed_tokens(with_waves(values_BSP.float()).to(dtype)) + places_SD
        mask = self.mask[before:after, :after]
        for number, block in enumerate(self.blocks):
            tokens_BSD = block(tokens_BSD, steering_BD, mask, None if past is None else past.blocks[number])
        shift, scale = self.final_modulation(steering_BD)[:, None].chunk(2, dim=-1)
        return modulate(tokens_BSD, shift, scale)

    def _steering(self, t: Tensor, label: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The vector [B, D] that modulates every block; with history `full` it depends on the class alone."""
        if self.chain.history == "last":
            return steering(self, t, label, dtype)
        label = torch.full(t.shape, self.null_label, device=t.device) if label is None else label
        return functional.silu(self.embed_label(label))


def chain_of(config: CausalTransitionConfig, shape: tuple[int, ...]) -> Chain:
    return Chain(config.transitions, config.history, shape, config.patch_size)


NETWORKS: Builders = {
    TransitionDiTConfig: TransitionDiT,
    TransitionMLPConfig: TransitionMLP,
    CausalTransitionConfig: CausalTransition,
}
