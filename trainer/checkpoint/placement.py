"""Where the experts of a run live when it is saved and when it goes on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moe.placement.placement import Placement, SolverRecord
from netsim.foundation.refusal import Refusal
from trainer.checkpoint.manifest import REMEDY
from trainer.config.layout import Layout
from trainer.config.rules.plan import with_homes_first
from trainer.config.run import RunConfig


def placement_now(start: Placement, slot_to_expert: NDArray[np.int64], version: int) -> Placement:
    """The placement of a run whose experts may have moved: `start` itself if none has, else one named as the solver's.

    Args:
        slot_to_expert: logical expert of each slot now, [MoE layers, slots].
        version: migrations of the run so far.
    """
    layers = slot_to_expert.reshape(start.num_layers, start.num_ranks, -1).tolist()
    rank_experts = tuple(tuple(map(tuple, ranks)) for ranks in layers)
    if rank_experts == start.rank_experts:
        return start
    solver = SolverRecord(name=f"live migration {version}", seed=0)
    changes = {"rank_experts": rank_experts, "objective": None, "solver": solver, "trace_sha256": None}
    return start.model_copy(update=changes)


def resumed_layout(config: RunConfig, layout: Layout, folder: Path) -> Layout:
    """The layout of a resuming run, with its experts where they are.

    A run whose experts migrate finds them where its checkpoint has them: `moe.placement` says only where they start.
    Without `moe.migration`, or where other numbers of ranks share the experts, the configuration decides, and experts
    that were saved elsewhere are moved on loading.
    """
    if config.moe is None or config.moe.migration is None:
        return layout
    path = folder / "placement.json"
    saved, planned = Placement.read(path), layout.placement
    assert planned is not None
    for field in ("num_layers", "num_experts"):
        own, wanted = getattr(saved, field), getattr(planned, field)
        if own != wanted:
            raise Refusal(path, field, f"is {own} but the run has {wanted}", REMEDY)
    if saved.num_ranks != planned.num_ranks:
        return layout
    saved = with_homes_first(saved, path, config.moe.dispatch)
    if config.moe.dispatch == "hierarchical":  # process groups and costs are those of the nodes of this start
        nodes = ("num_nodes", "ranks_per_node", "cost_matrix")
        saved = saved.model_copy(update={field: getattr(planned, field) for field in nodes})
    return replace(layout, placement=saved)
