"""Where examples come from and who sees which: data sets, their configuration, `build` and the loader."""

from typing import Annotated

from netsim.foundation.own_class import KindOrClass
from trainer.data.builtin import (
    Digits,
    DigitsConfig,
    Numbers,
    NumbersConfig,
    PythonSource,
    PythonSourceConfig,
    Toy,
    ToyConfig,
)
from trainer.data.companions import Captioned, CaptionsConfig, Sourced, in_shuffled_epochs, source_points
from trainer.data.image_folder import ImageFolder, ImageFolderConfig
from trainer.data.kinds import AnyOneConfig, OwnDataset
from trainer.data.loader import Loader, accumulation_steps
from trainer.data.mixture import Mixture, MixtureConfig, MixtureFile
from trainer.data.pairs import PairsConfig, PairsOfPoints
from trainer.data.protocol import SPLITS, BadExamples, Batch, Dataset, Split, TooManyBadExamples, first_data_points
from trainer.data.shard.index import PairIndex, ShardIndex
from trainer.data.shard.writer import write_shards
from trainer.data.shards import Shards, ShardsConfig
from trainer.data.text_windows import Text, TextConfig
from trainer.data.webdataset import WebDataset, WebDatasetConfig

AnyConfig = AnyOneConfig | MixtureConfig | NumbersConfig
Config = Annotated[AnyConfig, KindOrClass()]


def build(config: AnyConfig, source: AnyConfig | None = None, captions: CaptionsConfig | None = None) -> Dataset:
    """Opens a section's data set, with source points and captions where given; ValueError if this machine cannot."""
    if captions is not None:
        return Captioned(build(config, source), captions)
    if source is not None:
        return Sourced(build(config), build(source))
    return config.open()


def parts_of(config: AnyConfig) -> tuple[AnyConfig, ...]:
    """The sections of the data sets that examples are from: the sources of a mixture, or the section itself."""
    return config.parts if isinstance(config, MixtureConfig) else (config,)


__all__ = [
    "SPLITS",
    "AnyConfig",
    "AnyOneConfig",
    "BadExamples",
    "Batch",
    "Captioned",
    "CaptionsConfig",
    "Config",
    "Dataset",
    "Digits",
    "DigitsConfig",
    "ImageFolder",
    "ImageFolderConfig",
    "Loader",
    "Mixture",
    "MixtureConfig",
    "MixtureFile",
    "Numbers",
    "NumbersConfig",
    "OwnDataset",
    "PairIndex",
    "PairsConfig",
    "PairsOfPoints",
    "PythonSource",
    "PythonSourceConfig",
    "ShardIndex",
    "Shards",
    "ShardsConfig",
    "Sourced",
    "Split",
    "Text",
    "TextConfig",
    "TooManyBadExamples",
    "Toy",
    "ToyConfig",
    "WebDataset",
    "WebDatasetConfig",
    "accumulation_steps",
    "build",
    "first_data_points",
    "in_shuffled_epochs",
    "parts_of",
    "source_points",
    "write_shards",
]
