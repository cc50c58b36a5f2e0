"""Controls of samples, as a section ``sample`` lists them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

import trainer.flow.control
from trainer.flow.control import AnyConfig, OwnControl, needs_picture

if TYPE_CHECKING:
    from trainer.config.run import RunConfig


def _of_samples(listed: tuple[AnyConfig, ...]) -> tuple[AnyConfig, ...]:
    """Refuses controls that only pictures give a meaning."""
    for number, config in enumerate(listed):
        if needs_picture(config):
            key = "class" if isinstance(config, OwnControl) else "kind"
            raise ValueError(
                f"{number}.{key}: {config.kind} leads to a picture, and samples begin at noise alone; remove it, or use "
                "the edit verb, which has pictures"
            )
    return listed


Controls = Annotated[
    tuple[trainer.flow.control.Config, ...], AfterValidator(_of_samples), Field(exclude_if=lambda listed: not listed)
]
"""Changes of the field that samples follow; an empty list is not written, so that it changes no digest of a run."""


def with_controls(config: RunConfig, controls: Sequence[AnyConfig]) -> RunConfig:
    """A run whose samples are drawn under other controls than its own.

    Args:
        config: a run that follows a flow.
        controls: the first one changes the field first; empty: none.
    """
    sample = config.sample.model_copy(update={"controls": tuple(controls)})
    return config.model_copy(update={"sample": sample})
