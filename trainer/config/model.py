"""The networks that a run can train: the list of their settings, and what is not in it."""

from typing import Any

from pydantic import ValidatorFunctionWrapHandler

from netsim.foundation.settings import kind_of, sections_in
from trainer.config.network.autoencoder import AutoencoderConfig
from trainer.config.network.blockwise import BlockwiseConfig, BlockwiseMLPConfig, SegmentNetworkConfig
from trainer.config.network.causal_transition import CausalTransitionConfig
from trainer.config.network.dit import DiTConfig
from trainer.config.network.gpt import GPTConfig
from trainer.config.network.mlp import MLPConfig
from trainer.config.network.own import own_settings, settings_class
from trainer.config.network.policy_mlp import PolicyMLPConfig
from trainer.config.network.protocol import REQUIRED, NetworkConfig
from trainer.config.network.transition import TransitionDiTConfig, TransitionMLPConfig

AnyNetworkConfig = (
    DiTConfig
    | GPTConfig
    | MLPConfig
    | AutoencoderConfig
    | BlockwiseConfig
    | BlockwiseMLPConfig
    | CausalTransitionConfig
    | PolicyMLPConfig
    | TransitionDiTConfig
    | TransitionMLPConfig
)
"""The built-in networks, told apart by their kind; :mod:`trainer.model.build` lists their classes."""


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


def listed_or_own(value: Any, read: ValidatorFunctionWrapHandler) -> NetworkConfig:
    """Reads a section ``model`` as one of the list; settings of a class that is not in it pass as they are."""
    if isinstance(value, dict) and "class" in value:
        value = own_settings(value)
    if not isinstance(value, NetworkConfig) or isinstance(value, AnyNetworkConfig):
        return read(value)
    required = REQUIRED if value.flowless else (*REQUIRED, "label_dropout")
    lacking = [name for name in required if not hasattr(value, name)]
    if value.network is None:
        lacking.append("network")
    if lacking:
        raise ValueError(
            f"{type(value).__name__}: settings of a network lack {', '.join(lacking)}; "
            "see trainer.config.network.protocol.NetworkConfig"
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
    "listed_or_own",
    "network_settings",
]
