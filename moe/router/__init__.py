"""Routers choose the experts of each token. A router is a Megatron-Core ``TopKRouter`` that also trains on a CPU."""

import moe.with_torch

# isort: split

from typing import Any

from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.transformer_config import TransformerConfig

from moe.config import (
    BaseAssignmentRouterConfig,
    ExpertChoiceRouterConfig,
    MoEConfig,
    SinkhornRouterConfig,
    SparseOTRouterConfig,
    TopKRouterConfig,
)
from moe.router.balanced import BaseAssignmentRouter, ExpertChoiceRouter, SinkhornRouter
from moe.router.portable import PortableRouter
from moe.router.protocol import Router
from moe.router.sparse_ot import SparseOTRouter
from moe.router.top_k import PortableTopKRouter
from netsim.foundation.settings import Section

ROUTERS: dict[type[Section], type[PortableRouter[Any]]] = {
    TopKRouterConfig: PortableTopKRouter,
    SinkhornRouterConfig: SinkhornRouter,
    BaseAssignmentRouterConfig: BaseAssignmentRouter,
    ExpertChoiceRouterConfig: ExpertChoiceRouter,
    SparseOTRouterConfig: SparseOTRouter,
}
"""Routers by their settings."""


def build(
    moe: MoEConfig,
    *,
    config: TransformerConfig,
    pg_collection: ProcessGroupCollection | None = None,
    is_mtp_layer: bool = False,  # noqa: ARG001
) -> PortableRouter[Any]:
    """Builds the router of the mixture of experts; Megatron-Core's layer calls this.

    Args:
        moe: the mixture of experts.
        config: the same as Megatron's configuration.
        pg_collection: process groups (tp, cp, tp_cp, tp_dp_cp are used).
        is_mtp_layer: whether the layer predicts a later token, which none does; passed from Megatron-Core 0.17 on.
    """
    return ROUTERS[type(moe.router)](moe.router, config, pg_collection)


__all__ = ["ROUTERS", "PortableRouter", "Router", "build"]
