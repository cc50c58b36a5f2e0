"""The placement file: experts by rank and slot, and the quality of the placement.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, S slots of one rank and layer.
"""

import json
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from netsim.foundation.complaint import complaining
from netsim.foundation.documents import read_json
from netsim.foundation.files import replacing
from netsim.foundation.refusal import Refusal

Dispatch = Literal["coherent", "home", "copies", "hierarchical"]
"""Dispatch modes whose traffic a placement can save."""
Mode = Dispatch | Literal["capped"]
"""Dispatch modes of a run."""
_Count = Annotated[int, Field(gt=0, strict=True)]
_Index = Annotated[int, Field(ge=0, strict=True)]
_Cost = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ObjectiveRecord(_Record):
    """Quality of a placement.

    Attributes:
        name: Objective that was minimised.
        cost: Cost per token of this placement, in units of the cost matrix.
        contiguous_cost: Cost per token of the contiguous placement.
        lower_bound: No balanced placement costs less per token.
        gap: (cost - lower_bound) / cost, the largest share of the cost that a better search could still save.
    """

    name: Dispatch
    cost: _Cost
    contiguous_cost: _Cost
    lower_bound: _Cost
    gap: Annotated[float, Field(ge=0, le=1, strict=True)]


class LoadRecord(_Record):
    """Load of the busiest rank, as a multiple of the mean load of a rank of its layer.

    Attributes:
        max_load: Cap that the placement was made under, or None for no cap.
        busiest: Load of the busiest rank on the trace, its mean over the layers.
        worst: The same in the layer where it is highest.
    """

    max_load: Annotated[float, Field(ge=1, allow_inf_nan=False, strict=True)] | None = None
    busiest: _Cost
    worst: _Cost


class SolverRecord(_Record):
    """Which solver made the placement.

    Attributes:
        name: Name of the solver.
        seed: Seed of its random draws.
    """

    name: str
    seed: _Index


