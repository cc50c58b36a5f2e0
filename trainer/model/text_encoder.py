"""Frozen text encoders in folders of Hugging Face's transformers: one vector for each text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from netsim.foundation.files import files_digest
from netsim.foundation.refusal import Refusal

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import nn

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
POOLED = frozenset({"clip_text_model", "clip"})
"""Types of models whose own pooled output is the vector of a text."""
LONGEST = 512
"""Tokens of a text where the configuration names no limit; what is longer is cut."""
TOGETHER = 64
"""Texts that pass through the encoder at once."""


class TextEncoder:
    """A frozen text encoder, such as T5's, BERT or the text half of CLIP; no code of its folder is run.

    A text's vector is CLIP's pooled output, or else the mean of the last states over its tokens. Nothing is unpickled.
    """

    def __init__(self, folder: Path, device: torch.device | None = None) -> None:
        """Loads config.json, tokenizer.json and safetensors of a folder; needs the packages that read them."""
        weights = sorted(folder.glob("*.safetensors"))
        for name, present in {
            CONFIG: (folder / CONFIG).is_file(),
            TOKENIZER: (folder / TOKENIZER).is_file(),
            "*.safetensors": bool(weights),
        }.items():
            if not present:
                remedy = "give a folder that save_pretrained wrote, with config.json, tokenizer.json and safetensors"
                raise Refusal(folder, name, "is missing", remedy)
        self.digest = files_digest([folder / CONFIG, folder / TOKENIZER, *weights])[:16]
        settings = _settings(folder / CONFIG)
        self._tokenizer = _tokenizer(folder / TOKENIZER, settings)
        self._model = _model(folder).to(device or torch.device("cpu"))
        self._pools = settings.get("model_type") in POOLED
        self.width = int(self._encoded(["."]).shape[1])

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Float32 [N, width] on the CPU, of N texts with one token or more."""
        parts = [self._encoded(texts[first : first + TOGETHER]) for first in range(0, len(texts), TOGETHER)]
        return torch.cat(parts) if parts else torch.empty(0, self.width)

    @torch.inference_mode()
    def _encoded(self, texts: Sequence[str]) -> Tensor:
        device = next(self._model.parameters()).device
        encodings = self._tokenizer.encode_batch(list(texts))
        ids = torch.tensor([one.ids for one in encodings], device=device)
        mask = torch.tensor([one.attention_mask for one in encodings], device=device)
        output: Any = self._model(input_ids=ids, attention_mask=mask)
        if self._pools:
            return output.pooler_output.float().cpu()
        states, kept = output.last_hidden_state.float(), mask[..., None].float()
        return ((states * kept).sum(1) / kept.sum(1).clamp(min=1)).cpu()


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refusal(path, "file", f"cannot be read ({error})", "save the model again") from error
    if not isinstance(settings, dict):
        raise Refusal(path, "document", f"is a {type(settings).__name__}", "save the model again")
    return settings


def _tokenizer(path: Path, settings: dict[str, Any]) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ValueError("--encoder: needs the package tokenizers; pip install 'flowfabric[hf]'") from error
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise Refusal(path, "file", f"is not a tokenizer ({error})", "save the tokenizer again") from error
    inner = settings.get("text_config", settings)
    longest = inner.get("max_position_embeddings") or inner.get("n_positions") or LONGEST
    padding = inner.get("pad_token_id") or 0
    tokenizer.enable_truncation(int(longest))
    tokenizer.enable_padding(pad_id=int(padding), pad_token=tokenizer.id_to_token(int(padding)) or "[PAD]")
    return tokenizer


def _model(folder: Path) -> nn.Module:
    try:
        from transformers import AutoModelForTextEncoding
        from transformers.utils import logging
    except ImportError as error:
        raise ValueError("--encoder: needs the package transformers; pip install 'flowfabric[hf]'") from error
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model = AutoModelForTextEncoding.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        problem = " ".join(str(error).split())[:200]
        raise Refusal(folder, "encoder", f"cannot be loaded ({problem})", "give a text encoder") from error
    return model.eval()
