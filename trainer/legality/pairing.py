"""Data that are pairs already, and couplings that make or expect them."""

from trainer.config import RunConfig
from trainer.data import PairsConfig
from trainer.flow.coupling import PairedConfig
from trainer.flow.time import StratifiedConfig


def check_pairing(config: RunConfig) -> None:
    """Refuses a coupling that would tear pairs apart, or that waits for pairs in vain.

    Args:
        config: the run.

    Raises:
        ValueError: names field, value and remedy.
    """
    if config.flow is None:
        return
    chosen, kind = config.flow.coupling, config.data.kind
    if isinstance(chosen, PairedConfig) and not isinstance(config.data, PairsConfig):
        raise ValueError(
            f"flow.coupling.kind: paired takes each source point from the data, and {kind} data have none; use "
            "data.kind=pairs with a folder that the pairs verb wrote, or another coupling"
        )
    if isinstance(config.data, PairsConfig) and not isinstance(chosen, PairedConfig):
        raise ValueError(
            f"flow.coupling.kind: {chosen.kind} would tear apart what data.kind pairs has paired; use paired"
        )


def check_times(config: RunConfig, micro_batch: int) -> None:
    """Refuses segments of time of which a micro batch would leave some out.

    Args:
        config: the run.
        micro_batch: its examples.

    Raises:
        ValueError: names field, value and remedy.
    """
    if config.flow is None or not isinstance(config.flow.time, StratifiedConfig):
        return
    segments = config.flow.time.segments
    if micro_batch < segments:
        raise ValueError(
            f"flow.time.segments: {segments} segments exceed the micro batch of {micro_batch}, so that the last are "
            "never trained; use fewer segments, or a larger optim.micro_batch"
        )
