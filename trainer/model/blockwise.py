"""A diffusion transformer whose last blocks belong to segments of time, and a perceptron for each segment.

Shape suffixes: B batch, N tokens (patches), P values of a patch or of a vector, D width, E width of what steers, Z an
example: B, or in groups by segment M x C, the places of each of M segments.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.config.model import BlockwiseConfig, BlockwiseMLPConfig
from trainer.flow.condition import Condition
from trainer.flow.question import Approximation, Onward, Question, WithFeatures, WithProjection
from trainer.flow.time import segment_of, share_behind, start_of
from trainer.model.conditioning import PatchGrid, beside_context, known_label, modulate, steering, time_embedding
from trainer.model.dit import Block, FeedForward
from trainer.model.network import Builders, Initial, Network, NetworkSpec, Normal, by_inputs, computing_dtype, steered


@dataclass(frozen=True)
class Groups:
    """Groups of examples by segment: `place` int64 [B] of each example; `source` int64 [M C], padded with example 0.

    With a `segment`, the whole batch belongs to that segment and is not regrouped.
    """

    segment: int | None
    source: Tensor | None = None
    place: Tensor | None = None
    num: int = 1

    @classmethod
    def by_time(cls, t: Tensor, segments: int) -> Groups:
        """Makes one group for each segment, all as large as the largest."""
        if segments == 1:
            return cls(0)
        segment = segment_of(t, segments)
        counts = torch.zeros_like(segment[:1]).repeat(segments).scatter_add(0, segment, torch.ones_like(segment))
        places = int(counts.max()) if len(t) > 1 else 1  # a tensor without values cannot be read
        order = segment.argsort(stable=True)
        first = (counts.cumsum(0) - counts)[segment[order]]
        place = torch.empty_like(order)
        place[order] = segment[order] * places + torch.arange(len(t), device=t.device) - first
        source = torch.zeros(segments * places, dtype=torch.int64, device=t.device)
        source[place] = torch.arange(len(t), device=t.device)
        return cls(None, source, place, segments)

    def gather(self, values: Tensor) -> Tensor:
        """Arranges values of examples [B, *rest] in groups [M, C, *rest]; returns them if there is one segment."""
        return values if self.source is None else values[self.source].unflatten(0, (self.num, -1))

    def scatter(self, values: Tensor) -> Tensor:
        return values if self.place is None else values.flatten(0, 1)[self.place]


class SegmentLinear(nn.Module):
    """A linear layer for each segment, their weights in one tensor: a mixture of experts whose router is the time."""

    def __init__(self, segments: int, num_read: int, num_written: int) -> None:
        super().__init__()
        self.num_read = num_read
        self.weight = nn.Parameter(torch.empty(segments, num_written, num_read))
        self.bias = nn.Parameter(torch.empty(segments, num_written))

    def forward(self, values: Tensor, segment: int | None) -> Tensor:
        """Applies the layer of `segment` to [*rest, inputs]; None: each layer to its group of [M, *rest, inputs]."""
        if segment is not None:
            return functional.linear(values, self.weight[segment], self.bias[segment])
        multiplied = torch.baddbmm(self.bias[:, None], values.flatten(1, -2), self.weight.transpose(1, 2))
        return multiplied.unflatten(1, values.shape[1:-1])


class Blockwise(Network):
    """A trunk computes features that modulate the blocks of a segment of time; without it, time and class do.

    features(x, t) ~ features(x_start, t_start) + share residual(x, t), share from 0 to 1 in the segment, so that a
    sampler can run the trunk once a segment. Park et al., arXiv 2510.21167, sections 3.1 to 3.3.
    """

    positions: Tensor

    def __init__(self, spec: NetworkSpec[BlockwiseConfig]) -> None:
        super().__init__()
        config = spec.config
        channels, height, width = spec.image_shape
        self.segments, self.hidden, self.null_label = config.segments, config.hidden, spec.num_classes
        self.grid = PatchGrid(height // config.patch_size, width // config.patch_size, config.patch_size)
        area = config.patch_size**2
        num_read, num_written = (channels + spec.context_channels) * area, spec.num_fields * channels * area
        steered_by = 2 * config.hidden if config.trunk_layers else config.hidden
        self.read_context = spec.read_context
        self.embed_patches = nn.Linear(num_read, config.hidden)
        self.embed_time = time_embedding(config.hidden)
        self.embed_label = nn.Embedding(spec.num_classes + 1, config.hidden)
        self.embed_trunk = nn.Linear(num_read, config.hidden) if config.trunk_layers else None
        self.trunk, self.residual = (
            nn.ModuleList(Block(config, FeedForward(config.hidden, config.inner)) for _ in range(num_layers))
            for num_layers in (config.trunk_layers, config.residual_layers)
        )
        self.own_blocks = nn.ModuleList(SegmentBlock(config, steered_by) for _ in range(config.segment_layers))
        self.final_modulation = nn.Linear(steered_by, 2 * config.hidden)
        self.unembed_patches = nn.Linear(config.hidden, num_written)
        self.projection = _projection(config, config.teacher_features) if config.teacher_features else None
        self.residual_output = nn.Linear(config.hidden, config.hidden) if config.residual_layers else None
        self.register_buffer("positions", self.grid.positions(config.hidden), persistent=False)

    @property
    def blocks(self) -> nn.ModuleList:
        """All blocks in the order of a forward pass, those of the residual network last."""
        return nn.ModuleList([*self.trunk, *self.own_blocks, *self.residual])

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        return steered(name, shape, at_zero=("unembed_patches", "residual_output"))

    def forward(
        self, x_t: Tensor, t: Tensor, condition: Condition, question: Question | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Float32 [B, num_fields C, H, W], or the answer to `question`; a `condition.segment` is that of all times."""
        if isinstance(question, Approximation):
            return self._approximation(x_t, t, condition, question)
        steering_BD, patches_BNP = self._read(x_t, t, condition)
        tokens_BND = self.embed_patches(patches_BNP) + self._positions()
        features_BND = None
        if isinstance(question, Onward):
            change_BND = self._change(self._trunk_tokens(patches_BNP), steering_BD, question.share)
            features_BND = question.features + change_BND
        elif len(self.trunk):
            features_BND = self._features(self._trunk_tokens(patches_BNP), steering_BD)
        groups = Groups.by_time(t, self.segments) if condition.segment is None else Groups(condition.segment)
        prediction = self._prediction(tokens_BND, steering_BD, features_BND, groups)
        match question:
            case WithFeatures():
                assert features_BND is not None
                return prediction, features_BND
            case WithProjection():
                assert features_BND is not None
                assert self.projection is not None
                return prediction, self.projection(features_BND).float()
        return prediction

    def _read(self, x_t: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        dtype = computing_dtype(self)
        steering_BD = steering(self, t, condition.label, dtype)
        return steering_BD, self.grid.patches(beside_context(x_t, condition.context, self.read_context)).to(dtype)

    def _positions(self) -> Tensor:
        return self.positions.to(computing_dtype(self))

    def _trunk_tokens(self, patches_BNP: Tensor) -> Tensor:
        assert self.embed_trunk is not None
        return self.embed_trunk(patches_BNP) + self._positions()

    def _features(self, tokens_BND: Tensor, steering_BD: Tensor) -> Tensor:
        for block in self.trunk:
            tokens_BND = block(tokens_BND, steering_BD)
        return tokens_BND

    def _change(self, tokens_BND: Tensor, steering_BD: Tensor, share_B: Tensor) -> Tensor:
        assert self.residual_output is not None
        for block in self.residual:
            tokens_BND = block(tokens_BND, steering_BD)
        change_BND = self.residual_output(tokens_BND)
        return share_B[:, None, None].to(change_BND.dtype) * change_BND

    def _prediction(
        self, tokens_BND: Tensor, steering_BD: Tensor, features_BND: Tensor | None, groups: Groups
    ) -> Tensor:
        steering_BE = steering_BD
        if features_BND is not None:
            by_token = steering_BD[:, None].expand_as(features_BND)
            steering_BE = torch.cat([by_token, functional.silu(features_BND)], dim=-1)
        tokens_ZND, steering_ZE = groups.gather(tokens_BND), groups.gather(steering_BE)
        for block in self.own_blocks:
            tokens_ZND = block(tokens_ZND, steering_ZE, groups.segment)
        tokens_BND = groups.scatter(tokens_ZND)
        shift, scale = _for_tokens(self.final_modulation(steering_BE), tokens_BND).chunk(2, dim=-1)
        return self.grid.images(self.unembed_patches(modulate(tokens_BND, shift, scale)).float())

    def _approximation(
        self, x_t: Tensor, t: Tensor, condition: Condition, question: Approximation
    ) -> tuple[Tensor, Tensor]:
        """Approximated and true features; only the residual network gets gradients."""
        segment = segment_of(t, self.segments)
        t_start, share = start_of(segment, self.segments, t), share_behind(t, segment, self.segments)
        with torch.no_grad():
            states, times = torch.cat([x_t, question.states_at(t_start)]), torch.cat([t, t_start])
            steering_2BD, patches_2BNP = self._read(states, times, condition.beside(condition))
            tokens_2BND = self._trunk_tokens(patches_2BNP)
            true_BND, start_BND = self._features(tokens_2BND, steering_2BD).chunk(2)
            tokens_BND, steering_BD = tokens_2BND.chunk(2)[0], steering_2BD.chunk(2)[0]
        return start_BND + self._change(tokens_BND, steering_BD, share), true_BND


class SegmentBlock(nn.Module):
    def __init__(self, config: BlockwiseConfig, steered_by: int) -> None:
        super().__init__()
        segments, width = config.segments, config.hidden
        self.head_width, self.dropout = width // config.num_heads, config.dropout
        self.qkv = SegmentLinear(segments, width, 3 * width)
        self.projection = SegmentLinear(segments, width, width)
        self.modulation = SegmentLinear(segments, steered_by, 6 * width)
        self.feed_forward_in = SegmentLinear(segments, width, config.inner)
        self.feed_forward_out = SegmentLinear(segments, config.inner, width)

    def forward(self, tokens_ZND: Tensor, steering_ZE: Tensor, segment: int | None) -> Tensor:
        """Tokens [Z, N, D], modulated by [Z, E] or [Z, N, E]; `segment` None: examples are in one group a segment."""
        modulation = _for_tokens(self.modulation(steering_ZE, segment), tokens_ZND)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation.chunk(6, dim=-1)
        attended = self._attention(modulate(tokens_ZND, shift_1, scale_1), segment)
        tokens_ZND = tokens_ZND + gate_1 * functional.dropout(attended, self.dropout, self.training)
        inner = functional.gelu(self.feed_forward_in(modulate(tokens_ZND, shift_2, scale_2), segment))
        fed = self.feed_forward_out(inner, segment)
        return tokens_ZND + gate_2 * functional.dropout(fed, self.dropout, self.training)

    def _attention(self, tokens_ZND: Tensor, segment: int | None) -> Tensor:
        heads = self.qkv(tokens_ZND, segment).flatten(0, -3).unflatten(2, (3, -1, self.head_width))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self.projection(attended.view(tokens_ZND.shape), segment)


def _for_tokens(modulation: Tensor, tokens_ZND: Tensor) -> Tensor:
    """Shifts, scales and gates in a shape that broadcasts to tokens: those of examples become [Z, 1, values]."""
    return modulation if modulation.ndim == tokens_ZND.ndim else modulation[..., None, :]


def _projection(config: BlockwiseConfig, num_features: int) -> nn.Sequential:
    inner = config.projection_inner
    return nn.Sequential(
        nn.Linear(config.hidden, inner), nn.SiLU(), nn.Linear(inner, inner), nn.SiLU(), nn.Linear(inner, num_features)
    )


class BlockwiseMLP(Network):
    """Perceptrons over a point and the time, one a segment, which share only classes (Park et al., section 3.1)."""

    def __init__(self, spec: NetworkSpec[BlockwiseMLPConfig]) -> None:
        super().__init__()
        config, num_classes = spec.config, spec.num_classes
        self.segments, self.null_label, self.dropout = config.segments, num_classes, config.dropout
        self.embed_label = nn.Embedding(num_classes + 1, config.hidden) if num_classes else None
        widths = [spec.num_values + 1, *[config.hidden] * config.num_layers]
        self.blocks = nn.ModuleList(SegmentLinear(config.segments, *pair) for pair in pairwise(widths))
        self.output = SegmentLinear(config.segments, config.hidden, spec.num_fields * spec.num_values)

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        del shape
        layer = self.get_submodule(name.rpartition(".")[0])
        return by_inputs(layer.num_read) if isinstance(layer, SegmentLinear) else Normal(0.02)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        dtype = computing_dtype(self)
        groups = Groups.by_time(t, self.segments) if condition.segment is None else Groups(condition.segment)
        seen = torch.cat([x_t, t.to(x_t.dtype)[:, None]], dim=1)
        values = groups.gather(seen.to(dtype))
        for layer, block in enumerate(self.blocks):
            values = block(values, groups.segment)
            if layer == 0 and self.embed_label is not None:
                values = values + groups.gather(self.embed_label(known_label(self.null_label, t, condition.label)))
            values = functional.dropout(functional.silu(values), self.dropout, self.training)
        return groups.scatter(self.output(values, groups.segment)).float()


NETWORKS: Builders = {BlockwiseConfig: Blockwise, BlockwiseMLPConfig: BlockwiseMLP}
