"""Linear layers that are divided over the ranks of a tensor-parallel group.

A pair of linear layers is divided between them: the first by its output (columns), the second by its input (rows).
Every rank sees the same tokens before and after a pair, so that whatever lies outside (norms, dropout, embeddings) is
computed on every rank and draws the same numbers. A pair costs, on the tensor group,
    forward    all_reduce   the second layer's output, of all tokens
    backward   all_reduce   the gradient of the first layer's input, as large
Source: Shoeybi et al., "Megatron-LM", 2019, section 3.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.model_parallel_config import ModelParallelConfig
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    reduce_from_tensor_model_parallel_region,
)
from torch import Tensor, nn

from trainer.model.parallel.division import Part


class ColumnLinear(ColumnParallelLinear):
    def __init__(self, linear: nn.Module, sections: Sequence[int]) -> None:
        assert isinstance(linear, nn.Linear)
        super().__init__(linear.in_features, linear.out_features, **_megatron(linear))
        self.parts = _take_over(self, linear, {name: (0, sections) for name, _ in linear.named_parameters()})

    def forward(self, input_: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(input_)[0]


class RowLinear(RowParallelLinear):
    def __init__(self, linear: nn.Module) -> None:
        """Takes this rank's share; the bias is added once, behind the sum over the ranks."""
        assert isinstance(linear, nn.Linear)
        whole = _megatron(linear)
        super().__init__(linear.in_features, linear.out_features, **whole, input_is_parallel=True, skip_bias_add=False)
        self.parts = _take_over(self, linear, {"weight": (1, (linear.in_features,))})

    def forward(self, input_: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(input_)[0]

    def summed(self, values: Tensor) -> Tensor:
        """Sums over the tensor-parallel group; collective."""
        return reduce_from_tensor_model_parallel_region(values, group=self.tp_group)


def _megatron(linear: nn.Linear) -> dict[str, Any]:
    config = ModelParallelConfig(
        tensor_model_parallel_size=parallel_state.get_tensor_model_parallel_world_size(),
        use_cpu_initialization=True,
        perform_initialization=False,
        params_dtype=linear.weight.dtype,
    )
    return {"config": config, "init_method": nn.init.zeros_, "bias": linear.bias is not None}


@torch.no_grad()
def _take_over(
    layer: ColumnParallelLinear | RowParallelLinear, linear: nn.Linear, divided: dict[str, tuple[int, Sequence[int]]]
) -> dict[str, Part]:
    """Copies this rank's part of every parameter, by dimension and sections of `divided`; returns those parts."""
    group = parallel_state.get_tensor_model_parallel_group()
    assert isinstance(group, dist.ProcessGroup)
    parts = {}
    for name, whole in linear.named_parameters():
        parameter = layer.get_parameter(name)
        if name in divided:
            parts[name] = Part.of(whole.shape, *divided[name], group.rank(), group.size())
            parameter.copy_(parts[name].cut(whole))
            # By this mark DeepSpeed counts a gradient on every rank; Megatron leaves it out where it draws no weights.
            vars(parameter).update(tensor_model_parallel=True)
        else:
            parameter.copy_(whole)
    return parts
