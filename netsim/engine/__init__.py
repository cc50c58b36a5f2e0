"""Engines: from tasks on a fabric to times."""

from netsim.engine.protocol import Outcome, Scene

__all__ = ["Outcome", "Scene"]
