"""From the experts that tokens choose to the slots that serve them.

Shape suffixes: T tokens of this rank, E experts, P slots of the expert-parallel group, N ranks of the group.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from moe.dispatch.exchange import gather_counts
from moe.replica.dealing import deal
from moe.replica.quotas import even_quotas, least_loaded_quotas
from moe.replica.slots import Slots


@dataclass(frozen=True, slots=True)
class Counts:
    """Choices that each rank of the group sends to each slot.

    Attributes:
        on_device: int64 [N, P] where the tokens are.
        on_host: the same on the host.
    """

    on_device: Tensor
    on_host: Tensor


class Serving:
    """The slots of a layer and the choice among replicas, which a dispatcher asks in every pass.

    Without replicas the choices of an expert go to its only slot and nothing is computed.

    Attributes:
        slots: the slots; they may be replaced between passes.
        group: the expert-parallel group.
        most_choices: experts that a token can visit.
        seats: choices that an expert takes at most of so many tokens of a rank in this pass; None: no limit.
        served: whether a slot served a token in the last pass, bool [T, P]; None without replicas.
    """

    def __init__(
        self,
        slots: Slots,
        group: dist.ProcessGroup,
        rule: str,
        layer: int,
        *,
        most_choices: int = 0,
        seats: Callable[[int], int | None] = lambda _tokens: None,
    ) -> None:
        """Begins with a placement.

        Args:
            slots: the slots of the layer.
            group: the expert-parallel group.
            rule: how the choices of an expert are split over its replicas, even or least_loaded.
            layer: index of the block.
            most_choices: experts that a token can visit.
            seats: gives the choices that an expert takes at most of so many tokens of a rank in this pass; None: no
                limit.
        """
        self.slots, self.group = slots, group
        self.most_choices, self.seats = most_choices, seats
        self._rule, self._layer = rule, layer
        self._columns_P: Tensor | None = None
        self._slots_E: Tensor | None = None
        self.served: Tensor | None = None

    def place(self, slots: Slots) -> None:
        """Replaces the slots."""
        self.slots, self.served = slots, None
        self._columns_P = self._slots_E = None

    def columns(self, device: torch.device) -> Tensor:
        """Logical expert of each slot, int64 [P]."""
        if self._columns_P is None or self._columns_P.device != device:
            self._columns_P = torch.as_tensor(self.slots.experts.reshape(-1), device=device)
        return self._columns_P

    def slot_of_experts(self, device: torch.device) -> Tensor:
        """Slot of each logical expert where none has replicas, int64 [E]."""
        if self._slots_E is None or self._slots_E.device != device:
            self._slots_E = torch.as_tensor(self.slots.experts.reshape(-1).argsort(), device=device)
        return self._slots_E

    def own(self, map_TE: Tensor) -> Tensor:
        """Chooses a slot for every choice of this rank's tokens.

        With replicas the counts of this rank go to the host; if the rule is least_loaded, those of all ranks do, after
        an all-gather.

        Args:
            map_TE: whether a token chose an expert, bool.

        Returns:
            Whether a slot serves a token, bool [T, P].
        """
        if self.slots.has_replicas and self._rule == "least_loaded":
            return self.agreed(map_TE)[0]
        map_TP = self._of_slots(map_TE)
        if self.slots.has_replicas:
            counts_1E = map_TE.sum(dim=0, keepdim=True).cpu().numpy()
            own = even_quotas(counts_1E, self.slots.holders, self._layer, first_source=self.group.rank())
            deal(map_TP, own[0], self.slots)
            self.served = map_TP
        return map_TP

    def agreed(self, map_TE: Tensor) -> tuple[Tensor, Counts]:
        """Chooses a slot for every choice, and tells what all ranks send: one all-gather, for which the host waits.

        Args:
            map_TE: whether a token chose an expert, bool.

        Returns:
            Whether a slot serves a token, bool [T, P], and the choices of each rank by slot.
        """
        map_TP = self._of_slots(map_TE)
        if not self.slots.has_replicas:
            counts_NP = gather_counts(map_TP.sum(dim=0, dtype=torch.long), self.group)
            return map_TP, Counts(counts_NP, counts_NP.cpu())
        counts_NE = gather_counts(map_TE.sum(dim=0, dtype=torch.long), self.group).cpu().numpy()
        quotas_NEG = self._quotas(counts_NE)
        deal(map_TP, quotas_NEG[self.group.rank()], self.slots)
        self.served = map_TP
        counts_NP = torch.from_numpy(self.slots.of_quotas(quotas_NEG))
        return map_TP, Counts(counts_NP.to(map_TE.device), counts_NP)

    def _of_slots(self, map_TE: Tensor) -> Tensor:
        """Columns of slots in place of those of experts, in the memory column by column."""
        return map_TE.T.index_select(0, self.columns(map_TE.device)).T

    def _quotas(self, counts_NE: NDArray[np.int64]) -> NDArray[np.int64]:
        quotas = least_loaded_quotas if self._rule == "least_loaded" else even_quotas
        return quotas(counts_NE, self.slots.holders, self._layer)
