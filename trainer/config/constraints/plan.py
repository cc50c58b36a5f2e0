"""The layout of a run over its ranks, decided and checked before any process group exists."""

from moe.placement.placement import Placement, objective_of
from netsim.foundation.refusal import Refusal
from trainer.config.constraints.adapters import check_adapters
from trainer.config.constraints.adjoint_matching import caution_of_guidance, check_adjoint_matching
from trainer.config.constraints.blockwise import check_blockwise
from trainer.config.constraints.buckets import check_buckets
from trainer.config.constraints.causal import check_causal
from trainer.config.constraints.context import check_context
from trainer.config.constraints.cycle import check_cycle
from trainer.config.constraints.dispatch import check_dispatch
from trainer.config.constraints.distillation import check_distillation
from trainer.config.constraints.division import check_experts, check_tensor, expert_nodes
from trainer.config.constraints.drawing import check_drawing, stale_grids
from trainer.config.constraints.ending import beyond_the_end
from trainer.config.constraints.engine import check_engine
from trainer.config.constraints.examples import check_examples
from trainer.config.constraints.flow import caution, check_composition
from trainer.config.constraints.mixture import check_mixture
from trainer.config.constraints.objective import check_objective
from trainer.config.constraints.one_step import check_one_step
from trainer.config.constraints.pairing import check_pairing, check_source, check_times
from trainer.config.constraints.policy import check_policy
from trainer.config.constraints.profile import check_profile
from trainer.config.constraints.replicas import with_homes_first
from trainer.config.constraints.surrogate import check_surrogate
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.data import WebDatasetConfig, accumulation_steps, parts_of


def plan_layout(config: RunConfig, world_size: int, *, ranks_per_node: int | None = None) -> Layout:
    """Divides a run over its ranks.

    Args:
        config: the run.
        world_size: ranks, at least 1.
        ranks_per_node: ranks on one node, for runs that set neither `trace.ranks_per_node` nor a placement; None: all.

    Returns:
        The layout.

    Raises:
        ValueError: the ranks, the batch, the experts or the examples do not divide or fit, or parts of the run exclude
            each other; names field, value and remedy.
        Refusal: the placement file is malformed, made for another model or group, or has replicas that the run cannot
            use.
    """
    check_cycle(config)
    check_adapters(config)
    check_tensor(config, world_size)
    check_experts(config, world_size)
    check_engine(config)
    check_objective(config)
    check_causal(config)
    check_composition(config)
    check_context(config)
    check_buckets(config)
    check_examples(config)
    check_mixture(config)
    check_drawing(config, world_size)
    check_dispatch(config)
    check_profile(config)
    check_pairing(config)
    check_source(config)
    check_distillation(config)
    check_adjoint_matching(config)
    check_policy(config)
    check_surrogate(config)
    expert = config.parallel.expert
    data_parallel = world_size // config.parallel.tensor
    micro_batch = config.optim.micro_batch
    if micro_batch is None:
        micro_batch = accumulation_steps(config.optim.global_batch, 1, data_parallel)
    check_times(config, micro_batch)
    check_one_step(config, micro_batch)
    check_blockwise(config, micro_batch)
    placement = _placement(config, config.trace.ranks_per_node or ranks_per_node or world_size)
    return Layout(
        world_size=world_size,
        expert_parallel=expert,
        expert_data_parallel=data_parallel // expert,
        tensor_parallel=config.parallel.tensor,
        micro_batch=micro_batch,
        accumulation=accumulation_steps(config.optim.global_batch, micro_batch, data_parallel),
        placement=placement,
        relay_ranks=None if config.moe is None or placement is None else placement.relay_ranks(config.moe.dispatch),
    )


def plan_sampling(config: RunConfig, world_size: int, *, ranks_per_node: int) -> Layout:
    """Shares a network among ranks that draw from it; batches and engines of training are of no effect.

    Args:
        config: the run that trains the network.
        world_size: ranks, at least 1.
        ranks_per_node: ranks on one node, for runs that set neither `trace.ranks_per_node` nor a placement.

    Returns:
        The layout, for one example a pass.

    Raises:
        ValueError: the ranks or the experts do not divide, or parts of the run exclude each other.
        Refusal: the placement file is malformed or made for another model or group.
    """
    check_adapters(config)
    check_tensor(config, world_size)
    check_experts(config, world_size)
    check_composition(config)
    check_context(config)
    check_dispatch(config)
    check_source(config)
    placement = _placement(config, config.trace.ranks_per_node or ranks_per_node)
    return Layout(
        world_size=world_size,
        expert_parallel=config.parallel.expert,
        expert_data_parallel=world_size // config.parallel.tensor // config.parallel.expert,
        tensor_parallel=config.parallel.tensor,
        micro_batch=1,
        accumulation=1,
        placement=placement,
        relay_ranks=None if config.moe is None or placement is None else placement.relay_ranks(config.moe.dispatch),
    )


