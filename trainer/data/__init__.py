"""Where examples come from and who sees which: data sets, their configuration, `build` and the loader."""

from typing import Annotated

from pydantic import Field

from trainer.data.digits import Digits, DigitsConfig
from trainer.data.loader import Loader, accumulation_steps
from trainer.data.protocol import Batch, Dataset, Split
from trainer.data.python_source import PythonSource, PythonSourceConfig

Config = Annotated[DigitsConfig | PythonSourceConfig, Field(discriminator="kind")]


def build(config: DigitsConfig | PythonSourceConfig) -> Dataset:
    """Loads the data set that `config.kind` names.

    Raises:
        ValueError: this machine does not have it, or too little of it.
    """
    match config:
        case DigitsConfig():
            return Digits(config.held_out, config.size)
        case PythonSourceConfig():
            return PythonSource(config.context, config.held_out, config.max_bytes)


__all__ = [
    "Batch",
    "Config",
    "Dataset",
    "Digits",
    "DigitsConfig",
    "Loader",
    "PythonSource",
    "PythonSourceConfig",
    "Split",
    "accumulation_steps",
    "build",
]
