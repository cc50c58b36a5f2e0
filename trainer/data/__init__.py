"""Where examples come from and who sees which: data sets, their configuration, `build` and the loader."""

from trainer.data.digits import Digits, DigitsConfig
from trainer.data.loader import Loader, accumulation_steps
from trainer.data.protocol import Batch, Dataset, Split

Config = DigitsConfig


def build(config: Config) -> Dataset:
    """Loads the data set that `config.kind` names."""
    match config:
        case DigitsConfig():
            return Digits(config.held_out, config.size)


__all__ = ["Batch", "Config", "Dataset", "Digits", "DigitsConfig", "Loader", "Split", "accumulation_steps", "build"]
