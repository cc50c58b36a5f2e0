"""Small configurations, and mistakes that can be put together."""

from itertools import product
from typing import Any

from trainer.config.file import resolve
from trainer.config.run import RunConfig

Document = dict[str, Any]


def configuration(**sections: Any) -> RunConfig:
    base: Document = {
        "run": {"dir": "runs/test"},
        "model": {"hidden": 16, "num_layers": 3, "num_heads": 4},
        "moe": {"num_experts": 8, "expert_hidden": 16},
        "optim": {"steps": 1, "global_batch": 48},
        "parallel": {"expert": 2},
    }
    for name, values in sections.items():
        base[name] = values if values is None else {**base.get(name, {}), **values}
    return RunConfig.model_validate(base)


TEXT: Document = {
    "model": {"kind": "gpt", "hidden": 16, "num_layers": 3, "num_heads": 4, "context": 64},
    "data": {"context": 64},
}


def language_model(**sections: Any) -> RunConfig:
    merged = {name: {**TEXT.get(name, {}), **sections.get(name, {})} for name in {*TEXT, *sections}}
    return configuration(**merged)


MODELS: dict[str, Document] = {
    "image": {"hidden": 16, "num_layers": 2, "num_heads": 4},
    "patches": {"hidden": 16, "num_heads": 4, "patch_size": 3, "label_dropout": 0},
    "points": {"kind": "mlp", "hidden": 8},
    "segments": {"kind": "blockwise_mlp", "segments": 3, "hidden": 8},
    "trunk": {"kind": "blockwise", "segments": 3, "hidden": 24, "num_heads": 2, "teacher_features": 6},
    "chain": {"kind": "causal_transition", "hidden": 16},
    "head": {"kind": "transition_mlp", "hidden": 16},
    "adapters": {"kind": "mlp", "adapters": {"kind": "routed", "base": {"run": "base"}, "tasks": 3}},
    "text": {"kind": "gpt", "hidden": 16, "num_layers": 2, "num_heads": 4, "context": 64},
    "latents": {"kind": "autoencoder"},
    "objects": {"kind": "policy_mlp"},
}
"""Networks; what a mistake is depends on them."""

