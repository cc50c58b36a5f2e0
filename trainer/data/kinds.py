"""Every kind of data set that is one set and no mixture of several."""

from typing import Annotated

from netsim.foundation.own_class import KindOrClass
from trainer.data.digits import DigitsConfig
from trainer.data.image_folder import ImageFolderConfig
from trainer.data.own import OwnDataset
from trainer.data.pairs import PairsConfig
from trainer.data.python_source import PythonSourceConfig
from trainer.data.shards import ShardsConfig
from trainer.data.text_windows import TextConfig
from trainer.data.toy import ToyConfig
from trainer.data.webdataset import WebDatasetConfig

AnyOneConfig = (
    DigitsConfig
    | ImageFolderConfig
    | PairsConfig
    | PythonSourceConfig
    | ShardsConfig
    | TextConfig
    | ToyConfig
    | WebDatasetConfig
    | OwnDataset
)
OneConfig = Annotated[AnyOneConfig, KindOrClass()]
