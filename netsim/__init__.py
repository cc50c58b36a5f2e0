"""Predicts what a network does with the traffic of distributed training."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from netsim.simulation.compare import simulate
    from netsim.simulation.results import Results

__all__ = ["Results", "simulate"]


def __getattr__(name: str) -> Any:
    """Imports `simulate` or `Results` at first use, so that the command line starts without loading all of netsim."""
    if name == "simulate":
        from netsim.simulation.compare import simulate

        return simulate
    if name == "Results":
        from netsim.simulation.results import Results

        return Results
    raise AttributeError(f"module {__name__} has no attribute {name}")
