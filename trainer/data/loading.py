"""How examples are read while a run goes on."""

from pydantic import Field, NonNegativeInt, PositiveInt

from netsim.foundation.settings import Section


class DataLoadingConfig(Section):
    """Reading ahead, which never changes what a step sees, and what is done about examples that cannot be read."""

    prefetch: NonNegativeInt = 2
    """Micro batches that are read while the network is busy; 0: each is read when it is its turn."""
    workers: PositiveInt = 1
    """Threads that read them."""
    max_bad_share: float = Field(default=0.01, ge=0, lt=1)
    """Share of the training examples that may be bad. Until there are more, each is replaced by the next good one."""