def describe(config: RunConfig, layout: Layout) -> str:
    """One line for a person: how the run is divided."""
    ranks = f"{layout.world_size} rank{'s' * (layout.world_size > 1)}"
    experts = ""
    if layout.tensor_parallel > 1:
        experts = f" = tensor {layout.tensor_parallel} x data {layout.data_parallel}"
    if config.moe is not None:
        experts = (
            f" = expert {layout.expert_parallel} x expert data {layout.expert_data_parallel}, "
            f"{config.moe.num_experts // layout.expert_parallel} of {config.moe.num_experts} experts a rank and layer, "
            f"{config.moe.dispatch} dispatch"
        )
        if layout.placement is not None and layout.placement.has_replicas:
            replicas = layout.placement.slots_per_rank - config.moe.num_experts // layout.expert_parallel
            experts += f", {replicas} replica{'s' * (replicas > 1)} more ({config.moe.replicas})"
    if layout.relay_ranks is not None:
        experts += f" over {layout.expert_parallel // layout.relay_ranks} nodes of {layout.relay_ranks}"
    return (
        f"{ranks}{experts}; batch {config.optim.global_batch} = {layout.micro_batch} x {layout.accumulation} micro "
        f"x {layout.data_parallel}; {config.engine.label}"
    )


def cautions(config: RunConfig, layout: Layout) -> list[str]:
    """Lines for a person about settings that are allowed and probably not meant.

    Args:
        config: the run.
        layout: how it is laid out.

    Returns:
        At most one line for each such thing.
    """
    tars = (part for part in parts_of(config.data) if isinstance(part, WebDatasetConfig))
    streams = next((line for part in tars if (line := part.caution(layout.data_parallel)) is not None), None)
    lines = [
        line
        for line in (
            *(caution(config), stale_grids(config), caution_of_guidance(config), streams),
            beyond_the_end(config),
        )
        if line is not None
    ]
    moe, placement = config.moe, layout.placement
    if moe is None or placement is None:
        return lines
    if moe.replicas != "even" and not placement.has_replicas:
        lines.append(
            f"moe.replicas: {moe.replicas} chooses among replicas, and the placement has none; place with more "
            "--slots-per-rank than experts / ranks, or leave it out"
        )
    if moe.dispatch == "capped" and moe.placement is not None:
        lines.append(
            f"moe.placement: {moe.placement} changes nothing in what capped dispatch sends, as much from every rank to "
            "every rank under any placement; leave it out, or set moe.dispatch=home"
        )
    if moe.dispatch == "capped" or placement.dispatch == moe.dispatch:
        return lines
    return [
        *lines,
        f"moe.placement: {moe.placement} was made for {placement.dispatch} dispatch, and what it saves there says "
        f"nothing about {moe.dispatch}; place with --objective {moe.dispatch}, or set "
        f"moe.dispatch={placement.dispatch}",
    ]


def _placement(config: RunConfig, ranks_per_node: int) -> Placement | None:
    if config.moe is None:
        return None
    num_layers, num_experts, ranks = config.model.num_layers, config.moe.num_experts, config.parallel.expert
    path = config.moe.placement
    if path is None:
        nodes = expert_nodes(config, ranks_per_node)
        return Placement.contiguous(
            num_layers, num_experts, nodes, ranks // nodes, dispatch=objective_of(config.moe.dispatch)
        )
    placement = Placement.read(path)
    for field, value, wanted in (
        ("num_layers", placement.num_layers, num_layers),
        ("num_experts", placement.num_experts, num_experts),
        ("num_nodes x ranks_per_node", placement.num_ranks, ranks),
    ):
        if value != wanted:
            raise Refusal(
                path,
                field,
                f"is {value} but the run has {wanted}",
                "place this run's own trace (python -m moe place)",
            )
    return with_homes_first(placement, path, config.moe.dispatch)
