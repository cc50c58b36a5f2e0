"""Every kind of data set that is one set and no mixture of several, classes of a user's included."""

from typing import Annotated, Any, ClassVar

from pydantic import TypeAdapter, ValidationError, model_validator

from netsim.foundation.own_class import KindOrClass, OwnClass, build_own
from trainer.data.builtin import DigitsConfig, PythonSourceConfig, ToyConfig
from trainer.data.idx import IdxConfig
from trainer.data.image_folder import ImageFolderConfig
from trainer.data.moving_pictures import MovingPicturesConfig
from trainer.data.pairs import PairsConfig
from trainer.data.protocol import Dataset
from trainer.data.reactions import ReactionsConfig
from trainer.data.sequences import SequencesConfig
from trainer.data.shards import ShardsConfig
from trainer.data.surfaces import SurfacesConfig
from trainer.data.text_windows import TextConfig
from trainer.data.webdataset import WebDatasetConfig

_SHAPE = TypeAdapter(tuple[int, ...])


class OwnDataset(OwnClass, frozen=True):
    """A class that keeps `trainer.data.Dataset`.

    Its settings have a field or a property ``shape`` and one ``num_classes``, since networks are planned, and refused,
    before any data set is opened. A field or a property ``class_names`` is shown where classes are.
    """

    protocol: ClassVar[str] = "trainer.data.Dataset"

    def open(self) -> Dataset:
        return build_own(self)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.setting("shape"))

    @property
    def num_classes(self) -> int:
        return self.setting("num_classes")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes 0, 1, ...; empty where the user's class gives none."""
        return tuple(self.setting("class_names", ()))

    @property
    def alphabet(self) -> str:
        """Letters of one-hot sequences [V, 1, L]; empty where the user's class gives none."""
        return self.setting("alphabet", "")

    @property
    def frame_channels(self) -> int:
        """Channels of one frame of a clip, whose frames are stacked as channels; 0 where the user's class has none."""
        return self.setting("frame_channels", 0)

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers of the atoms of reactions; empty where the user's class gives none."""
        return tuple(self.setting("species", ()))

    @property
    def context_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of the context beside each example; None where the user's class gives none."""
        shape = self.setting("context_shape", None)
        return None if shape is None else tuple(shape)

    @model_validator(mode="after")
    def _states_shape_and_classes(self) -> "OwnDataset":
        remedy = "give its Config a field or a property of that name"
        settings = f"class: the settings of {self.class_path} have as"
        shape = self.setting("shape")
        if not _is_shape(shape):
            raise ValueError(f"{settings} shape {shape}, not a shape such as (2,); {remedy}")
        num = self.setting("num_classes")
        if not isinstance(num, int) or num < 0:
            raise ValueError(f"{settings} num_classes {num}, not a number of classes, 0 without labels; {remedy}")
        names = self.setting("class_names", ())
        listed = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
        if not listed or len(names) not in (0, num):
            problem = f"{settings} class_names {names}, not a name for each of {num} classes"
            raise ValueError(f"{problem}; give so many, or none")
        return self


def _is_shape(value: Any) -> bool:
    try:
        return bool(shape := _SHAPE.validate_python(value)) and min(shape) > 0
    except ValidationError:
        return False


AnyOneConfig = (
    DigitsConfig
    | IdxConfig
    | ImageFolderConfig
    | MovingPicturesConfig
    | PairsConfig
    | PythonSourceConfig
    | ReactionsConfig
    | SequencesConfig
    | ShardsConfig
    | SurfacesConfig
    | TextConfig
    | ToyConfig
    | WebDatasetConfig
    | OwnDataset
)
OneConfig = Annotated[AnyOneConfig, KindOrClass()]
