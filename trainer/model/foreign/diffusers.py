"""Diffusion transformers of diffusers, ``DiTTransformer2DModel``.

Source: Peebles and Xie, "Scalable Diffusion Models with Transformers", 2023, section 3.
"""

from typing import Any

import torch
from torch import Tensor

from trainer.config.model import DiTConfig
from trainer.config.run import RunConfig
from trainer.model.foreign.protocol import QUANTISED, UNQUANTISED, Document, Entry, Foreign, expect, linear
from trainer.model.weight_files import Weights

_CLASSES = ("DiTTransformer2DModel", "Transformer2DModel")
_EMBEDDINGS = {
    "embed_time.0": "timestep_embedder.linear_1",
    "embed_time.2": "timestep_embedder.linear_2",
    "embed_label": "class_embedder.embedding_table",
}
"""Layers that embed time and class here, and there in ``norm1.emb`` of every block."""
_LONGEST_SIDE = 4096
"""Values of a row of a picture or latent; no tensor of the weights has this size, and positions take memory by it."""


class DiffusersDiT(Foreign):
    """adaLN-Zero blocks; time is a timestep from 999, all noise, to 0; outputs for the variance follow the mean.

    Every block embeds time and class there; published weights hold the same values in all, which become one embedding.
    """

    name = "diffusers"
    network = "DiTTransformer2DModel"
    weights = "diffusion_pytorch_model.safetensors"

    def recognises(self, document: Document) -> bool:
        values = document.values
        return values.get("_class_name") in _CLASSES and values.get("norm_type", "ada_norm_zero") == "ada_norm_zero"

    def sections(self, document: Document, weights: Weights) -> dict[str, Any]:
        document.expect_none(QUANTISED, remedy=UNQUANTISED)
        document.expect("attention_bias", True, "give a network with biases in its attention")
        document.expect_none("norm_elementwise_affine", remedy="give a network whose norms have no weights")
        document.expect_none("upcast_attention", remedy="set it to false: attention here computes as the weights are")
        heads, width = document.size("num_attention_heads", 16), document.size("attention_head_dim", 72)
        channels, size = document.size("in_channels", 4), document.whole("sample_size", 32)
        outputs, layers = document.size("out_channels", channels), document.size("num_layers", 28)
        if size > _LONGEST_SIDE:
            document.refuse("sample_size", size, f"give a network of pictures of at most {_LONGEST_SIDE} a side")
        if outputs not in (channels, 2 * channels):
            document.refuse("out_channels", outputs, f"give a network with {channels} or {2 * channels}")
        model = {
            "kind": "dit",
            "patch_size": document.size("patch_size", 2),
            "hidden": heads * width,
            "num_layers": layers,
            "num_heads": heads,
            "feed_forward": document.choice(
                "activation_fn", {"gelu": "gelu", "gelu-approximate": "gelu_tanh"}, "gelu-approximate"
            ),
            "feed_forward_norm_epsilon": document.number("norm_eps", 1e-5),
            "waves": "diffusers",
            "embeddings": "shared" if _alike(weights, layers) else "each_block",
            "predicts_variance": outputs != channels,
            "dropout": document.number("dropout", 0.0),
        }
        data = {
            "kind": "shards",
            "path": "data",
            "held_out": 1,
            "shape": [channels, size, size],
            "num_classes": document.size("num_embeds_ada_norm", 1000),
            "digest": "",
        }
        flow = {"path": {"kind": "diffusion_steps"}, "target": {"kind": "noise"}}
        return {"model": model, "data": data, "flow": flow}

    def document(self, config: RunConfig) -> dict[str, Any]:
        model = config.model
        if not isinstance(model, DiTConfig) or model.kind != "dit":
            raise ValueError(
                f"--to: a {model.kind} network is not a {self.network}; use --to llama or gpt-neox for a gpt"
            )
        if config.moe is not None:
            raise ValueError(f"--to: a mixture of experts is not a {self.network}; export a run without a moe section")
        expect(self.network, waves=(model.waves, "diffusers"))
        if config.labels_in_state:
            problem = f"symmetric puts the class into the state, and a {self.network} reads it beside the state"
            raise ValueError(f"flow.coupling.kind: {problem}; export without --to")
        if not config.data.num_classes:
            raise ValueError(f"data: has no classes, which a {self.network} embeds; export without --to")
        if config.context_channels or config.caption_width:
            field = "context" if config.context_channels else "captions"
            raise ValueError(f"flow.{field}: a {self.network} reads none; export without --to")
        if config.flow is not None and config.flow.target.kind == "velocity_and_noise":
            raise ValueError(f"flow.target.kind: a {self.network} does not predict two fields; export without --to")
        channels, height, width = config.state_shape
        if height != width:
            raise ValueError(
                f"data: images of {height} x {width} are not square, as those of a {self.network} are; crop them"
            )
        return {
            "_class_name": self.network,
            "num_attention_heads": model.num_heads,
            "attention_head_dim": model.hidden // model.num_heads,
            "in_channels": channels,
            "out_channels": channels * (2 if model.predicts_variance else 1),
            "num_layers": model.num_layers,
            "dropout": model.dropout,
            "attention_bias": True,
            "sample_size": height,
            "patch_size": model.patch_size,
            "activation_fn": "gelu" if model.feed_forward == "gelu" else "gelu-approximate",
            "num_embeds_ada_norm": config.data.num_classes,
            "norm_type": "ada_norm_zero",
            "norm_elementwise_affine": False,
            "norm_eps": model.feed_forward_norm_epsilon,
        }

    def entries(self, config: RunConfig) -> list[Entry]:
        model = config.model
        assert isinstance(model, DiTConfig)
        hidden, size, layers = model.hidden, model.patch_size, model.num_layers
        channels = config.state_shape[0]
        outputs = channels * (2 if model.predicts_variance else 1)
        entries = [
            Entry(
                "embed_patches.weight",
                (hidden, channels * size**2),
                {"pos_embed.proj.weight": (hidden, channels, size, size)},
            ),
            Entry.same("embed_patches.bias", "pos_embed.proj.bias", hidden),
        ]
        shared = model.embeddings == "shared"
        for layer in range(1 if shared else layers):
            ours = f"blocks.{layer}." if layer else ""
            blocks = range(layers) if shared else (layer,)
            for (name, other), (outs, ins) in zip(
                _EMBEDDINGS.items(),
                ((hidden, model.time_waves), (hidden, hidden), (config.data.num_classes + 1, hidden)),
                strict=True,
            ):
                for kind, shape in (("weight", (outs, ins)), ("bias", (outs,))):
                    if kind == "weight" or name != "embed_label":
                        parts = {_embedding(block, f"{other}.{kind}"): shape for block in blocks}
                        entries.append(Entry(f"{ours}{name}.{kind}", shape, parts, copies=True))
        for layer in range(layers):
            entries += _block(f"blocks.{layer}", f"transformer_blocks.{layer}", hidden, model.inner)
        entries += linear("final_modulation", "proj_out_1", 2 * hidden, hidden)
        order = _patch_order(outputs, size)
        for kind, rest in (("weight", (hidden,)), ("bias", ())):
            shape = (outputs * size**2, *rest)
            entries.append(Entry(f"unembed_patches.{kind}", shape, {f"proj_out_2.{kind}": shape}, order))
        return entries


