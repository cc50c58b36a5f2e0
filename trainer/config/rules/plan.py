"""The layout of a run over its ranks, decided and checked before any process group exists."""

from pathlib import Path

from moe.placement.placement import Placement, objective_of
from moe.replica import Slots
from netsim.foundation.refusal import Refusal
from trainer.config.layout import Layout
from trainer.config.rules import drawing, pairing, parts, ranks, tasks
from trainer.config.rules.objection import Examination, attempt, errors, refuse, settled
from trainer.config.run import RunConfig
from trainer.data import accumulation_steps


def plan_layout(config: RunConfig, world_size: int, *, ranks_per_node: int | None = None) -> Layout:
    """Divides a run over its ranks.

    Args:
        config: the run.
        world_size: ranks, at least 1.
        ranks_per_node: ranks on one node, for runs that set neither `trace.ranks_per_node` nor a placement; None: all.

    Raises:
        ValueError: the ranks, the batch, the experts or the examples do not divide or fit, or parts of the run exclude
            each other; names field, value and remedy.
        Refusal: the placement file is malformed, made for another model or group, or has replicas that the run cannot
            use.
    """
    return settled(examined(config, world_size, ranks_per_node=ranks_per_node))


def examined(config: RunConfig, world_size: int, *, ranks_per_node: int | None = None) -> Examination[Layout]:
    """Every objection to a run, that of :func:`plan_layout` first, and the layout of a run without."""
    tensor, expert, batch = config.parallel.tensor, config.parallel.expert, config.optim.global_batch
    data_parallel, micro_batch = world_size // tensor, config.optim.micro_batch
    divides = not any(errors(ranks.of_tensor(config, world_size), ranks.of_experts(config, world_size)))
    uneven = micro_batch is None and divides and batch % data_parallel
    if micro_batch is None and divides and not uneven:
        micro_batch = batch // data_parallel
    objected = yield from errors(
        tasks.of_cycle(config),
        tasks.of_adapters(config),
        ranks.of_tensor(config, world_size),
        ranks.of_experts(config, world_size),
        ranks.of_engine(config),
        parts.of_objective(config),
        parts.of_causal_network(config),
        parts.of_composition(config),
        pairing.of_context(config),
        pairing.of_shapes(config),
        pairing.of_examples(config),
        pairing.of_mixture(config),
        drawing.of_guidance(config),
        drawing.of_grids(config),
        drawing.of_controls(config),
        drawing.of_samples(config, world_size),
        ranks.of_dispatch(config),
        drawing.of_profile(config),
        pairing.of_pairing(config),
        pairing.of_source(config),
        parts.of_distillation(config),
        tasks.of_adjoint_matching(config),
        tasks.of_policy(config),
        tasks.of_surrogate(config),
        *([attempt(accumulation_steps, batch, 1, data_parallel)] if uneven else ()),
        pairing.of_times(config, micro_batch),
        parts.of_one_step(config, micro_batch),
        parts.of_blocks(config, micro_batch),
    )
    if not divides:
        return None
    nodes = config.trace.ranks_per_node or ranks_per_node or world_size
    placement = yield from attempt(_placement, config, nodes)
    accumulation = None
    if micro_batch is not None:
        accumulation = yield from attempt(accumulation_steps, batch, micro_batch, data_parallel)
    unplaced = config.moe is not None and placement is None
    if objected or unplaced or micro_batch is None or accumulation is None:
        return None
    return Layout(
        world_size=world_size,
        expert_parallel=expert,
        expert_data_parallel=data_parallel // expert,
        tensor_parallel=tensor,
        micro_batch=micro_batch,
        accumulation=accumulation,
        placement=placement,
        relay_ranks=_relay_ranks(config, placement),
    )


def plan_sampling(config: RunConfig, world_size: int, *, ranks_per_node: int) -> Layout:
    """Shares a network among ranks that draw from it, one example a pass; batches and engines of training do not
    count.
    """
    refuse(
        tasks.of_adapters(config),
        ranks.of_tensor(config, world_size),
        ranks.of_experts(config, world_size),
        parts.of_composition(config),
        pairing.of_context(config),
        ranks.of_dispatch(config),
        pairing.of_source(config),
    )
    placement = _placement(config, config.trace.ranks_per_node or ranks_per_node)
    return Layout(
        world_size=world_size,
        expert_parallel=config.parallel.expert,
        expert_data_parallel=world_size // config.parallel.tensor // config.parallel.expert,
        tensor_parallel=config.parallel.tensor,
        micro_batch=1,
        accumulation=1,
        placement=placement,
        relay_ranks=_relay_ranks(config, placement),
    )


def _placement(config: RunConfig, ranks_per_node: int) -> Placement | None:
    if config.moe is None:
        return None
    num_layers, num_experts, expert = config.model.num_layers, config.moe.num_experts, config.parallel.expert
    path = config.moe.placement
    if path is None:
        nodes, dispatch = ranks.expert_nodes(config, ranks_per_node), objective_of(config.moe.dispatch)
        return Placement.contiguous(num_layers, num_experts, nodes, expert // nodes, dispatch=dispatch)
    placement = Placement.read(path)
    for field, value, wanted in (
        ("num_layers", placement.num_layers, num_layers),
        ("num_experts", placement.num_experts, num_experts),
        ("num_nodes x ranks_per_node", placement.num_ranks, expert),
    ):
        if value != wanted:
            problem = f"is {value} but the run has {wanted}"
            raise Refusal(path, field, problem, "place this run's own trace (python -m moe place)")
    return with_homes_first(placement, path, config.moe.dispatch)


def _relay_ranks(config: RunConfig, placement: Placement | None) -> int | None:
    return None if config.moe is None or placement is None else placement.relay_ranks(config.moe.dispatch)


def with_homes_first(placement: Placement, path: Path, dispatch: str) -> Placement:
    """Orders the slots of a placement with replicas as training keeps them: on every rank homes first."""
    if not placement.has_replicas:
        return placement
    slots_of_group = placement.slots_per_rank * placement.num_ranks
    refuses = {
        "coherent": "in coherent dispatch a token is where its one expert is",
        "capped": "capped dispatch would send empty seats to each of them",
    }
    if dispatch in refuses:
        raise Refusal(
            path,
            "rank_experts",
            f"has replicas ({slots_of_group} slots for {placement.num_experts} experts), and {refuses[dispatch]}",
            "place without replicas, or set moe.dispatch to home, copies or hierarchical",
        )
    layers = []
    for layer in range(placement.num_layers):
        try:
            slots = Slots.of(placement.slot_to_expert(layer), placement.num_experts, placement.num_ranks)
        except ValueError as error:
            problem, _, remedy = str(error).removeprefix("slot_to_expert: ").partition("; ")
            raise Refusal(path, f"rank_experts.{layer}", problem, remedy) from error
        layers.append(tuple(map(tuple, slots.experts.tolist())))
    return placement.model_copy(update={"rank_experts": tuple(layers)})


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
