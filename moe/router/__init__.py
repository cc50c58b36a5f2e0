"""Which experts a token visits. A router is a Megatron-Core ``TopKRouter`` that also trains on a CPU."""

from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.transformer_config import TransformerConfig

from moe.config import MoEConfig
from moe.router.protocol import Router
from moe.router.top_k import PortableTopKRouter


def build(moe: MoEConfig, *, config: TransformerConfig, pg_collection: ProcessGroupCollection | None = None) -> Router:
    """Builds the router that a configuration names.

    Args:
        moe: the mixture of experts.
        config: the same in Megatron's words.
        pg_collection: process groups.

    Returns:
        The router.
    """
    return PortableTopKRouter(config, pg_collection)


__all__ = ["PortableTopKRouter", "Router", "build"]