class Placement(_Record):
    """Experts of every layer on the ranks of one expert-parallel group; rank g sits on node g // ranks_per_node.

    An expert on several ranks has replicas; there are never two on one rank.

    Attributes:
        format: Name and version of the file format.
        num_layers: MoE layers L.
        num_experts: Experts E per layer.
        num_nodes: Nodes of the group.
        ranks_per_node: Ranks of the group on each node.
        dispatch: Dispatch mode that the placement is made for; only there does its objective hold.
        rank_experts: Logical expert ids in slot order, [L, G, S]; the same number of slots everywhere.
        ep_ranks: World ranks of each expert-parallel group that repeats the placement, or None.
        objective: Its quality, or None if it was not measured.
        load: Load of its busiest ranks, or None if it was not measured.
        solver: Solver that made it.
        cost_matrix: Cost of one token's move between ranks, [G, G].
        trace_sha256: Hash of the routing trace that it was made from, or None.
        dense_layers: Hidden layers of the model without experts, in ascending order; None if unknown. Left out of the
            file where it is None.
    """

    format: Literal["flowfabric.placement/1"] = "flowfabric.placement/1"
    num_layers: _Count
    num_experts: _Count
    num_nodes: _Count
    ranks_per_node: _Count
    dispatch: Dispatch
    rank_experts: tuple[tuple[tuple[_Index, ...], ...], ...]
    ep_ranks: tuple[tuple[_Index, ...], ...] | None = None
    objective: ObjectiveRecord | None = None
    load: LoadRecord | None = None
    solver: SolverRecord
    cost_matrix: tuple[tuple[_Cost, ...], ...]
    trace_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    dense_layers: tuple[_Index, ...] | None = None

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        ranks = self.num_ranks
        if len(self.rank_experts) != self.num_layers:
            raise ValueError(f"rank_experts: {len(self.rank_experts)} layers where num_layers is {self.num_layers}")
        for layer, slots_of_ranks in enumerate(self.rank_experts):
            self._check_layer(f"rank_experts.{layer}", slots_of_ranks)
            if len(slots_of_ranks[0]) != self.slots_per_rank:
                width, first = len(slots_of_ranks[0]), self.slots_per_rank
                raise ValueError(f"rank_experts.{layer}: {width} slots a rank where layer 0 has {first}")
        if len(self.cost_matrix) != ranks or any(len(row) != ranks for row in self.cost_matrix):
            raise ValueError(f"cost_matrix: is not {ranks} x {ranks}, the ranks of the group")
        if self.dense_layers is not None and max(self.dense_layers, default=0) >= self.num_layers + len(
            self.dense_layers
        ):
            total = self.num_layers + len(self.dense_layers)
            raise ValueError(f"dense_layers: {max(self.dense_layers)} is not one of the {total} layers")
        if self.ep_ranks is not None:
            members = [rank for group in self.ep_ranks for rank in group]
            if any(len(group) != ranks for group in self.ep_ranks) or len(set(members)) != len(members):
                raise ValueError(f"ep_ranks: every group names {ranks} ranks and no rank is in two places")
        return self

    def _check_layer(self, field: str, slots_of_ranks: tuple[tuple[int, ...], ...]) -> None:
        if len(slots_of_ranks) != self.num_ranks:
            raise ValueError(
                f"{field}: {len(slots_of_ranks)} ranks where num_nodes * ranks_per_node is {self.num_ranks}"
            )
        widths = {len(experts) for experts in slots_of_ranks}
        if len(widths) != 1:
            raise ValueError(f"{field}: ranks have different numbers of slots ({sorted(widths)})")
        placed = {expert for experts in slots_of_ranks for expert in experts}
        if max(placed, default=0) >= self.num_experts:
            raise ValueError(f"{field}: expert {max(placed)} is outside num_experts {self.num_experts}")
        for rank, experts in enumerate(slots_of_ranks):
            if len(set(experts)) != len(experts):
                double = next(expert for expert in experts if experts.count(expert) > 1)
                raise ValueError(f"{field}: expert {double} is twice on rank {rank}")
        if len(placed) != self.num_experts:
            missing = next(expert for expert in range(self.num_experts) if expert not in placed)
            raise ValueError(f"{field}: expert {missing} is in no slot")

    @property
    def num_ranks(self) -> int:
        """Ranks G of one expert-parallel group."""
        return self.num_nodes * self.ranks_per_node

    @property
    def slots_per_rank(self) -> int:
        """Slots S of one rank and layer."""
        return len(self.rank_experts[0][0])

    @property
    def has_replicas(self) -> bool:
        """Whether any expert is on several ranks."""
        return self.slots_per_rank * self.num_ranks > self.num_experts

    def relay_ranks(self, dispatch: Mode) -> int | None:
        """Returns `ranks_per_node` for hierarchical dispatch with several nodes of several ranks each; for all else
        None.
        """
        return self.ranks_per_node if dispatch == "hierarchical" and 1 < self.ranks_per_node < self.num_ranks else None

    def slot_to_expert(self, layer: int) -> NDArray[np.int64]:
        """Logical expert in each slot of a layer, int64 [G * S]; slot s of rank g is entry g * S + s."""
        return np.array(self.rank_experts[layer], dtype=np.int64).reshape(-1)

    def expert_ranks(self) -> NDArray[np.int64]:
        """Rank that holds each expert, int64 [L, E].

        Raises:
            ValueError: Some expert is on several ranks; `holders` says on which.
        """
        if self.has_replicas:
            raise ValueError(
                f"rank_experts: {self.num_ranks} x {self.slots_per_rank} slots hold replicas of {self.num_experts} "
                "experts, so that no expert has one rank; place with as many slots as experts"
            )
        slots = np.stack([self.slot_to_expert(layer) for layer in range(self.num_layers)])
        return np.argsort(slots, axis=1) // self.slots_per_rank

    def holders(self) -> NDArray[np.bool_]:
        """True where the rank holds the expert, replicas included, bool [L, E, G]."""
        holders = np.zeros((self.num_layers, self.num_experts, self.num_ranks), dtype=bool)
        ranks = np.arange(self.num_ranks * self.slots_per_rank) // self.slots_per_rank
        for layer in range(self.num_layers):
            holders[layer, self.slot_to_expert(layer), ranks] = True
        return holders

    @classmethod
    def contiguous(
        cls, num_layers: int, num_experts: int, num_nodes: int, ranks_per_node: int, *, dispatch: Dispatch = "home"
    ) -> Self:
        """Put experts 0 to S - 1 on rank 0, the next S on rank 1, and so on, as in runs without a placement.

        Raises:
            ValueError: The experts do not divide among the ranks.
        """
        slots = slots_per_rank(num_experts, num_nodes * ranks_per_node)
        layer = tuple(tuple(range(first, first + slots)) for first in range(0, num_experts, slots))
        node = np.arange(num_nodes * ranks_per_node) // ranks_per_node
        hops = 2.0 * (node[:, None] != node) + 1.0 * (node[:, None] == node) - np.eye(len(node))
        return cls(
            num_layers=num_layers,
            num_experts=num_experts,
            num_nodes=num_nodes,
            ranks_per_node=ranks_per_node,
            dispatch=dispatch,
            rank_experts=(layer,) * num_layers,
            solver=SolverRecord(name="contiguous", seed=0),
            cost_matrix=tuple(map(tuple, hops.tolist())),
        )

    def write(self, path: Path | str) -> None:
        """Write the placement; equal placements become equal bytes."""
        with replacing(path) as temporary:
            unknown = {"dense_layers"} if self.dense_layers is None else None
            document = self.model_dump(mode="json", exclude=unknown)
            lines = (f" {json.dumps(key)}: {json.dumps(value)}" for key, value in document.items())
            temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Read and check a placement.

        Raises:
            Refusal: The file cannot be read or its content contradicts itself.
        """
        path = Path(path)
        remedy = "make the file with `python -m moe place`"
        document = read_json(path, remedy, absent="check the path", parse_constant=_refuse_constant)
        if isinstance(document, dict) and "format" not in document:
            raise Refusal(path, "format", "is missing", "state flowfabric.placement/1")
        with complaining(path, remedy):
            return cls.model_validate(document)


def objective_of(mode: Mode) -> Dispatch:
    """Name the dispatch mode that a placement is made for in a run.

    That is home for capped dispatch, which sends the same under any placement, so that no placement is better.
    """
    return "home" if mode == "capped" else mode


def slots_per_rank(num_experts: int, num_ranks: int) -> int:
    """Slots that each rank needs to hold every expert once; ValueError if experts do not divide among the ranks."""
    if num_ranks < 1 or num_experts % num_ranks:
        raise ValueError(
            f"num_experts: {num_experts} experts do not divide among {num_ranks} ranks; "
            "choose nodes * ranks_per_node that divides the experts"
        )
    return num_experts // num_ranks


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number in JSON")
