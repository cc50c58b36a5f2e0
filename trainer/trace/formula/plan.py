"""From a configuration to what its trace depends on."""

from collections.abc import Iterator

import torch

from moe.config import MoEConfig, SparseOTRouterConfig
from moe.dispatch.messages import Borrowing
from moe.ot import summed_elements
from trainer.config.constraints.buckets import several_shapes
from trainer.config.digest import config_digest
from trainer.config.engine import FSDPConfig
from trainer.config.layout import Layout
from trainer.config.network import causal_transition
from trainer.config.optim import in_order
from trainer.config.run import Flow, RunConfig
from trainer.config.task import OwnTask
from trainer.flow import Condition
from trainer.flow.coupling import OwnCoupling
from trainer.flow.objective import (
    AlignedConfig,
    CausalTransitionConfig,
    ConsistencyDistillationConfig,
    FeatureResidualConfig,
    MongeGapConfig,
    OwnObjective,
    RegressionConfig,
    TransitionConfig,
    VelocityDistillationConfig,
)
from trainer.flow.question import HeadVelocities, NextStates, Question, WithProjection
from trainer.model.block_transforms import prepare_blocks
from trainer.model.build import (
    dense_parameters,
    dense_shapes,
    expert_parameters,
    expert_stacks,
    meta_network,
    tokens_per_example,
)
from trainer.model.causal_transition import chain_of
from trainer.trace.formula.drawing import drawing, may_communicate
from trainer.trace.formula.fsdp import FSDPTraffic
from trainer.trace.formula.passes import Passage
from trainer.trace.formula.protocol import Collective, EngineTraffic, LayerTraffic
from trainer.trace.formula.reduction import optimizer_groups
from trainer.trace.formula.tensor import TensorTraffic, tensor_sum
from trainer.trace.formula.tokens import TokenTraffic
from trainer.trace.formula.trace import RankGroups, TraceSpec
from trainer.trace.formula.training import TrainingStep
from trainer.trace.formula.walk import Walk, walk
from trainer.trace.formula.zero import ZeroTraffic
from trainer.trace.formula.zero3 import Zero3Traffic


