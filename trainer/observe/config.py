"""Where the figures of a run go."""

from pydantic import Field, PositiveInt

from trainer.section import Section


class ObserveConfig(Section):
    """Where figures go besides metrics.jsonl."""

    log_every: PositiveInt = 10
    """Steps between two records."""
    tensorboard: bool = True
    port: int | None = Field(default=None, ge=0, le=65535)
    """Port of the Prometheus page, 0 for any free one; null: none."""
    host: str = "127.0.0.1"
    """Address that the page is bound to."""
