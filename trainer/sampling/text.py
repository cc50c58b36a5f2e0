"""Continuing texts with a trained language model."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from moe.seeds import derive_seed
from netsim.foundation.files import replacing
from trainer.config.run import RunConfig
from trainer.config.sample import TextSample
from trainer.data.run_tokenizer import run_tokenizer
from trainer.data.text.tokenizer import Tokenizer
from trainer.model.gpt import GPT
from trainer.model.network import Network
from trainer.sampling.generation import generate

RULE = f"\n{'-' * 80}\n"


def preview_texts(config: RunConfig, model: Network, path: Path, *, seed: int) -> None:
    """Continues the prompts of the section ``sample``; rank 0 writes the texts; collective."""
    sample = config.sample
    assert isinstance(sample, TextSample)
    tokenizer = run_tokenizer(config.data)
    prompts = [tokenizer.encode(prompt.encode()) for prompt in sample.prompts]
    texts = continue_texts(
        model, prompts, sample.num_tokens, tokenizer=tokenizer, temperature=sample.temperature, seed=seed
    )
    if dist.get_rank() == 0:
        with replacing(path) as temporary:
            temporary.write_text(RULE.join(map(readable, texts)) + "\n", encoding="utf-8")


def continue_texts(
    model: Network,
    prompts: Sequence[Sequence[int]],
    num_tokens: int,
    *,
    tokenizer: Tokenizer,
    temperature: float,
    seed: int,
) -> list[bytes]:
    """Continues prompts token by token, collective over the ranks that share experts; temperature 0: the likeliest
    token.

    The first rank of each such group brings all prompts, so that the draws do not depend on the number of ranks, and
    gets each prompt with its continuation, decoded together, in UTF-8; the others get nothing.
    """
    from megatron.core import parallel_state

    assert isinstance(model, GPT)
    own = list(prompts) if parallel_state.get_expert_model_parallel_rank() == 0 else []
    generator = torch.Generator().manual_seed(derive_seed(seed, "text"))
    written = generate(
        model, own, num_tokens, temperature=temperature, generator=generator, vocabulary=tokenizer.vocabulary
    )
    return [tokenizer.decode([*prompt, *continuation]) for prompt, continuation in zip(own, written, strict=True)]


def readable(text: bytes) -> str:
    """A text for a terminal: what is no UTF-8, and control characters but line breaks and tabs, replaced."""
    decoded = text.decode("utf-8", errors="replace")
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}" for letter in decoded
    )
