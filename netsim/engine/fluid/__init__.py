"""Flow-level engine: max-min fair rates, compiled."""

from pathlib import Path

from netsim.engine.compiled.cache import forget_if_outdated

forget_if_outdated(Path(__file__).parent)
