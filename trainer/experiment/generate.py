"""The generate verb."""

import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from moe.placement.placement import Placement
from netsim.foundation.files import reading, write_bytes
from netsim.foundation.refusal import Refusal
from trainer.checkpoint.intact import with_newest
from trainer.checkpoint.pretrained import check_restorable, check_sharing, restored_layout
from trainer.config.file import load_run
from trainer.config.layout import Layout
from trainer.config.model.gpt import GPTConfig
from trainer.config.run import RunConfig
from trainer.config.sample import TextSample
from trainer.data.text.tokens import ByteTokenizer, Tokenizer
from trainer.data.text_windows import run_tokenizer
from trainer.distributed.groups import Launch, group_names, joined
from trainer.experiment.request.verbs import GenerateRequest
from trainer.sampling.text import RULE, continue_texts, readable
from trainer.sampling.trained import restored_together
from trainer.trace.merge import merge
from trainer.trace.session import recorder_of


def run(request: GenerateRequest) -> int:
    """Continues prompts, on one process or on ranks that share the network as the run did."""
    run_dir, seed = request.run_dir, request.seed
    launch = Launch.from_environment()

    def read(folder: Path) -> tuple[RunConfig, Tokenizer, Layout]:
        config = load_run(folder)
        if not (isinstance(config.model, GPTConfig) and isinstance(config.sample, TextSample)):
            raise ValueError(
                f"run_dir: {run_dir} holds a model of kind {config.model.kind}, which writes no text; use the sample "
                "verb"
            )
        check_sharing(config, launch.world_size)
        check_restorable(config, folder)
        return config, run_tokenizer(config.data, folder), restored_layout(config, folder, launch.world_size)

    def placed(layout: Layout) -> Layout:
        if request.placement is None or layout.placement is None:
            return layout
        assert config.moe is not None
        placement = _placement(request.placement, layout.placement)
        return replace(layout, placement=placement, relay_ranks=placement.relay_ranks(config.moe.dispatch))

    config, tokenizer, layout = with_newest(run_dir, read)
    assert isinstance(config.model, GPTConfig)
    assert isinstance(config.sample, TextSample)
    option, num_tokens = _num_tokens(request, config.sample.num_tokens, tokenizer)
    temperature = config.sample.temperature if request.temperature is None else request.temperature
    context, starts = config.model.context, _starts(request, tokenizer)
    unit = "bytes" if isinstance(tokenizer, ByteTokenizer) else "tokens"
    for start in starts:
        if not 0 < len(start) < context:
            raise ValueError(f"--prompt: {len(start)} {unit} cannot begin a text; give 1 to {context - 1}")
    longest = max(map(len, starts))
    if not 0 < num_tokens <= context - longest:
        raise ValueError(
            f"{option}: {num_tokens} after a prompt of {longest} is outside the network's context of {context}; "
            f"use 1 to {context - longest}"
        )
    if not 0 <= temperature < math.inf:
        raise ValueError(
            f"--temperature: {temperature} is not a number of 0 or more; use 0 for the likeliest {unit}, 1 for all"
        )
    if request.record is not None and launch.world_size == 1:
        raise ValueError("--record: one rank sends nothing; start the ranks that share the experts with torchrun")
    layout = placed(layout)
    sizes = {"expert_parallel": layout.expert_parallel, "tensor_parallel": layout.tensor_parallel}
    with joined(launch, **sizes, relay_ranks=layout.relay_ranks):
        restored = restored_together(run_dir, launch, placed)
        model, layout = restored.model.to(launch.device), restored.layout
        recorder = None
        if request.record is not None:
            recorder = recorder_of(request.record, config, launch, model, group_names(), [1])
        with torch.inference_mode(), nullcontext() if recorder is None else recorder.step(1):
            texts = continue_texts(model, starts, num_tokens, tokenizer=tokenizer, temperature=temperature, seed=seed)
        if recorder is not None:
            recorder.write()
            dist.barrier()
    if launch.rank == 0:
        if request.record is not None:
            assert layout.placement is not None
            merge(request.record, launch.world_size)
            layout.placement.write(request.record / "placement.json")
            write_bytes(request.record / "texts.txt", RULE.encode().join(texts))
        _show(texts, request.out)
    return 0


def _num_tokens(request: GenerateRequest, own: int, tokenizer: Tokenizer) -> tuple[str, int]:
    """Returns the option that says how many tokens to write, and their number."""
    if request.num_bytes is None:
        return "--num-tokens", own if request.num_tokens is None else request.num_tokens
    if request.num_tokens is not None:
        raise ValueError("--num-bytes: stands beside --num-tokens, which says the same; give one of them")
    if not isinstance(tokenizer, ByteTokenizer):
        raise ValueError("--num-bytes: the run writes tokens of a tokenizer, not bytes; use --num-tokens")
    return "--num-bytes", request.num_bytes


def _starts(request: GenerateRequest, tokenizer: Tokenizer) -> list[list[int]]:
    """The prompts as tokens."""
    try:
        return [tokenizer.encode(prompt) for prompt in _prompts(request)]
    except UnicodeDecodeError as error:
        option = "--prompt" if request.prompts is None else f"--prompts: {request.prompts}"
        raise ValueError(f"{option}: is not UTF-8, which the tokenizer reads; give text in UTF-8") from error


def _prompts(request: GenerateRequest) -> list[bytes]:
    if request.prompts is None:
        return [request.prompt.encode(errors="surrogateescape")]
    with reading(request.prompts, "give a prompt a line"):
        lines = request.prompts.read_bytes().splitlines()
    if not lines or not all(lines):
        raise Refusal(request.prompts, "file", "contains no prompt, or an empty line", "give a prompt a line")
    return lines


def _placement(path: Path, own: Placement) -> Placement:
    """Reads a placement for the ranks that share the network; refuses one that does not fit the run."""
    placement = Placement.read(path)
    for field in ("num_layers", "num_experts", "num_ranks"):
        value, wanted = getattr(placement, field), getattr(own, field)
        if value != wanted:
            raise Refusal(path, field, f"is {value} but the run has {wanted}", "place the run's own routing")
    if placement.has_replicas:
        raise Refusal(path, "rank_experts", "holds replicas", "place with as many slots as experts")
    return placement


def _show(texts: list[bytes], out: Path | None) -> None:
    if out is None:
        print(readable(texts[0]) if len(texts) == 1 else RULE.join(map(readable, texts)))
        return
    written = RULE.encode().join(texts)
    write_bytes(out, written)
    print(f"{out}: {len(written)} bytes")
