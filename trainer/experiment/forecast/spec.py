"""The specification of a trace, from a configuration."""

from dataclasses import replace
from math import prod

import torch
from torch import nn

from trainer.config.derived import tokens_per_example
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.config.sections import FSDPConfig
from trainer.experiment.forecast import calls
from trainer.experiment.forecast.calls import drawing, states_of_a_loss, weighing
from trainer.experiment.forecast.fsdp import FSDPTraffic, Unit
from trainer.experiment.forecast.layers import tensor_sum
from trainer.experiment.forecast.partitions import Rated, optimizer_groups
from trainer.experiment.forecast.protocol import Collective, EngineTraffic, Moment
from trainer.experiment.forecast.recording import moments
from trainer.experiment.forecast.trace import RankGroups, TraceSpec
from trainer.experiment.forecast.training import TrainingStep
from trainer.experiment.forecast.unknown import without_formula, without_work
from trainer.experiment.forecast.work import computation
from trainer.experiment.forecast.zero import ZeroTraffic
from trainer.experiment.forecast.zero3 import Zero3Traffic
from trainer.model.build import dense_shapes, expert_stacks, meta_network
from trainer.model.flops import call_on_meta, questions_in_training
from trainer.model.network import prepare_blocks


def trace_spec(
    config: RunConfig, layout: Layout, *, ranks_per_node: int, steps: tuple[int, ...] = (1,), work: bool = False
) -> TraceSpec:
    """Returns everything that the formula needs for the trace of a run.

    Operations between steps (for an expert bias, moving averages, logged figures) are in no trace, recorded or
    computed.

    Args:
        steps: optimiser steps to write; the first of a cycle collects for all of its steps.
        work: whether operations say what is computed before them.
    """
    missing = without_formula(config)
    if missing is not None:
        raise ValueError(missing)
    if work and (unknown := without_work(config)) is not None:
        raise ValueError(f"--work: {unknown}; leave it out, and take gaps from a recording by --times, or by --gap-ns")
    collecting, cycle = calls.collecting(config, layout, work=work), config.task.cycle
    micro_steps = replace(layout, accumulation=calls.losses(config, layout))
    step = TrainingStep(
        calls=calls.loss_calls(config, layout, work=work),
        engine=_engine(config, micro_steps),
        repeats_forward=config.engine.activation_checkpointing,
        accumulation=micro_steps.accumulation,
        drawing=tuple(drawing(config, layout)) * cycle,
        collecting=collecting,
        weighing=tuple(weighing(config, layout)) * cycle,
        update=computation(config, layout, states=1).update if work else None,
    )
    return TraceSpec(
        world_size=layout.world_size,
        ranks_per_node=ranks_per_node,
        groups=rank_groups(layout),
        program=step,
        later=replace(step, drawing=(), collecting=None, weighing=()) if cycle > 1 else None,
        cycle=cycle,
        steps=steps,
        config_sha256=config.digest,
    )


def rank_groups(layout: Layout) -> dict[str, RankGroups]:
    """The process groups of a layout, by their meaning."""
    node = layout.relay_ranks or layout.expert_parallel
    return {
        "world": RankGroups(layout.world_size),
        "data": RankGroups(layout.data_parallel, stride=layout.tensor_parallel),
        "tensor": RankGroups(layout.tensor_parallel),
        "expert": RankGroups(layout.expert_parallel),
        "expert_rail": RankGroups(layout.expert_parallel // node, stride=node),
        "expert_node": RankGroups(node),
        "expert_data": RankGroups(layout.expert_data_parallel, stride=layout.expert_parallel),
    }


def _engine(config: RunConfig, layout: Layout) -> EngineTraffic:
    if isinstance(config.engine, FSDPConfig):
        network = meta_network(config, layout.tensor_parallel)
        inside = {id(parameter) for parameter in network.blocks.parameters()}
        root = [parameter for parameter in network.parameters() if id(parameter) not in inside]
        units = (*(block.parameters() for block in network.blocks), root)
        return FSDPTraffic(
            units=[Unit([tuple(one.shape) for one in unit], layout.data_parallel) for unit in units],
            num_ranks=layout.data_parallel,
            precision=config.engine.precision,
            reshard_after_forward=config.engine.reshard_after_forward,
            accumulation=layout.accumulation,
            tensor_parallel=layout.tensor_parallel,
        )
    stage = config.engine.zero_stage
    shapes = dense_shapes(config, layout.tensor_parallel)
    dense = [(prod(shape), config.optim.rate_of(name)) for name, shape in shapes.items()]
    if stage == 3:
        forward, backward = _moments(config, layout.tensor_parallel)
        return Zero3Traffic(
            sizes=tuple(size for size, _ in dense),
            forward=forward,
            backward=backward,
            num_ranks=layout.data_parallel,
            precision=config.engine.precision,
            bucket_elements=config.engine.bucket_elements,
            summed=_sum(config, layout),
            groups=len(optimizer_groups(dense, ())),
        )
    experts: list[Rated] = []
    if config.moe is not None:
        homes = config.moe.num_experts // layout.expert_parallel
        matrices = homes * config.model.hidden * config.moe.expert_hidden
        experts = [(matrices, config.optim.rate_of(name)) for name in expert_stacks(config)]
    return ZeroTraffic(
        stage=stage,
        parameters=optimizer_groups(dense, experts),
        num_ranks={"data": layout.data_parallel, "expert_data": layout.expert_data_parallel},
        precision=config.engine.precision,
        bucket_elements=config.engine.bucket_elements,
        accumulation=layout.accumulation,
        tensor_parallel=layout.tensor_parallel,
    )


def _moments(config: RunConfig, tensor_parallel: int) -> tuple[tuple[Moment, ...], tuple[Moment, ...]]:
    """Returns the moments of a micro batch of one example; the number of examples does not change their order."""
    network = meta_network(config, tensor_parallel).eval()
    if config.engine.activation_checkpointing:
        prepare_blocks(network.blocks, config.engine)
    questions = questions_in_training(config)

    def loss(module: nn.Module) -> torch.Tensor:
        return torch.stack([part.sum() for part in call_on_meta(module, config, *questions)]).sum()

    return moments(network, network.blocks, loss)


def _sum(config: RunConfig, layout: Layout) -> Collective | None:
    """The sum over the parts of a divided layer in a loss; None: no layer is divided."""
    if layout.tensor_parallel == 1:
        return None
    tokens = states_of_a_loss(config) * layout.micro_batch * tokens_per_example(config)
    return tensor_sum(tokens, config.model.hidden, config.engine.precision)
