"""Dense language models of transformers: ``GPTNeoXForCausalLM`` (Pythia too) and ``LlamaForCausalLM``.

Versions 4 and 5 write rotary settings in different places; both are read. Black et al., "GPT-NeoX-20B", 2022, section
2.1; Touvron et al., "LLaMA", 2023, section 2.2.
"""

from typing import Any

import torch

from trainer.config.model import GPTConfig
from trainer.config.model.gpt import BYTE_VALUES
from trainer.config.run import RunConfig
from trainer.model.foreign.protocol import QUANTISED, UNQUANTISED, Document, Entry, Foreign, expect, from_halves, linear
from trainer.model.weight_files import Weights

_REMEDY = "give weights with plain rotary positions (rope_type default)"


def rotary_base(document: Document, key: str) -> float:
    """The base of the rotary frequencies; refuses scaled positions. Version 4 writes it under `key`."""
    return _settings(document).number("rope_theta", document.number(key, 10_000.0))


def rotary_share(document: Document, key: str, default: float) -> float:
    """The share of a head's coordinates that rotary positions turn. Version 4 writes it under `key`."""
    return _settings(document).number("partial_rotary_factor", document.number(key, default))


def rotary(base: float, share: float | None = None) -> dict[str, Any]:
    """The rotary settings as version 5 writes them."""
    partial = {} if share is None else {"partial_rotary_factor": share}
    return {"rope_theta": base, "rope_type": "default", **partial}


def _settings(document: Document) -> Document:
    document.expect_none("rope_scaling", remedy=_REMEDY)
    rope = document.values.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        document.refuse("rope_parameters", rope, _REMEDY)
    inside = Document(document.path, rope)
    inside.expect("rope_type", "default", _REMEDY)
    return inside


LONGEST_WINDOW = 1024


def data_section(context: int, vocabulary: int) -> dict[str, Any]:
    """A placeholder ``data`` section, for the user to replace; for bytes, data that need no download."""
    window = min(context, LONGEST_WINDOW)
    if vocabulary == BYTE_VALUES:
        return {"kind": "python_source", "context": window, "held_out": 100_000}
    said_by_the_index = {"vocabulary": vocabulary, "bytes_per_token": 4.0, "digest": ""}
    return {"kind": "text", "path": "data", "context": window, **said_by_the_index}


def _sizes(document: Document, vocabulary: int) -> dict[str, Any]:
    """The settings that both kinds share; `vocabulary` is the default where a document has none."""
    return {
        "kind": "gpt",
        "hidden": document.size("hidden_size"),
        "num_layers": document.size("num_hidden_layers"),
        "num_heads": document.size("num_attention_heads"),
        "feed_forward_hidden": document.size("intermediate_size"),
        "vocabulary": document.size("vocab_size", vocabulary),
        "context": document.whole("max_position_embeddings", 2048),
        "tied": document.flag("tie_word_embeddings", False),
    }


def _written(model: GPTConfig, network: str, kind: str) -> dict[str, Any]:
    return {
        "architectures": [network],
        "model_type": kind,
        "vocab_size": model.vocabulary,
        "hidden_size": model.hidden,
        "intermediate_size": model.inner,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "max_position_embeddings": model.context,
        "tie_word_embeddings": model.tied,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def gpt_of(config: RunConfig, network: str) -> GPTConfig:
    """The settings of a dense language model; refuses other networks."""
    if not isinstance(config.model, GPTConfig):
        raise ValueError(f"--to: a {config.model.kind} network is not a {network}; use --to diffusers for a dit")
    if config.moe is not None:
        raise ValueError(f"--to: a mixture of experts is not a {network}; export a run without a moe section")
    return config.model


_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}


