"""Parts shared by the engines that are compiled with numba: draws, and the fabric as arrays."""

from pathlib import Path

from netsim.engine.compiled.cache import forget_if_outdated

forget_if_outdated(Path(__file__).parent)
