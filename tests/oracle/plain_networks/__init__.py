"""Networks of the trainer in plain PyTorch, written a second time: oracles of what its own networks compute.

They take their sizes from a dictionary and their weights by the names of the trainer's parameters.
"""

from typing import Any

from torch import Tensor, nn

from moe.config import MoEConfig, SparseOTRouterConfig, TopKRouterConfig
from tests.oracle.plain_networks import autoencoder, dit, flow, gpt, mixture, mlp
from trainer.config.model import AutoencoderConfig, DiTConfig, GPTConfig, MLPConfig
from trainer.config.model.mlp import INPUT_WAVES
from trainer.config.run import RunConfig
from trainer.flow import target


def plain_network(config: RunConfig, weights: dict[str, Tensor]) -> nn.Module:
    """The plain network of a run with weights, those of the routers' buffers included, in evaluation mode."""
    settings = settings_of(config) | ({} if config.moe is None else _mixture_settings(config.moe))
    match config.model:
        case AutoencoderConfig():
            network: nn.Module = autoencoder.Autoencoder(settings)
        case GPTConfig():
            network = gpt.GPT(settings, gpt.FeedForward if config.moe is None else mixture.Mixture)
        case DiTConfig():
            network = dit.DiT(settings, flow.FeedForward if config.moe is None else mixture.Mixture)
        case _:
            network = mlp.MLP(settings, flow.FeedForward if config.moe is None else mixture.Mixture)
    names = network.state_dict().keys()
    network.load_state_dict({name: tensor for name, tensor in weights.items() if name in names})
    return network.eval()


def settings_of(config: RunConfig) -> dict[str, Any]:
    match config.model:
        case GPTConfig() as model:
            return _gpt_settings(model)
        case AutoencoderConfig() as model:
            names = ("hidden", "num_layers", "latent_channels", "factor")
            return {"shape": tuple(config.state_shape), **{name: getattr(model, name) for name in names}}
        case DiTConfig() as model:
            return _flow_settings(config) | {
                "patch_size": model.patch_size,
                "hidden": model.hidden,
                "num_layers": model.num_layers,
                "num_heads": model.num_heads,
                "inner": model.inner,
                "feed_forward": model.feed_forward,
                "feed_forward_norm_epsilon": model.feed_forward_norm_epsilon,
            }
        case MLPConfig() as model:
            return _flow_settings(config) | {
                "hidden": model.hidden,
                "num_layers": model.num_layers,
                "inner": model.inner,
                "feed_forward": "gelu",
                "input_waves": INPUT_WAVES,
            }
        case _:
            raise AssertionError(config.model.kind)


def _gpt_settings(model: GPTConfig) -> dict[str, Any]:
    return {
        "hidden": model.hidden,
        "num_layers": model.num_layers,
        "num_heads": model.num_heads,
        "num_kv_heads": model.key_value_heads,
        "inner": model.inner,
        "vocabulary": model.vocabulary,
        "norm": model.norm,
        "norm_epsilon": model.norm_epsilon,
        "feed_forward": model.feed_forward,
        "bias": model.bias,
        "parallel_residual": model.parallel_residual,
        "rotary_base": model.rotary_base,
        "rotary_width": model.rotary_width,
        "tied": model.tied,
    }


def _flow_settings(config: RunConfig) -> dict[str, Any]:
    assert config.flow is not None
    return {
        "shape": tuple(config.state_shape),
        "num_classes": config.num_labels,
        "num_fields": target.num_fields(config.flow.target),
    }


def _mixture_settings(moe: MoEConfig) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "num_experts": moe.num_experts,
        "top_k": moe.top_k,
        "expert_hidden": moe.expert_hidden,
        "shared_expert_hidden": moe.shared_expert_hidden,
        "router": moe.router.kind,
        "biased": False,
    }
    match moe.router:
        case TopKRouterConfig(score=score, normalise_over=normalise_over, bias_rate=bias_rate):
            settings |= {"score": score, "normalise_over": normalise_over, "biased": bias_rate > 0}
        case SparseOTRouterConfig(gamma=gamma):
            settings |= {"gamma": gamma, "most_choices": moe.most_choices}
    return settings
