"""The exact engine for open loops: what leaves the hosts does not depend on the fabric, and no link feeds itself."""

from pathlib import Path

from netsim.engine.compiled.cache import forget_if_outdated

forget_if_outdated(Path(__file__).parent)
