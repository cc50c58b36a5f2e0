"""Fabrics: links, and the paths between hosts."""

from netsim.topology.protocol import Link, Path, Topology

__all__ = ["Link", "Path", "Topology"]
