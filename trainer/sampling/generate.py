"""The generate verb."""

import math
from pathlib import Path

import torch

from moe.files import replacing
from trainer.checkpoint.intact import newest_checkpoint
from trainer.config.file import load_config
from trainer.config.model import GPTConfig
from trainer.config.run import TextSample
from trainer.distributed.groups import Launch, joined
from trainer.model.pretrained import check_restorable, restore, restored_layout
from trainer.sampling.text import continue_texts, readable


def run(
    run_dir: Path, prompt: str, num_bytes: int | None, temperature: float | None, seed: int, out: Path | None
) -> int:
    """Continues a prompt, on one process or on ranks that share the network as the run did.

    Args:
        run_dir: folder of the run.
        prompt: what the text begins with.
        num_bytes: bytes to write after it; None: the run's own number.
        temperature: what logits are divided by before a byte is drawn; None: the run's own.
        seed: of the draws.
        out: file for the bytes as they are, or None to print them.

    Returns:
        0.

    Raises:
        ValueError: the run has no complete checkpoint or no language model, its experts do not divide among the ranks,
            or an option is out of range.
    """
    launch = Launch.from_environment()
    folder = newest_checkpoint(run_dir)
    config = load_config(folder / "config.yaml")
    if not (isinstance(config.model, GPTConfig) and isinstance(config.sample, TextSample)):
        raise ValueError(
            f"run_dir: {run_dir} holds a model of kind {config.model.kind}, which writes no text; use the sample verb"
        )
    num_bytes = config.sample.num_bytes if num_bytes is None else num_bytes
    temperature = config.sample.temperature if temperature is None else temperature
    start, context = prompt.encode(errors="surrogateescape"), config.model.context
    if not 0 < len(start) < context:
        raise ValueError(f"--prompt: {len(start)} bytes are no start of a text; give 1 to {context - 1}")
    if not 0 < num_bytes <= context - len(start):
        raise ValueError(
            f"--num-bytes: {num_bytes} after a prompt of {len(start)} is outside the network's context of {context}; "
            f"use 1 to {context - len(start)}"
        )
    if not 0 <= temperature < math.inf:
        raise ValueError(f"--temperature: {temperature} is no number from 0; use 0 for the likeliest bytes, 1 for all")
    together = config.parallel.expert * config.parallel.tensor
    if launch.world_size > 1 and launch.world_size % together:
        raise ValueError(
            f"ranks: {launch.world_size} do not share the network as the run's {together} did; "
            f"start one, or a multiple of {together}"
        )
    layout = restored_layout(config, folder, launch.world_size)
    check_restorable(config, folder)
    sizes = {"expert_parallel": layout.expert_parallel, "tensor_parallel": layout.tensor_parallel}
    with joined(launch, **sizes, relay_ranks=layout.relay_ranks):
        model = restore(config, layout, folder)
        with torch.inference_mode():
            texts = continue_texts(model, [start], num_bytes, temperature=temperature, seed=seed)
    if launch.rank == 0:
        _show(texts[0], out)
    return 0


def _show(text: bytes, out: Path | None) -> None:
    if out is None:
        print(readable(text))
        return
    with replacing(out) as temporary:
        temporary.write_bytes(text)
    print(f"{out}: {len(text)} bytes")
