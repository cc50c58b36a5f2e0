"""Settings of the networks that a run can train: the list of them, and how a class of a user is read. Free of torch.

A network of a user is ``model: {class: "my_module:Mine", ...its settings}``. The class is a torch module with `blocks`
and a classmethod ``build(spec: NetworkSpec) -> Mine``. Its attribute `Config` extends :class:`NetworkConfig` and needs
no torch: a run is checked, laid out and priced before a network is built.
"""

from functools import lru_cache
from typing import Any

from pydantic import SerializerFunctionWrapHandler, ValidationError, ValidatorFunctionWrapHandler, model_serializer

from netsim.foundation.complaint import first_complaint
from netsim.foundation.contract import check_allowed, imported_class
from netsim.foundation.settings import kind_of, sections_in
from trainer.config.model import dit, gpt, mlp, transition
from trainer.config.model.dit import BlockwiseConfig, BlockwiseMLPConfig, DiTConfig, SegmentNetworkConfig
from trainer.config.model.gpt import GPTConfig
from trainer.config.model.mlp import AutoencoderConfig, MLPConfig, PolicyMLPConfig
from trainer.config.model.protocol import REQUIRED, NetworkConfig
from trainer.config.model.transition import CausalTransitionConfig, TransitionDiTConfig, TransitionMLPConfig


def custom_settings(document: dict[str, Any]) -> NetworkConfig:
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
        return _settings_class(path)
    except ValueError as error:
        raise ValueError(f"class: {error}") from error


@lru_cache
def _settings_class(path: str) -> type[NetworkConfig]:
    network = imported_class(path)
    settings = getattr(network, "Config", None)
    if not isinstance(settings, type) or not issubclass(settings, NetworkConfig):
        remedy = "give it an attribute Config that extends trainer.config.model.NetworkConfig"
        raise ValueError(f"{path} has no settings of a network; {remedy}")
    if not callable(getattr(network, "build", None)):
        remedy = "write it as a classmethod that takes a trainer.model.network.NetworkSpec"
        raise ValueError(f"{path} lacks build; {remedy}")

    class CustomNetworkConfig(settings):
        @property
        def kind(self) -> str:
            """The class, where a built-in network has the name of its kind."""
            return path

        @model_serializer(mode="wrap")
        def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
            return {"class": path, **write(self)}

    CustomNetworkConfig.network = network.build  # pyright: ignore[reportAttributeAccessIssue]  callable() does not narrow
    return CustomNetworkConfig


AnyNetworkConfig = dit.Config | gpt.Config | mlp.Config | transition.Config
"""The built-in networks, told apart by their kind: of each file the union `Config`."""


def network_settings(written: Any) -> type[NetworkConfig]:
    """The class that a section ``model`` is read as; without a kind, or with an unknown one, that of a dit."""
    if isinstance(written, NetworkConfig):
        return type(written)
    if isinstance(written, dict) and "class" in written:
        try:
            return settings_class(written["class"])
        except ValueError:  # the validation of the section says what is wrong
            return DiTConfig
    kind = written.get("kind") if isinstance(written, dict) else None
    listed = (one for one in sections_in(AnyNetworkConfig) if issubclass(one, NetworkConfig))
    return next((one for one in listed if kind_of(one) == kind), DiTConfig)


def listed_or_custom(value: Any, read: ValidatorFunctionWrapHandler) -> NetworkConfig:
    """Reads a section ``model`` as one of the list; settings of a class that is not in it pass as they are."""
    if isinstance(value, dict) and "class" in value:
        value = custom_settings(value)
    if not isinstance(value, NetworkConfig) or isinstance(value, AnyNetworkConfig):
        return read(value)
    required = REQUIRED if value.flowless else (*REQUIRED, "label_dropout")
    lacking = [name for name in required if not hasattr(value, name)]
    if value.network is None:
        lacking.append("network")
    if lacking:
        raise ValueError(
            f"{type(value).__name__}: settings of a network lack {', '.join(lacking)}; "
            "see trainer.config.model.protocol.NetworkConfig"
        )
    return value


__all__ = [
    "AnyNetworkConfig",
    "AutoencoderConfig",
    "BlockwiseConfig",
    "BlockwiseMLPConfig",
    "CausalTransitionConfig",
    "DiTConfig",
    "GPTConfig",
    "MLPConfig",
    "NetworkConfig",
    "PolicyMLPConfig",
    "SegmentNetworkConfig",
    "TransitionDiTConfig",
    "TransitionMLPConfig",
    "listed_or_custom",
    "network_settings",
]
