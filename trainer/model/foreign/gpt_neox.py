"""Dense language models of the GPT-NeoX family (Pythia too), ``GPTNeoXForCausalLM`` of transformers.

Source: Black et al., "GPT-NeoX-20B: An Open-Source Autoregressive Language Model", 2022, section 2.1.
"""

from typing import Any

import torch

from trainer.config.model import GPTConfig
from trainer.config.run import RunConfig
from trainer.model.foreign.document import Document
from trainer.model.foreign.entry import Entry, from_halves
from trainer.model.foreign.language_model import data_section, gpt_of
from trainer.model.foreign.protocol import QUANTISED, UNQUANTISED, Foreign, expect
from trainer.model.foreign.rotary import rotary_base, rotary_share, written
from trainer.model.weight_files import Weights

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


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
        context = document.whole("max_position_embeddings", 2048)
        vocabulary = document.size("vocab_size", 50_432)
        model = {
            "kind": "gpt",
            "hidden": document.size("hidden_size"),
            "num_layers": document.size("num_hidden_layers"),
            "num_heads": document.size("num_attention_heads"),
            "feed_forward_hidden": document.size("intermediate_size"),
            "vocabulary": vocabulary,
            "context": context,
            "norm": "layer",
            "norm_epsilon": document.number("layer_norm_eps", 1e-5),
            "feed_forward": document.choice("hidden_act", _ACTIVATIONS, "gelu"),
            "bias": True,
            "parallel_residual": document.flag("use_parallel_residual", True),
            "rotary_base": rotary_base(document, "rotary_emb_base"),
            "rotary_share": rotary_share(document, "rotary_pct", 0.25),
            "tied": document.flag("tie_word_embeddings", False),
        }
        return {"model": model, "data": data_section(context, vocabulary)}

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
            "architectures": [self.network],
            "model_type": "gpt_neox",
            "vocab_size": model.vocabulary,
            "hidden_size": model.hidden,
            "intermediate_size": model.inner,
            "num_hidden_layers": model.num_layers,
            "num_attention_heads": model.num_heads,
            "hidden_act": "gelu" if model.feed_forward == "gelu" else "gelu_pytorch_tanh",
            "max_position_embeddings": model.context,
            "layer_norm_eps": model.norm_epsilon,
            "use_parallel_residual": model.parallel_residual,
            "rotary_pct": model.rotary_share,
            "rotary_emb_base": model.rotary_base,
            "rope_parameters": written(model.rotary_base, model.rotary_share),
            "tie_word_embeddings": model.tied,
            "attention_bias": True,
            "bos_token_id": None,
            "eos_token_id": None,
        }

    def entries(self, config: RunConfig) -> list[Entry]:
        model = config.model
        assert isinstance(model, GPTConfig)
        hidden, inner, heads = model.hidden, model.inner, model.num_heads
        found = [Entry.same("embed.weight", "gpt_neox.embed_in.weight", model.vocabulary, hidden)]
        order = _fused_order(heads, hidden // heads, model.rotary_width)
        for layer in range(model.num_layers):
            ours, theirs = f"blocks.{layer}", f"gpt_neox.layers.{layer}"
            fused = "attention.query_key_value"
            for kind, width in (("weight", (hidden,)), ("bias", ())):
                shape = (3 * hidden, *width)
                parts = {f"{theirs}.{fused}.{kind}": shape}
                found.append(Entry(f"{ours}.{fused}.{kind}", shape, parts, order))
            for name, other, outputs, inputs in (
                ("attention.projection", "attention.dense", hidden, hidden),
                ("feed_forward.0", "mlp.dense_h_to_4h", inner, hidden),
                ("feed_forward.2", "mlp.dense_4h_to_h", hidden, inner),
            ):
                found.append(Entry.same(f"{ours}.{name}.weight", f"{theirs}.{other}.weight", outputs, inputs))
                found.append(Entry.same(f"{ours}.{name}.bias", f"{theirs}.{other}.bias", outputs))
            for name, other in (
                ("attention_norm", "input_layernorm"),
                ("feed_forward_norm", "post_attention_layernorm"),
            ):
                found += _norm(f"{ours}.{name}", f"{theirs}.{other}", hidden)
        found += _norm("final_norm", "gpt_neox.final_layer_norm", hidden)
        if not model.tied:
            found.append(Entry.same("unembed.weight", "embed_out.weight", model.vocabulary, hidden))
        return found


def _norm(name: str, other: str, hidden: int) -> list[Entry]:
    return [Entry.same(f"{name}.{kind}", f"{other}.{kind}", hidden) for kind in ("weight", "bias")]


def _fused_order(heads: int, width: int, turned: int) -> torch.Tensor:
    """Queries, keys and values of all heads one behind the other here, of each head there."""
    rows = torch.arange(heads * 3 * width).view(heads, 3, width)
    of_head = from_halves(1, width, turned)
    return torch.cat([rows[:, 0, of_head].flatten(), rows[:, 1, of_head].flatten(), rows[:, 2].flatten()])
