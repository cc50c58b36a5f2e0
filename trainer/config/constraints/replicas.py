"""Placements with replicas: which of them a run can use, and what they add."""

from pathlib import Path

from moe.placement.placement import Placement
from moe.replica.slots import Slots
from netsim.foundation.refusal import Refusal


def with_homes_first(placement: Placement, path: Path, dispatch: str) -> Placement:
    """Orders the slots of a placement with replicas as training keeps them: on every rank homes first.

    Args:
        placement: the placement; one without replicas is returned as it is.
        path: its file, for messages.
        dispatch: how tokens reach their experts in the run.

    Returns:
        The placement in that order, which says the same.

    Raises:
        Refusal: it has replicas, and the dispatch mode cannot use them, or its experts cannot be at home on all ranks
            in equal numbers.
    """
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
