"""How a run divides its work over the ranks, and what takes its optimiser steps."""

from typing import Literal

from pydantic import PositiveInt, model_validator

from netsim.foundation.settings import Section


class DeepSpeedConfig(Section):
    """The DeepSpeed engine."""

    kind: Literal["deepspeed"] = "deepspeed"
    zero_stage: Literal[0, 1, 2, 3] = 1
    """What is sharded: 1 optimiser state, 2 and gradients, 3 and parameters. Experts: 0 to 2."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """What blocks compute in; bf16 keeps float32 master weights and moments."""
    activation_checkpointing: bool = False
    """Blocks keep their inputs alone and compute the rest again in the backward pass: less memory, more work."""
    compile: bool = False
    """Blocks are compiled at their first use, which takes a C++ compiler and some seconds; no experts."""
    bucket_elements: PositiveInt = 100_000_000
    """Elements of one gradient reduction and of one parameter gathering. Under bf16 gradients are reduced in float32
    while the backward pass goes on; a smaller bucket begins earlier, a larger one uses the network better."""

    @property
    def label(self) -> str:
        """What a person calls it."""
        return f"ZeRO {self.zero_stage}, {self.precision}"

    @property
    def shards_parameters(self) -> bool:
        """Whether ranks must compute together, because each holds a part of every parameter."""
        return self.zero_stage == 3


class FSDPConfig(Section):
    """Torch's fully sharded data parallelism (FSDP2), for dense models; weights, moments and reductions are float32."""

    kind: Literal["fsdp"] = "fsdp"
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the copies of the weights that a block computes with."""
    activation_checkpointing: bool = False
    """Blocks keep their inputs alone and compute the rest again in the backward pass: less memory, more work."""
    compile: bool = False
    """Blocks are compiled at their first use, which takes a C++ compiler and some seconds."""
    reshard_after_forward: bool = True
    """Whether a block lets go of its gathered parameters after its forward pass: less memory, one more gathering."""

    @property
    def label(self) -> str:
        """What a person calls it."""
        return f"FSDP2, {self.precision}"

    @property
    def shards_parameters(self) -> bool:
        """Whether ranks must compute together, because each holds a part of every parameter."""
        return True


class ParallelConfig(Section):
    """How the ranks divide the model; what is left over is data parallel."""

    expert: PositiveInt = 1
    """Ranks that share the experts of a layer."""
    tensor: PositiveInt = 1
    """Ranks that share the matrices of a block: attention by heads, feed-forward layers by their inner width."""
    pipeline: PositiveInt = 1
    """Only 1: every rank holds all blocks."""
    context: PositiveInt = 1
    """Only 1: every rank sees whole sequences."""

    @model_validator(mode="after")
    def _offered(self) -> "ParallelConfig":
        if self.pipeline > 1:
            raise ValueError(
                f"pipeline: {self.pipeline} stages would each hold some blocks, and the loop sends every micro batch "
                "through all of them; use 1, and tensor, expert or engine.zero_stage to divide a large model"
            )
        if self.context > 1:
            raise ValueError(
                f"context: {self.context} ranks would each hold some tokens of a sequence, and attention reads whole "
                "sequences of its rank; use 1, and tensor to divide the attention by heads"
            )
        return self
