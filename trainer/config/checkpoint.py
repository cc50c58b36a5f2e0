"""When a run is saved."""

from pydantic import PositiveInt

from netsim.foundation.settings import Section


class CheckpointConfig(Section):
    """When the run is saved."""

    every: PositiveInt = 100
    """Steps between two checkpoints; the last step is always saved."""
    keep: PositiveInt = 2
    """Complete checkpoints that are kept, the newest ones."""
    asynchronous: bool = False
    """Copy the state to the host and train on while it is written; the results are the same."""
