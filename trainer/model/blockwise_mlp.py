"""A perceptron for each segment of time.

Shape suffixes: B batch, P values of a vector.
"""

from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.config.model import BlockwiseMLPConfig
from trainer.flow.condition import Condition
from trainer.model.frozen import computing_dtype
from trainer.model.layer.initial import Initial, Normal, by_inputs
from trainer.model.layer.segments import Groups, SegmentLinear
from trainer.model.network import Network, NetworkSpec


class BlockwiseMLP(Network):
    """Perceptrons over a vector and the time, one of which runs at a time; the segments share nothing but classes.

    Park et al., "Blockwise Flow Matching", arXiv 2510.21167, section 3.1 (blocks), for points.
    """

    def __init__(
        self,
        config: BlockwiseMLPConfig,
        *,
        num_values: int,
        num_classes: int,
        num_fields: int = 1,
    ) -> None:
        super().__init__()
        self.segments, self.null_label, self.dropout = config.segments, num_classes, config.dropout
        self.embed_label = nn.Embedding(num_classes + 1, config.hidden) if num_classes else None
        widths = [num_values + 1, *[config.hidden] * config.num_layers]
        self.blocks = nn.ModuleList(SegmentLinear(config.segments, *pair) for pair in pairwise(widths))
        self.output = SegmentLinear(config.segments, config.hidden, num_fields * num_values)

    @classmethod
    def build(cls, spec: NetworkSpec[BlockwiseMLPConfig]) -> Self:
        """Builds the network of a run."""
        return cls(
            spec.config,
            num_values=spec.num_values,
            num_classes=spec.num_classes,
            num_fields=spec.num_fields,
        )

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        del shape
        layer = self.get_submodule(name.rpartition(".")[0])
        return by_inputs(layer.num_read) if isinstance(layer, SegmentLinear) else Normal(0.02)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Float32 [B, num_fields P] of states [B, P] at times [B]."""
        dtype = computing_dtype(self)
        groups = Groups.by_time(t, self.segments) if condition.segment is None else Groups(condition.segment)
        seen = torch.cat([x_t, t.to(x_t.dtype)[:, None]], dim=1)
        values = groups.gather(seen.to(dtype))
        for layer, block in enumerate(self.blocks):
            values = block(values, groups.segment)
            if layer == 0 and self.embed_label is not None:
                values = values + groups.gather(self._classes(condition.label, t))
            values = functional.dropout(functional.silu(values), self.dropout, self.training)
        return groups.scatter(self.output(values, groups.segment)).float()

    def _classes(self, label: Tensor | None, t: Tensor) -> Tensor:
        assert self.embed_label is not None
        if label is None:
            label = torch.full(t.shape, self.null_label, device=t.device)
        return self.embed_label(label)
