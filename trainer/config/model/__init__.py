"""Settings of the networks that a run can train: the list of them, and how a class of a user is read. Free of torch.

A network of a user is ``model: {class: "my_module:Mine", ...its settings}``. The class is a torch module with `blocks`
and a classmethod ``build(spec: NetworkSpec) -> Mine``. Its attribute `Config` extends :class:`NetworkConfig` and needs
no torch: a run is checked, laid out and priced before a network is built.
"""

from functools import lru_cache
from typing import Any

from pydantic import SerializerFunctionWrapHandler, ValidatorFunctionWrapHandler, model_serializer

from netsim.foundation.contract import check_allowed, imported_class
from netsim.foundation.own_class import class_and_settings, read_settings
from netsim.foundation.refusal import prefixed
from netsim.foundation.settings import by_kind
from trainer.config.model import dit, encoded, equivariant, gpt, mlp, representation, transition
from trainer.config.model.dit import BlockwiseConfig, BlockwiseMLPConfig, DiTConfig, SegmentNetworkConfig
from trainer.config.model.encoded import EncodedDiTConfig, EncodedMLPConfig
from trainer.config.model.equivariant import EquivariantConfig
from trainer.config.model.gpt import GPTConfig
from trainer.config.model.mlp import AutoencoderConfig, MLPConfig, PolicyMLPConfig
from trainer.config.model.protocol import REQUIRED, NetworkConfig
from trainer.config.model.representation import PrototypesConfig
from trainer.config.model.transition import CausalTransitionConfig


def custom_settings(document: dict[str, Any]) -> NetworkConfig:
    """Reads a section ``model`` whose ``class`` is ``module:Class``; all else are the settings of that class."""
    path, settings = class_and_settings(document)
    return read_settings(settings_class(path), path, settings)


def settings_class(path: str) -> type[NetworkConfig]:
    """The class of the settings of the network at ``module:Class``."""
    with prefixed("class: "):
        check_allowed(path)  # also where an earlier configuration has brought the class in
        return _settings_class(path)


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
            """Returns the path of the class, in place of the kind of a built-in network."""
            return path

        @model_serializer(mode="wrap")
        def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
            return {"class": path, **write(self)}

    CustomNetworkConfig.network = network.build  # pyright: ignore[reportAttributeAccessIssue]  callable() does not narrow
    return CustomNetworkConfig


AnyNetworkConfig = (
    dit.Config
    | gpt.Config
    | mlp.Config
    | transition.Config
    | encoded.Config
    | equivariant.Config
    | representation.Config
)
"""The built-in networks, told apart by their kind: of each file the union `Config`."""
BY_KIND: dict[str, type[NetworkConfig]] = by_kind(AnyNetworkConfig)


def network_settings(written: Any) -> type[NetworkConfig]:
    """The class that a section ``model`` is read as; without a kind, or with an unknown one, that of a dit."""
    if isinstance(written, NetworkConfig):
        return type(written)
    if isinstance(written, dict) and "class" in written:
        path = written["class"]
        try:
            return settings_class(path) if isinstance(path, str) else DiTConfig
        except ValueError:  # the validation of the section says what is wrong
            return DiTConfig
    kind = written.get("kind") if isinstance(written, dict) else None
    return BY_KIND.get(str(kind), DiTConfig)


def listed_or_custom(value: Any, read: ValidatorFunctionWrapHandler) -> NetworkConfig:
    """Reads a section ``model`` as a built-in network; settings of a user's class pass unchanged once checked."""
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


__all__ = ["NetworkConfig"]
"""What a class of a user's is written with; the package itself imports the kinds, too."""
