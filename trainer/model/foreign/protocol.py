"""What a network of another package is to this one: settings and a map of names, in both directions."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from trainer.config.run import RunConfig
from trainer.model.foreign.document import Document
from trainer.model.foreign.entry import Entry
from trainer.model.weight_files import Weights

QUANTISED = "quantization_config"
UNQUANTISED = "give the weights as they were before quantisation (float32, bfloat16 or float16)"


class Foreign(ABC):
    """A kind of network in a folder of another package: ``config.json`` beside safetensors."""

    name: ClassVar[str]
    """What the command line calls it."""
    network: ClassVar[str]
    """The class there."""
    weights: ClassVar[str]
    """File of the weights; where they are in parts, their index is named after it."""
    buffers: ClassVar[tuple[str, ...]] = ()
    """What the names of tensors end with that are computed anew, and not read."""

    @abstractmethod
    def recognises(self, document: Document) -> bool:
        """Whether settings are of this kind of network."""

    @abstractmethod
    def sections(self, document: Document, weights: Weights) -> dict[str, Any]:
        """The sections ``model``, ``data`` and, if need be, ``flow`` of a run with the same network.

        Args:
            document: the settings there.
            weights: opened.

        Raises:
            Refusal: a setting has no counterpart here.
        """

    @abstractmethod
    def document(self, config: RunConfig) -> dict[str, Any]:
        """The settings there of the network of a run.

        Args:
            config: the run.

        Raises:
            ValueError: the network is none of this kind; names field, value and remedy.
        """

    @abstractmethod
    def entries(self, config: RunConfig) -> list[Entry]:
        """Every tensor of the network of a run, and what it is made of there.

        Args:
            config: the run, which :meth:`document` or :meth:`sections` has accepted.
        """


def expect(network: str, **settings: tuple[Any, Any]) -> None:
    """Refuses fields of ``model`` whose (value, wanted value) differ, which `network` there cannot have."""
    for field, (value, wanted) in settings.items():
        if value != wanted:
            shown, use = (str(one).lower() if isinstance(one, bool) else one for one in (value, wanted))
            raise ValueError(
                f"model.{field}: {shown} is nothing that a {network} has; train with model.{field}={use}, or export "
                "without --to"
            )