class GPTNeoX(Foreign):
    """LayerNorm, biases, rotary positions over a part of the head, attention and feed-forward layer side by side."""

    name = "gpt-neox"
    network = "GPTNeoXForCausalLM"
    weights = "model.safetensors"
    buffers = ("rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias")

    def recognises(self, document: Document) -> bool:
        return document.values.get("model_type") == "gpt_neox"

    def sections(self, document: Document, weights: Weights) -> dict[str, Any]:
        del weights
        document.expect("attention_bias", True, "give a network with biases in every linear layer")
        document.expect_none(QUANTISED, remedy=UNQUANTISED)
        model = {
            **_sizes(document, 50_432),
            "norm": "layer",
            "norm_epsilon": document.number("layer_norm_eps", 1e-5),
            "feed_forward": document.choice("hidden_act", _ACTIVATIONS, "gelu"),
            "bias": True,
            "parallel_residual": document.flag("use_parallel_residual", True),
            "rotary_base": rotary_base(document, "rotary_emb_base"),
            "rotary_share": rotary_share(document, "rotary_pct", 0.25),
        }
        return {"model": model, "data": data_section(model["context"], model["vocabulary"])}

    def document(self, config: RunConfig) -> dict[str, Any]:
        model = gpt_of(config, self.network)
        expect(
            self.network,
            norm=(model.norm, "layer"),
            bias=(model.bias, True),
            feed_forward=(model.feed_forward, "gelu_tanh" if model.feed_forward == "gelu_tanh" else "gelu"),
            num_kv_heads=(model.key_value_heads, model.num_heads),
        )
        return {
            **_written(model, self.network, "gpt_neox"),
            "hidden_act": "gelu" if model.feed_forward == "gelu" else "gelu_pytorch_tanh",
            "layer_norm_eps": model.norm_epsilon,
            "use_parallel_residual": model.parallel_residual,
            "rotary_pct": model.rotary_share,
            "rotary_emb_base": model.rotary_base,
            "rope_parameters": rotary(model.rotary_base, model.rotary_share),
            "attention_bias": True,
        }

    def entries(self, config: RunConfig) -> list[Entry]:
        model = config.model
        assert isinstance(model, GPTConfig)
        hidden, inner, heads = model.hidden, model.inner, model.num_heads
        entries = [Entry.same("embed.weight", "gpt_neox.embed_in.weight", model.vocabulary, hidden)]
        order = _fused_order(heads, hidden // heads, model.rotary_width)
        for layer in range(model.num_layers):
            ours, theirs = f"blocks.{layer}", f"gpt_neox.layers.{layer}"
            fused = "attention.query_key_value"
            for kind, width in (("weight", (hidden,)), ("bias", ())):
                shape = (3 * hidden, *width)
                parts = {f"{theirs}.{fused}.{kind}": shape}
                entries.append(Entry(f"{ours}.{fused}.{kind}", shape, parts, order))
            entries += [
                *linear(f"{ours}.attention.projection", f"{theirs}.attention.dense", hidden, hidden),
                *linear(f"{ours}.feed_forward.0", f"{theirs}.mlp.dense_h_to_4h", inner, hidden),
                *linear(f"{ours}.feed_forward.2", f"{theirs}.mlp.dense_4h_to_h", hidden, inner),
                *_norm(f"{ours}.attention_norm", f"{theirs}.input_layernorm", hidden),
                *_norm(f"{ours}.feed_forward_norm", f"{theirs}.post_attention_layernorm", hidden),
            ]
        entries += _norm("final_norm", "gpt_neox.final_layer_norm", hidden)
        if not model.tied:
            entries.append(Entry.same("unembed.weight", "embed_out.weight", model.vocabulary, hidden))
        return entries


def _norm(name: str, other: str, hidden: int) -> list[Entry]:
    return [Entry.same(f"{name}.{kind}", f"{other}.{kind}", hidden) for kind in ("weight", "bias")]


def _fused_order(heads: int, width: int, turned: int) -> torch.Tensor:
    """Row number there of each row here; here queries, keys, values of all heads in turn; there head by head."""
    rows = torch.arange(heads * 3 * width).view(heads, 3, width)
    of_head = from_halves(1, width, turned)
    return torch.cat([rows[:, 0, of_head].flatten(), rows[:, 1, of_head].flatten(), rows[:, 2].flatten()])


class Llama(Foreign):
    """RMSNorm, SwiGLU, rotary positions over the whole head, no biases, key-value heads in groups."""

    name = "llama"
    network = "LlamaForCausalLM"
    weights = "model.safetensors"
    buffers = ("rotary_emb.inv_freq",)

    def recognises(self, document: Document) -> bool:
        return document.values.get("model_type") == "llama"

    def sections(self, document: Document, weights: Weights) -> dict[str, Any]:
        del weights
        hidden, heads = document.size("hidden_size"), document.size("num_attention_heads")
        document.expect("head_dim", hidden // heads, f"give a network with heads of hidden_size / {heads}")
        document.expect_none("attention_bias", "mlp_bias", remedy="give a network without biases, or a GPT-NeoX")
        document.expect_none("sliding_window", remedy="give a network whose attention sees every token before")
        document.expect_none(QUANTISED, remedy=UNQUANTISED)
        document.choice("hidden_act", {"silu": "swiglu"}, "silu")
        model = {
            **_sizes(document, 32_000),
            "num_kv_heads": document.size("num_key_value_heads", heads),
            "norm": "rms",
            "norm_epsilon": document.number("rms_norm_eps", 1e-6),
            "feed_forward": "swiglu",
            "rotary_base": rotary_base(document, "rope_theta"),
        }
        return {"model": model, "data": data_section(model["context"], model["vocabulary"])}

    def document(self, config: RunConfig) -> dict[str, Any]:
        model = gpt_of(config, self.network)
        expect(
            self.network,
            norm=(model.norm, "rms"),
            feed_forward=(model.feed_forward, "swiglu"),
            bias=(model.bias, False),
            parallel_residual=(model.parallel_residual, False),
            rotary_share=(model.rotary_share, 1.0),
        )
        return {
            **_written(model, self.network, "llama"),
            "num_key_value_heads": model.key_value_heads,
            "head_dim": model.hidden // model.num_heads,
            "hidden_act": "silu",
            "rms_norm_eps": model.norm_epsilon,
            "rope_theta": model.rotary_base,
            "rope_parameters": rotary(model.rotary_base),
            "attention_bias": False,
            "mlp_bias": False,
        }

    def entries(self, config: RunConfig) -> list[Entry]:
        model = config.model
        assert isinstance(model, GPTConfig)
        hidden, inner, width = model.hidden, model.inner, model.hidden // model.num_heads
        entries = [Entry.same("embed.weight", "model.embed_tokens.weight", model.vocabulary, hidden)]
        queries, keys = model.num_heads * width, model.key_value_heads * width
        order = torch.cat(
            [
                from_halves(model.num_heads, width, width),
                queries + from_halves(model.key_value_heads, width, width),
                queries + keys + torch.arange(keys),
            ]
        )
        for layer in range(model.num_layers):
            ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
            fused = {
                f"{theirs}.self_attn.{part}_proj.weight": (rows, hidden)
                for part, rows in (("q", queries), ("k", keys), ("v", keys))
            }
            gated = {f"{theirs}.mlp.{part}_proj.weight": (inner, hidden) for part in ("gate", "up")}
            entries += [
                Entry.same(f"{ours}.attention_norm.weight", f"{theirs}.input_layernorm.weight", hidden),
                Entry(f"{ours}.attention.query_key_value.weight", (queries + 2 * keys, hidden), fused, order),
                Entry.same(f"{ours}.attention.projection.weight", f"{theirs}.self_attn.o_proj.weight", hidden, hidden),
                Entry.same(f"{ours}.feed_forward_norm.weight", f"{theirs}.post_attention_layernorm.weight", hidden),
                Entry(f"{ours}.feed_forward.0.weight", (2 * inner, hidden), gated),
                Entry.same(f"{ours}.feed_forward.2.weight", f"{theirs}.mlp.down_proj.weight", hidden, inner),
            ]
        entries.append(Entry.same("final_norm.weight", "model.norm.weight", hidden))
        if not model.tied:
            entries.append(Entry.same("unembed.weight", "lm_head.weight", model.vocabulary, hidden))
        return entries