_TEACHER = {"run": "teacher"}
_PAIRS = {"kind": "pairs", "path": "pairs", "held_out": 1, "shape": (2,), "num_classes": 0, "digest": "0"}
CHANGES: tuple[Document, ...] = (
    {"engine": {"zero_stage": 0, "precision": "bf16"}},
    {"engine": {"kind": "fsdp", "compile": True}},
    {"engine": {"zero_stage": 3, "activation_checkpointing": True}},
    {"parallel": {"tensor": 8}},
    {"parallel": {"tensor": 2}},
    {"parallel": {"expert": 4}},
    {"moe": {"num_experts": 7, "expert_hidden": 8, "dispatch": "capped"}, "parallel": {"expert": 2}},
    {"moe": {"num_experts": 8, "expert_hidden": 8, "dispatch": "coherent", "router": {"kind": "expert_choice"}}},
    {"moe": {"num_experts": 10**6, "expert_hidden": 8, "dispatch": "hierarchical"}, "parallel": {"expert": 2}},
    {"moe": {"num_experts": 8, "expert_hidden": 8, "placement": "none.json"}},
    {"optim": {"steps": 3, "global_batch": 7}},
    {"optim": {"steps": 3, "global_batch": 8, "micro_batch": 3, "weight_decay": 0.1}},
    {"checkpoint": {"every": 5}, "observe": {"profile": {"steps": [4, 9]}}},
    {"data": {"kind": "digits"}},
    {"data": {"kind": "toy", "classes": True}, "sample": {"guidance": 2.0}},
    {"data": {"kind": "mixture", "sources": {"a": {}, "b": {}}}},
    {"data": {**_PAIRS, "segments": 4}},
    {"data": {**_PAIRS, "nodes": [0, 0.3, 1]}},
    {"data": {**_PAIRS, "shape": (2, 2, 2), "latents": "1", "source": {"kind": "toy", "name": "rings"}}},
    {"sample": {"every": 1, "sampler": {"kind": "dopri5"}}},
    {"sample": {"sampler": {"kind": "segmented", "segments": 4, "within": {"kind": "heun"}}}},
    {"sample": {"sampler": {"kind": "euler", "steps": 4, "times": "none.json"}}},
    {"sample": {"sampler": {"kind": "causal_transition", "head": {"kind": "euler", "steps": 2}, "tokens": 7}}},
    {"sample": {"sampler": {"kind": "euler_maruyama", "diffusion": {"kind": "memoryless"}}}},
    {"sample": {"sampler": {"kind": "renoise"}}},
    {"sample": {"controls": [{"kind": "cost_gradient", "cost": {"kind": "attention", "subjects": [[0], [99]]}}]}},
    {"sample": {"every": 1, "num_tokens": 100}},
    {"sample": {"every": 1}},
    {"flow": {"path": {"kind": "trigonometric"}, "target": {"kind": "velocity_and_noise"}}},
    {"flow": {"path": {"kind": "mirror_interpolant"}, "coupling": {"kind": "knn"}}},
    {"flow": {"path": {"kind": "tabulated", "path": "none.json"}, "target": {"kind": "v_prediction"}}},
    {"flow": {"coupling": {"kind": "paired"}, "time": {"kind": "grid", "steps": 2}}},
    {"flow": {"time": {"kind": "stratified", "segments": 100}, "target": {"kind": "score"}}},
    {"flow": {"source": {"kind": "toy", "name": "rings"}, "target": {"kind": "score"}}},
    {"flow": {"source": {"kind": "mixture", "sources": {"a": {"kind": "toy"}, "b": {"kind": "toy"}}}}},
    {"flow": {"source": {"kind": "python_source"}, "context": {"kind": "inpainting"}}},
    {"flow": {"context": {"kind": "semantic_map", "block": 3}, "objective": {"monge_gap": {"weight": 0.5}}}},
    {"flow": {"captions": {"path": "captions", "width": 3, "digest": "0" * 16}}},
    {"flow": {"latent": {"path": "latents", "shape": (2, 2, 2), "image_shape": (1, 16, 16), "digest": "0"}}},
    {"flow": {"objective": {"kind": "monge_map"}, "data_scale": 2.0}},
    {"flow": {"objective": {"kind": "aligned", "teacher": "teacher.safetensors"}, "data_scale": 2.0}},
    {"flow": {"objective": {"kind": "feature_residual"}}},
    {"flow": {"objective": {"kind": "transition"}, "target": {"kind": "data"}}},
    {"flow": {"objective": {"kind": "causal_transition"}, "coupling": {"kind": "minibatch_ot"}}},
    {"flow": {"objective": {"kind": "velocity_distillation", "teacher": _TEACHER}, "target": {"kind": "data"}}},
    {"task": {"kind": "grpo", "reward": {"kind": "classifier"}, "guidance": 2.0}},
    {"task": {"kind": "adjoint_matching", "cost": {"kind": "attention", "subjects": [[0], [1]]}}},
)
"""Changes of a run, each of which is a mistake with some of the networks."""


def with_several_mistakes() -> list[RunConfig]:
    """Runs of every network with every change, and with every second one beside it; those that can be read."""
    runs = []
    for number, (model, (place, change)) in enumerate(product(MODELS.values(), enumerate(CHANGES))):
        other = CHANGES[(place + 1 + number % (len(CHANGES) - 1)) % len(CHANGES)]
        document: Document = {"run": {"dir": "none"}, "optim": {"steps": 3, "global_batch": 8}, "model": model}
        for name in {**other, **change}:
            document[name] = {**document.get(name, {}), **other.get(name, {}), **change.get(name, {})}
        try:
            runs.append(RunConfig.model_validate(resolve(document).document))
        except ValueError:  # a mistake within a section, or a section that the network has no use for
            continue
    return runs
