"""Predicts what a network does with the traffic of distributed training."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from netsim.results import Results
    from netsim.simulate import simulate

__all__ = ["Results", "simulate"]


def __getattr__(name: str) -> Any:
    """Imports the public names when they are first used, so that the commands start at once."""
    if name == "simulate":
        from netsim.simulate import simulate

        return simulate
    if name == "Results":
        from netsim.results import Results

        return Results
    raise AttributeError(f"module 'netsim' has no attribute {name!r}")
