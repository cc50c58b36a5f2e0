"""What is done about harmful steps, hanging ranks and slow ranks."""

from pydantic import Field, PositiveFloat, PositiveInt

from netsim.foundation.settings import Section


class GuardConfig(Section):
    """What is done about steps that would harm the run, about ranks that hang and about ranks that are slow."""

    abort_after: PositiveInt = 10
    """Steps skipped in a row after which the run fails."""
    spike_factor: float | None = Field(default=None, gt=1)
    """A step is skipped whose loss or gradient norm is more than this many times the median of the steps before it;
    null: none is. What a spike is differs from task to task, and skipping what only looks like one slows learning."""
    spike_window: PositiveInt = 50
    """Steps that the median is taken of; nothing is a spike before that many were taken."""
    hang_timeout_s: PositiveFloat | None = 1800.0
    """Seconds without the end of a step, its evaluation, samples and checkpoint included, after which a rank dumps what
    it does and ends; null: it waits for ever."""
    collective_timeout_s: PositiveFloat = 600.0
    """Seconds after which a collective, and joining the run, fails; a line and a dump then name the rank that did not
    come."""
    straggler_factor: float | None = Field(default=2.0, gt=1)
    """A line names the slowest rank where its own work takes more than this many times the mean; null: none does."""
