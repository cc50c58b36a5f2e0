"""Settings of a network that is a class of a user's: ``model: {class: "my_module:Mine", ...its settings}``.

The class is a torch module with `blocks` and a classmethod ``build(spec: NetworkSpec) -> Mine``. Its attribute `Config`
extends :class:`NetworkConfig` and needs no torch: a run is checked, laid out and priced before a network is built.
"""

from functools import lru_cache
from typing import Any

from pydantic import SerializerFunctionWrapHandler, ValidationError, model_serializer

from netsim.foundation.complaint import first_complaint
from netsim.foundation.contract import check_allowed, imported_class
from trainer.config.network.protocol import NetworkConfig


def own_settings(document: dict[str, Any]) -> NetworkConfig:
    """Reads a section ``model`` whose ``class`` is ``module:Class``; all else are the settings of that class."""
    path = document["class"]
    if "kind" in document:
        raise ValueError(f"class: {path} is given beside kind {document['kind']}; remove one of the two")
    settings, model = {str(key): value for key, value in document.items() if key != "class"}, settings_class(path)
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        complaint = first_complaint(error, settings, model)
        at_all = complaint.field == "document"
        head = f"class: {path} refuses its settings, " if at_all else f"{complaint.field}: "
        raise ValueError(f"{head}{complaint.reason}") from error


def settings_class(path: Any) -> type[NetworkConfig]:
    """The class of the settings of the network at ``module:Class``."""
    if not isinstance(path, str):
        raise ValueError(f"class: {path!r} does not name a class; write module:Class")
    try:
        check_allowed(path)  # also where an earlier configuration has brought the class in
    except ValueError as error:
        raise ValueError(f"class: {error}") from error
    return _settings_class(path)


@lru_cache
def _settings_class(path: str) -> type[NetworkConfig]:
    try:
        network = imported_class(path)
    except ValueError as error:
        raise ValueError(f"class: {error}") from error
    settings = getattr(network, "Config", None)
    if not isinstance(settings, type) or not issubclass(settings, NetworkConfig):
        remedy = "give it an attribute Config that extends trainer.config.model.NetworkConfig"
        raise ValueError(f"class: {path} has no settings of a network; {remedy}")
    if not callable(getattr(network, "build", None)):
        remedy = "write it as a classmethod that takes a trainer.model.network.NetworkSpec"
        raise ValueError(f"class: {path} lacks build; {remedy}")

    class OwnNetworkConfig(settings):
        """Settings that are written out with the class that they are of."""

        @property
        def kind(self) -> str:
            """The class, where a built-in network has the name of its kind."""
            return path

        @model_serializer(mode="wrap")
        def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
            return {"class": path, **write(self)}

    OwnNetworkConfig.network = network.build  # pyright: ignore[reportAttributeAccessIssue]  callable() does not narrow
    return OwnNetworkConfig
