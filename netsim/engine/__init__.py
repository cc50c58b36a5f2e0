"""Engines: from tasks on a fabric to times."""

from netsim.engine.protocol import FlowRecord, LinkRecord, Outcome, Scene

__all__ = ["FlowRecord", "LinkRecord", "Outcome", "Scene"]