def trace_spec(config: RunConfig, layout: Layout, *, ranks_per_node: int, steps: tuple[int, ...] = (1,)) -> TraceSpec:
    """Collects what the formula needs.

    What happens between steps (an expert bias, moving averages, logged figures) is in no trace, recorded or computed.

    Args:
        config: the run.
        layout: how it is laid out.
        ranks_per_node: ranks on one node.
        steps: optimiser steps to write.

    Returns:
        The specification.

    Raises:
        ValueError: no formula covers the dispatch mode or the objective.
    """
    missing = without_formula(config)
    if missing is not None:
        raise ValueError(missing)
    engine = _engine(config, layout)
    step = TrainingStep(
        passage=Passage(config.model.num_layers, tuple(_layers(config, layout, engine))),
        engine=engine,
        repeats_forward=config.engine.activation_checkpointing,
        accumulation=layout.accumulation,
        drawing=tuple(drawing(config, layout)),
    )
    return TraceSpec(
        world_size=layout.world_size,
        ranks_per_node=ranks_per_node,
        groups=rank_groups(layout),
        program=step,
        steps=steps,
        config_sha256=config_digest(config),
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


def without_formula(config: RunConfig) -> str | None:
    """Why no formula gives the collectives of a run, with the remedy; None: one may.

    Where only the residual network of a trunk learns, most parameters have no gradient to reduce and some blocks do
    not run, which the engines' formulas leave out. A user's coupling may send anything, and a user's objective or task
    may call the network any number of times.
    """
    if several_shapes(config):
        return (
            "data: steps on images of several shapes send messages of several sizes, and none stands for the others; "
            "give images of one shape"
        )
    remedy = "record such a run with trace.steps"
    if isinstance(config.task, OwnTask):
        return f"task.class: {config.task.class_path} may call the network in other ways than training does; {remedy}"
    match config.flow:
        case Flow(objective=FeatureResidualConfig()):
            return (
                "flow.objective.kind: feature_residual leaves blocks out and most parameters without gradient, for "
                f"which there is no formula; {remedy}"
            )
        case Flow(objective=(VelocityDistillationConfig() | ConsistencyDistillationConfig()) as distilled):
            return (
                f"flow.objective.kind: {distilled.kind} calls the network several times a micro batch, and a teacher, "
                f"for which there is no formula; {remedy}"
            )
        case Flow(objective=OwnObjective(class_path=path)):
            return f"flow.objective.class: {path} may ask the network more than once a micro batch; {remedy}"
        case Flow(coupling=OwnCoupling(class_path=path) as coupling) if may_communicate(coupling):
            return (
                f"flow.coupling.class: {path} may gather points or weigh pairs over all ranks; {remedy}, or where it "
                "inherits draw_step set its attribute weighs to true or false"
            )
    return None


def _engine(config: RunConfig, layout: Layout) -> EngineTraffic:
    if isinstance(config.engine, FSDPConfig):
        network = meta_network(config, layout.tensor_parallel)
        inside = {id(parameter) for parameter in network.blocks.parameters()}
        return FSDPTraffic(
            blocks=tuple([tuple(parameter.shape) for parameter in block.parameters()] for block in network.blocks),
            root=[tuple(parameter.shape) for parameter in network.parameters() if id(parameter) not in inside],
            num_ranks=layout.data_parallel,
            precision=config.engine.precision,
            reshard_after_forward=config.engine.reshard_after_forward,
            accumulation=layout.accumulation,
            tensor_parallel=layout.tensor_parallel,
        )
    stage = config.engine.zero_stage
    rates = [config.optim.rate_of(name) for name in dense_shapes(config, layout.tensor_parallel)]
    if stage == 3:
        return Zero3Traffic(
            sizes=tuple(dense_parameters(config, layout.tensor_parallel)),
            walk=_walk(config, layout.tensor_parallel),
            num_ranks=layout.data_parallel,
            precision=config.engine.precision,
            bucket_elements=config.engine.bucket_elements,
            summed=_sum(config, layout),
            groups=len(in_order(rates)),
        )
    experts: list[int] = []
    expert_rates: list[float] = []
    if config.moe is not None:
        homes = config.moe.num_experts // layout.expert_parallel
        stack = homes * config.model.hidden * config.moe.expert_hidden
        experts = [stack] * 2 * config.model.num_layers  # both matrices of all experts at home, layer by layer
        expert_rates = [config.optim.rate_of(name) for name in expert_stacks(config)]
    return ZeroTraffic(
        stage=stage,
        parameters=optimizer_groups(dense_parameters(config, layout.tensor_parallel), experts, rates, expert_rates),
        num_ranks={"data": layout.data_parallel, "expert_data": layout.expert_data_parallel},
        precision=config.engine.precision,
        bucket_elements=config.engine.bucket_elements,
        accumulation=layout.accumulation,
        tensor_parallel=layout.tensor_parallel,
    )


def _walk(config: RunConfig, tensor_parallel: int) -> Walk:
    """A micro batch of one example; how many there are does not change the order."""
    network = meta_network(config, tensor_parallel).eval()
    if config.engine.activation_checkpointing:
        prepare_blocks(network.blocks, config.engine)
    with torch.device("meta"):
        inputs: list[object] = [
            torch.empty(1, *one.shape, dtype=torch.int64 if one.integer else torch.float32)
            for one in config.model.inputs(config.state_shape)
        ]
        if config.flow is not None:
            context = None if config.context_shape is None else torch.empty(1, *config.context_shape)
            caption = torch.empty(1, config.caption_width) if config.caption_width else None
            inputs += [Condition(context=context, segment=0, caption=caption), *questions(config)]
        return walk(network, network.blocks, lambda module: _total(module(*inputs)))


def questions(config: RunConfig) -> tuple[Question, ...]:
    """The questions that the objective of a run puts to its network."""
    match config.flow and config.flow.objective:
        case AlignedConfig():
            return (WithProjection(),)
        case CausalTransitionConfig(draws=draws) if isinstance(config.model, causal_transition.CausalTransitionConfig):
            chain = chain_of(config.model, config.state_shape)
            following = torch.empty(chain.read_at_once, 1, *chain.shape)
            times = torch.empty(draws, chain.read_at_once, 1, chain.num_tokens)
            return (NextStates(following, following.expand(draws, *following.shape), times),)
        case TransitionConfig():
            tokens = config.model.tokens(config.state_shape)
            return (HeadVelocities(torch.empty(1, 1, *config.state_shape), torch.empty(1, 1, tokens)),)
    return ()


def _total(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    parts = output if isinstance(output, tuple) else (output,)
    return torch.stack([part.sum() for part in parts]).sum()


def _sum(config: RunConfig, layout: Layout) -> Collective | None:
    """The sum over the parts of a divided layer in a loss; None: no layer is divided."""
    if layout.tensor_parallel == 1:
        return None
    return tensor_sum(_tokens_of_a_loss(config, layout), config.model.hidden, config.engine.precision)


def _layers(config: RunConfig, layout: Layout, engine: EngineTraffic) -> Iterator[LayerTraffic]:
    """Sums over divided layers are left to the engine that knows their places among its gathers."""
    found = layers(config, layout, tokens=_tokens_of_a_loss(config, layout), precision=config.engine.precision)
    return (one for one in found if not (isinstance(engine, Zero3Traffic) and isinstance(one, TensorTraffic)))


def layers(
    config: RunConfig, layout: Layout, *, tokens: int, precision: str, evaluates: bool = False
) -> Iterator[LayerTraffic]:
    """What the layers of a network send in its passes.

    Args:
        config: the run.
        layout: how its ranks share the network.
        tokens: that a rank gives its network in one call.
        precision: element type of tokens, fp32 or bf16.
        evaluates: whether passes are in evaluation mode, where routers do not balance and nothing is dropped out.
    """
    if layout.tensor_parallel > 1:
        summed = tensor_sum(tokens, config.model.hidden, precision)
        yield TensorTraffic(pairs=2 if config.moe is None else 1, summed=summed)
    if config.moe is not None:
        yield _tokens(config, config.moe, layout, tokens, precision, evaluates=evaluates)


def _tokens(
    config: RunConfig, moe: MoEConfig, layout: Layout, tokens: int, precision: str, *, evaluates: bool
) -> TokenTraffic:
    balances = layout.world_size > 1 and not evaluates
    return TokenTraffic(
        expert_parallel=layout.expert_parallel,
        num_nodes=layout.expert_parallel // (layout.relay_ranks or layout.expert_parallel),
        moe_layers=tuple(range(config.model.num_layers)),
        dispatch="home" if evaluates and moe.dispatch == "capped" else moe.dispatch,
        num_experts=moe.num_experts,
        top_k=moe.top_k,
        most_choices=moe.most_choices,
        key_value_width=config.model.key_value_width,
        target_bytes=config.model.token_bytes,
        dropout=config.model.keyed_dropout and not evaluates,
        router_sums=_router_sums(moe) if balances else (),
        tokens=tokens,
        hidden=config.model.hidden,
        precision=precision,
        borrowings=tuple(Borrowing.of(slots, moe.replicas) for slots in layout.slots),
        expert_elements=expert_parameters(config),
        seats=moe.seats(tokens),
    )


def _tokens_of_a_loss(config: RunConfig, layout: Layout) -> int:
    """Tokens that a rank gives its network in the only call of a loss."""
    match config.flow and config.flow.objective:
        case RegressionConfig(antithetic=True) | RegressionConfig(monge_gap=MongeGapConfig()):
            states = 2  # of a pair; no regression has both settings
        case _:
            states = 1
    return states * layout.micro_batch * tokens_per_example(config)


def _router_sums(moe: MoEConfig) -> tuple[tuple[str, int], ...]:
    """Spread of the logits, each evaluation of the potentials, and the choices of each expert."""
    match moe.router:
        case SparseOTRouterConfig(potentials="global", evaluations=evaluations):
            solve = (("float32", 4 * elements) for elements in summed_elements(moe.num_experts, evaluations))
            return ("float64", 16), *solve, ("int64", 8 * moe.num_experts)
    return ()
