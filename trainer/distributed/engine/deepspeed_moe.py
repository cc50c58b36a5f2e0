"""What DeepSpeed must be told to train a Megatron-Core MoE layer."""

from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.moe.layer import MoE
from deepspeed.utils import groups
from megatron.core import parallel_state
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler
from torch import nn

from moe.layer import PlacedMoELayer


class DeepSpeedMixture(MoE):
    """Attributes by which DeepSpeed recognises a layer as a mixture of experts; it computes as before.

    `ep_size` ranks, of the group that DeepSpeed calls `expert_group_name`, share `num_experts` logical experts, none of
    which is cut into pieces.
    """

    ep_size: int
    num_experts: int
    expert_group_name: str
    enable_expert_tensor_parallelism: bool

    def set_deepspeed_parallelism(self, use_data_before_expert_parallel_: bool = False) -> None:
        """Creates DeepSpeed's expert groups; DeepSpeed calls this."""
        if self.expert_group_name not in groups._get_expert_parallel_group_dict():
            groups._create_expert_and_data_parallel(
                self.ep_size, use_data_before_expert_parallel_=use_data_before_expert_parallel_
            )


def mark_moe_layers(model: nn.Module, expert_parallel: int, accumulation: int) -> None:
    """Makes a network's MoE layers and their experts known to DeepSpeed, in place.

    DeepSpeed divides the loss by the `accumulation` micro batches of a step; the routers' own losses, which enter in
    the backward pass, must be divided alike.
    """
    MoEAuxLossAutoScaler.set_loss_scale(torch.tensor(1.0 / accumulation))
    for module in model.modules():
        if isinstance(module, PlacedMoELayer):
            module.__class__ = _recognised(type(module))
            assert isinstance(module, DeepSpeedMixture)
            module.ep_size = expert_parallel
            module.num_experts = module.slots.num_experts
            module.expert_group_name = expert_group_name(expert_parallel)
            module.enable_expert_tensor_parallelism = False
            for parameter in module.expert_stacks().values():
                vars(parameter).update(allreduce=False, group_name=module.expert_group_name)


@cache
def _recognised(kind: type[PlacedMoELayer]) -> type[PlacedMoELayer]:
    """The same kind of layer, in a form that DeepSpeed recognises."""
    return type(f"DeepSpeed{kind.__name__}", (kind, DeepSpeedMixture), {})


def expert_group_name(expert_parallel: int) -> str:
    """DeepSpeed's name of the expert-parallel groups of a size."""
    return f"ep_size_{expert_parallel}"


class MegatronGroups:
    """Megatron-Core's process groups under the names that DeepSpeed asks for."""

    def __getattr__(self, name: str) -> Any:
        model_parallel: Any = parallel_state.get_model_parallel_group
        renamed = {
            "get_model_parallel_world_size": lambda: dist.get_world_size(model_parallel()),
            "get_model_parallel_rank": lambda: dist.get_rank(model_parallel()),
        }
        if name == "initialize_sequence_parallel":
            raise AttributeError(name)  # its presence would tell DeepSpeed to use Ulysses
        return renamed.get(name) or getattr(parallel_state, name)
