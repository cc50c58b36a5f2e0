"""The exact engine, for open loops: hosts send independently of the fabric, and links feed each other in no circle."""

from pathlib import Path

from netsim.engine.compiled.cache import forget_if_outdated

forget_if_outdated(Path(__file__).parent)
