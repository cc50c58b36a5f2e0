"""A causal language model over tokens.

Shape suffixes: B sequences of this rank, N positions, T rows on this rank, D width, V tokens of the vocabulary.
"""

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from moe.dispatch.exchange import gather_equal
from moe.dispatch.residency import Residency, collect_values, return_home, share_values
from moe.host_copies import to_device
from moe.seeds import fold_in, keyed_dropout
from trainer.config.model import GPTConfig
from trainer.model.attention import Attention, Context, Window
from trainer.model.dit import FeedForward
from trainer.model.network import Builders, Constant, Initial, Network, NetworkSpec, Normal
from trainer.model.parallel.division import Columns, Rows


@runtime_checkable
class MovesTokens(Protocol):
    """A feed-forward layer that moves tokens over `ep_group`, such as :class:`moe.coherent_layer.CoherentMoELayer`."""

    moves_tokens: bool
    ep_group: dist.ProcessGroup

    def __call__(
        self, rows_TD: Tensor, residency: Residency, normalise: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Residency]:
        """Returns the rows, the output to add to them, and the residency of both after the move."""
        ...


class GPT(Network):
    """A pre-norm transformer whose tokens may move between ranks (Radford et al., 2019, section 2.3).

    A :class:`moe.dispatch.residency.Residency` says which tokens the rows [T, D] of the residual stream are.
    Feed-forward layers take rows where they are, or move them (:class:`MovesTokens`); then passes are collective over
    their expert-parallel group, whose ranks give batches of one shape.
    """

    def __init__(self, spec: NetworkSpec[GPTConfig]) -> None:
        super().__init__()
        config = spec.config

        def dense(_: int) -> nn.Module:
            return FeedForward(config.hidden, config.inner, config.feed_forward, bias=config.bias)

        feed_forward = spec.mixture or dense
        self.context, self.dropout, self.vocabulary = config.context, config.dropout, config.vocabulary
        self.token_dtype = torch.uint8 if config.token_bytes == 1 else torch.int32
        self.tied = config.tied
        self.embed = (TiedEmbedding if config.tied else nn.Embedding)(config.vocabulary, config.hidden)
        self.blocks = nn.ModuleList(Block(config, layer, feed_forward(layer)) for layer in range(config.num_layers))
        self.final_norm = norm_of(config)
        if not config.tied:
            self.unembed = nn.Linear(config.hidden, config.vocabulary, bias=False)

    @property
    def group(self) -> dist.ProcessGroup | None:
        """The ranks among which tokens move; None if tokens stay at home."""
        layers = (block.feed_forward for block in self.blocks)
        return next((layer.ep_group for layer in layers if isinstance(layer, MovesTokens)), None)

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        del shape
        if name.endswith("norm.weight"):
            return Constant(1.0)
        if name.endswith("bias"):
            return Constant(0.0)
        into_the_stream = name.endswith(("attention.projection.weight", "feed_forward.2.weight"))
        return Normal(0.02 / math.sqrt(2 * len(self.blocks)) if into_the_stream else 0.02)

    def forward(self, tokens_BN: Tensor, targets_BN: Tensor | None = None) -> Tensor:
        """Logits [B, N, V], or with targets cross entropies in nats [B, N]; float32 (float64 if the weights are)."""
        length = tokens_BN.shape[1]
        if length > self.context:
            raise ValueError(
                f"tokens: {length} tokens exceed the model's context {self.context}; give at most that many"
            )
        group = self.group
        residency = Residency.home(tokens_BN.numel(), group, tokens_BN.device)
        context = Window(length, self._dropout_seeds(group, tokens_BN.device))
        rows_TD, residency = self.advance(self.embed(tokens_BN).flatten(0, 1), residency, context)
        if targets_BN is None:
            return self.logits(return_home(rows_TD, residency)).view(*tokens_BN.shape, self.vocabulary)
        targets_T = share_values(targets_BN.flatten().to(self.token_dtype), residency).long()
        losses_T = functional.cross_entropy(self.logits(rows_TD), targets_T, reduction="none")
        return collect_values(losses_T, residency).view(tokens_BN.shape)

    def advance(self, rows_TD: Tensor, residency: Residency, context: Context) -> tuple[Tensor, Residency]:
        """Rows [T, D] after all blocks, and their residency then."""
        for block in self.blocks:
            rows_TD, residency = block(rows_TD, residency, context)
        return rows_TD, residency

    def logits(self, rows_TD: Tensor) -> Tensor:
        """Logits [T, V] of the token that follows each row, in float32 or float64."""
        unembed = self.embed if self.tied else self.unembed
        logits_TV = unembed(self.final_norm(rows_TD))
        return logits_TV.to(torch.promote_types(logits_TV.dtype, torch.float32))

    def _dropout_seeds(self, group: dist.ProcessGroup | None, device: torch.device) -> Tensor | None:
        """Dropout seeds of all home ranks; this rank's is drawn from torch's generator, as for any dropout."""
        if not (self.training and self.dropout):
            return None
        seed = to_device(torch.randint(2**63 - 1, (1,)), device)
        return seed if group is None else gather_equal(seed, group)


class Block(nn.Module):
    def __init__(self, config: GPTConfig, layer: int, feed_forward: nn.Module) -> None:
        super().__init__()
        self.layer, self.dropout = layer, config.dropout
        self.parallel_residual = config.parallel_residual
        self.attention_norm = norm_of(config)
        self.attention = Attention(config, layer)
        self.feed_forward_norm = norm_of(config)
        self.feed_forward = feed_forward
        self._moves_tokens = isinstance(feed_forward, MovesTokens)

    def forward(self, rows_TD: Tensor, residency: Residency, context: Context) -> tuple[Tensor, Residency]:
        attended_TD = self.attention(self.attention_norm(rows_TD), residency, context)
        before_TD = rows_TD
        rows_TD = rows_TD + self._drop(attended_TD, 0, residency, context)
        if self._moves_tokens:
            rows_TD, fed_TD, residency = self.feed_forward(rows_TD, residency, self.feed_forward_norm)
        else:
            read_TD = before_TD if self.parallel_residual else rows_TD
            fed_TD = self.feed_forward(self.feed_forward_norm(read_TD)[None])[0]
        return rows_TD + self._drop(fed_TD, 1, residency, context), residency

    def divide(self, columns: Columns, rows: Rows) -> None:
        """Keeps this rank's heads and inner width."""
        self.attention.divide(columns, rows)
        if isinstance(self.feed_forward, FeedForward):
            self.feed_forward.divide(columns, rows)

    def _drop(self, values_TD: Tensor, sublayer: int, residency: Residency, context: Context) -> Tensor:
        keys_T = context.dropout_keys(residency)
        if keys_T is None:
            return values_TD
        return keyed_dropout(values_TD, fold_in(keys_T, 2 * self.layer + sublayer), self.dropout)


class TiedEmbedding(nn.Embedding):
    """One matrix for embedding tokens and for their logits; a module, so that engines gather the matrix."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps tokens int64 [...] to vectors [..., D], or vectors [..., D] to logits [..., V]."""
        return functional.linear(input, self.weight) if input.is_floating_point() else super().forward(input)


def norm_of(config: GPTConfig) -> nn.Module:
    kind = nn.RMSNorm if config.norm == "rms" else nn.LayerNorm
    return kind(config.hidden, eps=config.norm_epsilon)


NETWORKS: Builders = {GPTConfig: GPT}
