"""Small runs of each kind of network, with random weights: what oracles and exported programs are compared on."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.fuzz import sound_files
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.model.build import build_model, parameter_shapes

DIT = {"hidden": 32, "num_layers": 2, "num_heads": 2}
GPT = {"kind": "gpt", "hidden": 32, "num_layers": 2, "num_heads": 4, "context": 64}
MLP = {"kind": "mlp", "hidden": 32, "num_layers": 2}
MIXTURE = {"num_experts": 6, "top_k": 2, "expert_hidden": 24}


def experts(shared: int | None = None, top_k: int = 2, **router: Any) -> dict[str, Any]:
    return {**MIXTURE, "top_k": top_k, "shared_expert_hidden": shared, "router": router}


CASES: dict[str, dict[str, Any]] = {
    "dit": {"model": DIT},
    "dit of another activation": {"model": {**DIT, "feed_forward": "gelu_tanh", "feed_forward_norm_epsilon": 1e-4}},
    "dit of data": {"model": DIT, "flow": {"target": {"kind": "data"}, "data_scale": 2.0}},
    "dit of noise": {"model": DIT, "flow": {"target": {"kind": "noise"}}},
    "dit of two fields": {
        "model": DIT,
        "flow": {"path": {"kind": "stochastic_interpolant"}, "target": {"kind": "velocity_and_noise"}},
    },
    "dit of experts": {"model": DIT, "moe": experts(kind="top_k")},
    "dit of experts and a shared one": {
        "model": DIT,
        "moe": experts(40, kind="top_k", normalise_over="selected", aux_loss=0.0),
    },
    "dit, one expert by sigmoid": {"model": DIT, "moe": experts(top_k=1, kind="top_k", score="sigmoid")},
    "dit of biased experts": {"model": DIT, "moe": experts(kind="top_k", score="sigmoid", bias_rate=1e-3)},
    "dit, sinkhorn": {"model": DIT, "moe": experts(kind="sinkhorn")},
    "dit, base": {"model": DIT, "moe": experts(top_k=1, kind="base")},
    "dit, sparse_ot": {"model": DIT, "moe": experts(top_k=1, kind="sparse_ot", candidates=3)},
    "mlp": {"model": MLP, "data": {"name": "eight_gaussians", "classes": True}},
    "mlp without classes": {"model": MLP, "data": {"name": "moons"}},
    "mlp of experts": {"model": MLP, "data": {"name": "moons"}, "moe": experts(kind="top_k")},
    "gpt": {"model": {**GPT, "num_kv_heads": 2}},
    "gpt as Llama": {"model": {**GPT, "num_kv_heads": 2, "feed_forward": "swiglu", "rotary_base": 5e5, "tied": True}},
    "gpt as GPT-NeoX": {
        "model": {**GPT, "norm": "layer", "bias": True, "parallel_residual": True, "rotary_share": 0.25}
    },
    "gpt of experts": {"model": GPT, "moe": experts(kind="top_k")},
    "autoencoder": {"model": {"kind": "autoencoder", "hidden": 16, "num_layers": 4, "factor": 2}, "data": {"size": 16}},
}


def run_with_weights(folder: Path, sections: dict[str, Any]) -> RunConfig:
    """Writes the checkpoint of a run with random weights to `folder`/run; inside joined process groups."""
    document = {"run": {"dir": str(folder / "run")}, "optim": {"steps": 20, "global_batch": 4}, **sections}
    if document["model"].get("kind") == "gpt":
        document["data"] = {"context": document["model"]["context"]}
    config = RunConfig.model_validate(document)
    written = folder / "config.yaml"
    written.write_text(config.to_yaml())
    checkpoint = sound_files.checkpoint(folder / "run", written)
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(shape, generator=generator) / max(1, shape[-1]) ** 0.5 + ("norm.weight" in name)
        for name, shape in parameter_shapes(config).items()
    }
    save_file(weights, checkpoint / "ema.safetensors")
    if config.moe is not None:
        network = build_model(config, plan_layout(config, 1))
        routers = {
            name: torch.rand(value.shape, generator=generator) + 0.5
            for name, value in network.state_dict().items()
            if ".router." in name and not name.endswith("weight") and value.is_floating_point()
        }
        save_file(routers, checkpoint / "routers.safetensors")
    (checkpoint / "COMPLETE").unlink()
    sound_files.seal(checkpoint)
    return config


def arguments(config: RunConfig) -> tuple[torch.Tensor, ...]:
    """Inputs of a network: tokens, images, or states, times in (0, 1) and labels."""
    generator = torch.Generator().manual_seed(1)
    if config.model.kind == "gpt":
        return (torch.randint(256, (3, 40), generator=generator),)
    states = torch.randn(5, *config.state_shape, generator=generator)
    if config.model.kind == "autoencoder":
        return (states,)
    return states, 0.05 + 0.9 * torch.rand(5, generator=generator), torch.arange(5) % (config.data.num_classes + 1)
