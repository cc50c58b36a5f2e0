"""Whether the parts of a run's flow go together."""

from collections.abc import Sequence

from trainer.config.run import ImageSample, PointSample, RunConfig
from trainer.flow import path, sampler
from trainer.flow.composition import ADVICE, Composition, Rule, complaint, warning


def check_composition(config: RunConfig) -> None:
    """Refuses parts of a flow that do not go together.

    Args:
        config: the run.

    Raises:
        ValueError: names a part, those that it does not go with, why, and the partners of each.
    """
    composition = composition_of(config)
    if composition is None:
        return
    if isinstance(composition.path, path.TabulatedConfig):
        path.build(composition.path)  # the file may have changed since the run began
    message = complaint(composition)
    if message is not None:
        raise ValueError(message)


def caution(config: RunConfig, advice: Sequence[Rule] = ADVICE) -> str | None:
    """Parts that go together but work badly, in one line with all partners; None: there are none.

    Args:
        config: a run whose parts go together.
        advice: the rules to check.
    """
    composition = composition_of(config)
    return None if composition is None else warning(composition, advice)


def composition_of(config: RunConfig, chosen: sampler.AnyConfig | None = None) -> Composition | None:
    """The parts of a run's flow; None: the run has no flow.

    Args:
        config: the run.
        chosen: a sampler in place of the run's own; None: its own.
    """
    if config.flow is None:
        return None
    assert isinstance(config.sample, ImageSample | PointSample)
    flow, sample = config.flow, config.sample
    drawn_by = sample.sampler if chosen is None else chosen
    return Composition(flow.coupling, flow.path, flow.target, flow.objective, drawn_by, sample.controls)
