"""Dense language models of the Llama family, ``LlamaForCausalLM`` of transformers.

Source: Touvron et al., "LLaMA: Open and Efficient Foundation Language Models", 2023, section 2.2.
"""

from typing import Any

import torch

from trainer.config.model import GPTConfig
from trainer.config.run import RunConfig
from trainer.model.foreign.document import Document
from trainer.model.foreign.entry import Entry, from_halves
from trainer.model.foreign.language_model import data_section, gpt_of
from trainer.model.foreign.protocol import QUANTISED, UNQUANTISED, Foreign, expect
from trainer.model.foreign.rotary import rotary_base, written
from trainer.model.weight_files import Weights


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
        context = document.whole("max_position_embeddings", 2048)
        vocabulary = document.size("vocab_size", 32_000)
        model = {
            "kind": "gpt",
            "hidden": hidden,
            "num_layers": document.size("num_hidden_layers"),
            "num_heads": heads,
            "num_kv_heads": document.size("num_key_value_heads", heads),
            "feed_forward_hidden": document.size("intermediate_size"),
            "vocabulary": vocabulary,
            "context": context,
            "norm": "rms",
            "norm_epsilon": document.number("rms_norm_eps", 1e-6),
            "feed_forward": "swiglu",
            "rotary_base": rotary_base(document, "rope_theta"),
            "tied": document.flag("tie_word_embeddings", False),
        }
        return {"model": model, "data": data_section(context, vocabulary)}

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
            "architectures": [self.network],
            "model_type": "llama",
            "vocab_size": model.vocabulary,
            "hidden_size": model.hidden,
            "intermediate_size": model.inner,
            "num_hidden_layers": model.num_layers,
            "num_attention_heads": model.num_heads,
            "num_key_value_heads": model.key_value_heads,
            "head_dim": model.hidden // model.num_heads,
            "hidden_act": "silu",
            "max_position_embeddings": model.context,
            "rms_norm_eps": model.norm_epsilon,
            "rope_theta": model.rotary_base,
            "rope_parameters": written(model.rotary_base),
            "tie_word_embeddings": model.tied,
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": None,
            "eos_token_id": None,
        }

    def entries(self, config: RunConfig) -> list[Entry]:
        model = config.model
        assert isinstance(model, GPTConfig)
        hidden, inner, width = model.hidden, model.inner, model.hidden // model.num_heads
        found = [Entry.same("embed.weight", "model.embed_tokens.weight", model.vocabulary, hidden)]
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
            found += [
                Entry.same(f"{ours}.attention_norm.weight", f"{theirs}.input_layernorm.weight", hidden),
                Entry(f"{ours}.attention.query_key_value.weight", (queries + 2 * keys, hidden), fused, order),
                Entry.same(f"{ours}.attention.projection.weight", f"{theirs}.self_attn.o_proj.weight", hidden, hidden),
                Entry.same(f"{ours}.feed_forward_norm.weight", f"{theirs}.post_attention_layernorm.weight", hidden),
                Entry(f"{ours}.feed_forward.0.weight", (2 * inner, hidden), gated),
                Entry.same(f"{ours}.feed_forward.2.weight", f"{theirs}.mlp.down_proj.weight", hidden, inner),
            ]
        found.append(Entry.same("final_norm.weight", "model.norm.weight", hidden))
        if not model.tied:
            found.append(Entry.same("unembed.weight", "lm_head.weight", model.vocabulary, hidden))
        return found
