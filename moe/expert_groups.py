"""The process groups of a collective trace over which tokens travel to their experts."""

from collections.abc import Mapping

import numpy as np

from moe.dispatch.messages import Exchange

EXPERT = "expert"
PARTS = ("expert_rail", "expert_node")
"""Meanings of the groups between and inside the nodes of an expert-parallel group."""
Groups = Mapping[str, tuple[int, ...]]


def meaning(name: str) -> str:
    """What a group is for: its name without a number."""
    kind, _, number = name.rpartition("_")
    return kind if number.isdecimal() else name


class ExpertGroups:
    """Names the groups that a dispatch mode uses, in the order that recordings and formulas give them.

    Attributes:
        num_ranks: ranks of an expert-parallel group.
        groups: groups of the trace in that mode: those between and inside nodes where it needs them, and only there.
    """

    def __init__(self, groups: Groups, num_ranks: int, relay_ranks: int | None) -> None:
        """Adds to the groups of a trace what a mode needs.

        Args:
            groups: name to global ranks, as the header of a trace has them.
            num_ranks: ranks of an expert-parallel group, which are consecutive.
            relay_ranks: those on one node, for hierarchical dispatch on several nodes; None: nodes make no difference.
        """
        self.num_ranks = num_ranks
        kept = {(meaning(name), ranks): name for name, ranks in groups.items() if meaning(name) not in PARTS}
        own = [ranks for kind, ranks in kept if kind == EXPERT]
        if relay_ranks is not None:
            place = np.arange(num_ranks)
            for kind, parts in zip(PARTS, (place % relay_ranks, place // relay_ranks), strict=True):
                divided = [
                    tuple(np.array(ranks)[parts == part].tolist()) for ranks in own for part in set(parts.tolist())
                ]
                kept |= {(kind, ranks): f"{kind}_{number}" for number, ranks in enumerate(sorted(divided))}
        self._names = {key: kept[key] for key in sorted(kept)}
        self.groups = {name: ranks for (_, ranks), name in self._names.items()}

    def name(self, rank: int, exchange: Exchange) -> str:
        """The group on which a rank issues an exchange."""
        member = rank % self.num_ranks
        ranks = tuple((rank - member + exchange.members(member)).tolist())
        return self._names[exchange.group, ranks]
