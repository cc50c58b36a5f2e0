"""Which experts a token visits. A router is a Megatron-Core router: ``forward`` gives (probs, routing map)."""

from moe.router.top_k import PortableTopKRouter

__all__ = ["PortableTopKRouter"]
