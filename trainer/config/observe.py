"""Where the figures of a run go."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from netsim.foundation.settings import Section


class ProfileConfig(Section):
    """Steps whose every operation is timed, on every rank, for Perfetto or chrome://tracing."""

    steps: tuple[PositiveInt, PositiveInt]
    """First and last optimiser step of the window. The first two steps of a run are not representative."""
    shapes: bool = False
    """Note the shapes of tensors."""
    memory: bool = False
    """Note allocations."""

    @model_validator(mode="after")
    def _window_is_in_order(self) -> "ProfileConfig":
        first, last = self.steps
        if last < first:
            raise ValueError(f"steps: [{first}, {last}] ends before it begins; give the first step, then the last")
        return self


class WandbConfig(Section):
    """A run in Weights & Biases; needs the extra `flowfabric[wandb]`."""

    project: str = Field(min_length=1)
    """Name of the project."""
    entity: str | None = None
    """User or team; null: the account's own."""
    name: str | None = None
    """Name of the run; null: that of its folder."""
    mode: Literal["online", "offline"] = "online"
    """offline: files in run.dir/wandb alone, for `wandb sync` later."""


class ObserveConfig(Section):
    """Where figures go besides metrics.jsonl."""

    log_every: PositiveInt = 10
    """Steps between two records."""
    tensorboard: bool = True
    """Also write the figures for TensorBoard, to tensorboard/ in the run folder."""
    port: int | None = Field(default=None, ge=0, le=65535)
    """Port of the Prometheus page, 0 for any free one; null: none."""
    host: str = "127.0.0.1"
    """Address that the page is bound to; 0.0.0.0 shows it to every network that this machine is in."""
    peak_flops: PositiveFloat | None = None
    """Floating-point operations that one device can do in a second, in the run's precision; null: no MFU."""
    profile: ProfileConfig | None = None
    """Steps to profile, written to profile/; null: none."""
    wandb: WandbConfig | None = None
    """Figures in Weights & Biases too; null: no."""
