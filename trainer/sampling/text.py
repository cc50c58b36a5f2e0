"""Generation of text: continues prompts one token a step.

Collectives of a step, when tokens move among N ranks (context-coherent mode): each MoE layer's all-to-all
(:mod:`moe.dispatch.context_coherent`), and one all-gather behind the last layer, of uint8, that makes the caches equal
again before the next step:
    all_gather   uint8    M (W s + 4) + 8 S a rank: keys, values and sequence of every row that one of the blocks had on
                          this rank (M: as many as the rank with most has, over all blocks), then sequence and number
                          of every token that was sampled here (S sequences in the group), padded
No message carries sizes: each rank knows how many rows every rank had in every block. The prompt's forward pass gathers
keys and values in every block, as training does, and its own last all-gather carries tokens alone. Two all-gathers
come first: 24 bytes a rank (prompts, their length, a seed), then the prompts, 1 byte a token, or 4 where the vocabulary
is larger than 256.
A token begins a step on the rank where the one before it ended. With tokens at home, none of this is sent.

Shape suffixes: T rows on this rank, S sequences of the group, V tokens of the vocabulary; W s: bytes of a row's keys
and values.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from moe.dispatch.exchange import aligned, gather_equal
from moe.dispatch.residency import Residency
from moe.seeds import derive_seed, fold_in, uniform
from netsim.foundation.files import write_text
from trainer.config.run import RunConfig
from trainer.config.sample import TextSample
from trainer.data.text.tokens import Tokenizer
from trainer.data.text_windows import run_tokenizer
from trainer.model.attention import Cache, Made, NextToken, Prompt
from trainer.model.gpt import GPT
from trainer.model.network import Network

Group = dist.ProcessGroup | None
Choose = Callable[[Tensor, Tensor, int], Tensor]
"""From sequences int64 [T], their logits [T, V] and the number of the step to the next token of each, int64 [T]."""


def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    num_tokens: int,
    *,
    temperature: float = 1.0,
    generator: torch.Generator,
    vocabulary: int | None = None,
) -> list[list[int]]:
    """Continues prompts; collective over the ranks that share experts, each of which brings its own prompts.

    A draw depends on the rank's seed, the prompt's place and the token's place, not on the rank that draws it.

    Args:
        prompts: of this rank, possibly none; each of one token or more. Bytes are tokens too.
        num_tokens: tokens to write, the same on every rank.
        temperature: 0 takes the likeliest token; 1 draws from the model.
        vocabulary: only tokens below it are written; None: any that the network knows.

    Returns:
        The continuation of each, without the prompts.
    """
    if num_tokens < 1:
        raise ValueError(f"num_tokens: there is nothing to write ({num_tokens}); give 1 or more")
    if temperature < 0:
        raise ValueError(f"temperature: is negative ({temperature}); give 0 or more")
    longest = max(map(len, prompts), default=1)
    if not all(map(len, prompts)):
        raise ValueError("prompts: one is empty; give at least one token")
    if longest + num_tokens > model.context:
        raise ValueError(
            f"num_tokens: {num_tokens} behind a prompt of {longest} exceed the model's context {model.context}; "
            "shorten one of them"
        )
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    written, own = write_on(
        model, prompts, num_tokens, seed, lambda keys_S: _sampler(temperature, keys_S, vocabulary or model.vocabulary)
    )
    return written[own].tolist()


@torch.no_grad()
def write_on(
    model: GPT, prompts: Sequence[Sequence[int]], num_tokens: int, seed: int, chooser: Callable[[Tensor], Choose]
) -> tuple[Tensor, slice]:
    """Generates tokens by any rule of choice; `chooser` makes the rule for sequences with keys int64 [S]."""
    training = model.training
    model.eval()
    try:
        begun = _exchange_prompts(prompts, seed, model.token_dtype, model.group, model.embed.weight.device)
        choose = chooser(begun.keys)
        cache = Cache(len(model.blocks), begun.longest + num_tokens)
        written = begun.tokens.new_zeros(len(begun.lengths), num_tokens)
        prompt = Prompt(begun.longest, cache)
        rows, residency = model.advance(model.embed(begun.tokens[begun.own].flatten()), begun.residency, prompt)
        sequences = residency.ids // begun.longest
        ends = (prompt.positions(residency) + 1 == begun.lengths[sequences]).nonzero()[:, 0]
        rows, sequences, made = rows[ends], sequences[ends], []
        for step in range(num_tokens):
            if step:
                following = NextToken(cache, begun.lengths + step - 1, begun.longest + step - 1)
                rows, residency = model.advance(model.embed(written[sequences, step - 1]), residency, following)
                sequences, made = residency.ids, following.made
            written[sequences, step] = choose(sequences, model.logits(rows), step)
            rows_by_rank = _synchronise(cache, made, written[:, step], begun.lengths + step - 1, sequences, model.group)
            residency = Residency(sequences, rows_by_rank, begun.per_rank, model.group, len(rows_by_rank) == 1)
        return written, begun.own
    finally:
        model.train(training)


@dataclass(frozen=True, eq=False)
class _Begun:
    """The prompts of all ranks: tokens [S, longest], lengths and keys int64 [S].

    `own` are this rank's sequences, `per_rank` is how many sequence numbers each rank has, and `residency` says where
    the tokens are, padding included.
    """

    tokens: Tensor
    lengths: Tensor
    keys: Tensor
    longest: int
    own: slice
    per_rank: int
    residency: Residency


def _exchange_prompts(
    prompts: Sequence[Sequence[int]], seed: int, dtype: torch.dtype, group: Group, device: torch.device
) -> _Begun:
    sizes = torch.tensor([[len(prompts), max(map(len, prompts), default=1), seed]], device=device)
    sizes = _gathered(sizes, group)
    numbers, seeds = sizes[:, 0].tolist(), sizes[:, 2]
    most, longest = max(numbers), int(sizes[:, 1].max())
    width = longest * dtype.itemsize
    padded = torch.zeros(most, width + 4, dtype=torch.uint8)
    for row, prompt in zip(padded, prompts, strict=False):
        row[: len(prompt) * dtype.itemsize] = torch.tensor(list(prompt), dtype=dtype).view(torch.uint8)
        row[width:] = torch.tensor([len(prompt)], dtype=torch.int32).view(torch.uint8)
    padded = _gathered(padded.to(device), group)
    sequences = torch.arange(len(padded), device=device)
    first = 0 if group is None else dist.get_rank(group) * most
    return _Begun(
        tokens=aligned(padded[:, :width]).view(dtype).long(),
        lengths=_integers(padded[:, width:])[:, 0],
        keys=fold_in(seeds[sequences // max(most, 1)], sequences % max(most, 1)),
        longest=longest,
        own=slice(first, first + len(prompts)),
        per_rank=most,
        residency=Residency.home(
            len(prompts) * longest,
            group,
            device,
            rows_N=[number * longest for number in numbers],
            per_rank=most * longest,
        ),
    )


def _synchronise(
    cache: Cache, made: list[Made], tokens_S: Tensor, positions_S: Tensor, sequences_T: Tensor, group: Group
) -> tuple[int, ...]:
    """Exchanges new keys, values and tokens so that all ranks hold the same; returns the tokens that each chose."""
    if group is None or group.size() == 1:
        return (len(sequences_T),)
    device, size = tokens_S.device, group.size()
    chosen = torch.full([len(tokens_S), 2], -1, dtype=torch.int32, device=device)
    chosen[: len(sequences_T)] = torch.stack([sequences_T, tokens_S[sequences_T]], dim=1)
    rows_by_rank = [sum(block.rows[rank] for block in made) for rank in range(size)]
    most = max(rows_by_rank)
    message = chosen.view(torch.uint8).flatten()
    if most:
        own = torch.cat([_as_bytes(block) for block in made])
        message = torch.cat([own.flatten(), own.new_zeros((most - len(own)) * own.shape[1]), message])
    gathered = gather_equal(message, group).view(size, -1)
    chosen = _integers(gathered[:, -8 * len(tokens_S) :]).view(size, -1, 2)
    valid = chosen[:, :, 0] >= 0
    sequences, values = chosen[valid].unbind(dim=1)
    tokens_S[sequences] = values
    if most:
        rows = gathered[:, : -8 * len(tokens_S)].reshape(size, most, -1)
        rows = torch.cat([part[:number] for part, number in zip(rows, rows_by_rank, strict=True)])
        numbers = [block.rows[rank] for rank in range(size) for block in made]
        layers = torch.arange(len(made)).repeat(size).repeat_interleave(torch.tensor(numbers)).to(device)
        sequences = _integers(rows[:, -4:])[:, 0]
        kept = cache.key_values
        values = aligned(rows[:, :-4]).view(kept.dtype).view(-1, *kept.shape[3:])
        kept[layers, sequences, positions_S[sequences]] = values
    return tuple(valid.sum(dim=1).tolist())


def _as_bytes(made: Made) -> Tensor:
    """Each row's keys and values, then its sequence number, as bytes [rows, bytes]."""
    rows = made.key_value.flatten(1).contiguous().view(torch.uint8)
    return torch.cat([rows, made.sequences.to(torch.int32)[:, None].view(torch.uint8)], dim=1)


def _integers(columns: Tensor) -> Tensor:
    return aligned(columns).view(torch.int32).long()


def _gathered(values: Tensor, group: Group) -> Tensor:
    return values if group is None else gather_equal(values, group)


def _sampler(temperature: float, keys_S: Tensor, vocabulary: int) -> Choose:
    def choose(sequences_T: Tensor, logits_TV: Tensor, step: int) -> Tensor:
        logits_TV = logits_TV[:, :vocabulary]
        if temperature == 0:
            return logits_TV.argmax(dim=1)
        heights_TV = (logits_TV.double() / temperature).softmax(dim=1).cumsum(dim=1)
        drawn_T = uniform(fold_in(keys_S[sequences_T], step))
        return (heights_TV <= drawn_T[:, None]).sum(dim=1).clamp(max=vocabulary - 1)

    return choose


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
        write_text(path, RULE.join(map(readable, texts)) + "\n")


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
    """Decodes a text for a terminal; replaces invalid UTF-8, and control characters but line breaks and tabs."""
    decoded = text.decode("utf-8", errors="replace")
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}" for letter in decoded
    )