def _block(ours: str, theirs: str, hidden: int, inner: int) -> list[Entry]:
    fused = [
        Entry(
            f"{ours}.qkv.{kind}",
            (3 * hidden, *rest),
            {f"{theirs}.attn1.to_{part}.{kind}": (hidden, *rest) for part in "qkv"},
        )
        for kind, rest in (("weight", (hidden,)), ("bias", ()))
    ]
    return [
        *fused,
        *linear(f"{ours}.projection", f"{theirs}.attn1.to_out.0", hidden, hidden),
        *linear(f"{ours}.modulation", f"{theirs}.norm1.linear", 6 * hidden, hidden),
        *linear(f"{ours}.feed_forward.0", f"{theirs}.ff.net.0.proj", inner, hidden),
        *linear(f"{ours}.feed_forward.2", f"{theirs}.ff.net.2", hidden, inner),
    ]


def _embedding(block: int, name: str) -> str:
    return f"transformer_blocks.{block}.norm1.emb.{name}"


def _patch_order(channels: int, size: int) -> Tensor:
    """For each value of a patch here, channel by channel, its place in diffusers, where channels come last."""
    return torch.arange(channels * size**2).view(size, size, channels).permute(2, 0, 1).flatten()


def _alike(weights: Weights, layers: int) -> bool:
    """Whether all blocks there have equal embeddings of time and class; a missing tensor is reported later."""
    names = {*weights.names}
    for other in _EMBEDDINGS.values():
        for kind in ("weight", "bias"):
            embeddings = [_embedding(block, f"{other}.{kind}") for block in range(layers)]
            if not names.issuperset(embeddings):
                continue
            first = weights.tensor(embeddings[0])
            if not all(torch.equal(first, weights.tensor(name)) for name in embeddings[1:]):
                return False
    return True
