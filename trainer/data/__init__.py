"""Where examples come from and who sees which: data sets, their configuration, `build` and the loader."""

from typing import Annotated

from netsim.foundation.own_class import KindOrClass
from trainer.data.builtin import Digits, DigitsConfig, NumbersConfig, ToyConfig
from trainer.data.derived import Captioned, CaptionsConfig, Sourced
from trainer.data.image_folder import ImageFolderConfig
from trainer.data.kinds import AnyOneConfig
from trainer.data.loader import Loader
from trainer.data.mixture import MixtureConfig
from trainer.data.pairs import PairsConfig
from trainer.data.protocol import BadExamples, Batch, Dataset, first_data_points
from trainer.data.shard.index import SPLITS, Split
from trainer.data.shard.writer import Examples, write_shards
from trainer.data.shards import Shards, ShardsConfig
from trainer.data.text_windows import TextConfig
from trainer.data.webdataset import WebDatasetConfig

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


__all__ = ["BadExamples", "Batch", "Dataset", "Examples", "write_shards"]
"""Names that a user's class needs; the package itself also imports the kinds."""
