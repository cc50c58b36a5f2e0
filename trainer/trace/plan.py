"""From a configuration to what its trace depends on."""

from trainer.config import RunConfig
from trainer.layout import Layout
from trainer.network import dense_parameters
from trainer.trace.formula import TraceSpec
from trainer.trace.reduction import optimizer_groups
from trainer.trace.session import config_digest


def trace_spec(config: RunConfig, layout: Layout, *, ranks_per_node: int, steps: tuple[int, ...] = (1,)) -> TraceSpec:
    """Collects what the formula needs.

    Args:
        config: the run.
        layout: how it is laid out.
        ranks_per_node: ranks on one node.
        steps: optimiser steps to write.

    Returns:
        The specification.

    Raises:
        ValueError: no formula covers the engine's ZeRO stage.
    """
    stage = config.engine.zero_stage
    if stage == 3:
        raise ValueError("engine.zero_stage: 3 has no formula yet; use 0, 1 or 2, or record a run (trace.steps)")
    moe, layers = config.moe, config.model.num_layers
    experts: list[int] = []
    if moe is not None:
        matrices = 2 * layers * moe.num_experts // layout.expert_parallel
        experts = [config.model.hidden * moe.expert_hidden] * matrices
    _, height, width = config.data.shape
    return TraceSpec(
        world_size=layout.world_size,
        ranks_per_node=ranks_per_node,
        expert_parallel=layout.expert_parallel,
        moe_layers=tuple(range(layers)) if moe is not None else (),
        num_experts=moe.num_experts if moe is not None else 0,
        top_k=moe.top_k if moe is not None else 0,
        tokens=layout.micro_batch * (height // config.model.patch_size) * (width // config.model.patch_size),
        hidden=config.model.hidden,
        parameters=optimizer_groups(dense_parameters(config), experts),
        zero_stage=stage,
        precision=config.engine.precision,
        bucket_elements=config.engine.bucket_elements,
        accumulation=layout.accumulation,
        steps=steps,
        config_sha256=config_digest(config),
    )
