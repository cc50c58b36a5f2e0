"""What imported language models have in common: the data that their runs begin with, and who can be exported."""

from typing import Any

from trainer.config.model import GPTConfig
from trainer.config.model.gpt import BYTE_VALUES
from trainer.config.run import RunConfig

LONGEST_WINDOW = 1024


def data_section(context: int, vocabulary: int) -> dict[str, Any]:
    """Data of a run to come, for the user to replace; of bytes, some that need no download."""
    window = min(context, LONGEST_WINDOW)
    if vocabulary == BYTE_VALUES:
        return {"kind": "python_source", "context": window, "held_out": 100_000}
    said_by_the_index = {"vocabulary": vocabulary, "bytes_per_token": 4.0, "digest": ""}
    return {"kind": "text", "path": "data", "context": window, **said_by_the_index}


def gpt_of(config: RunConfig, network: str) -> GPTConfig:
    """The settings of a dense language model; refuses other networks."""
    if not isinstance(config.model, GPTConfig):
        raise ValueError(f"--to: a {config.model.kind} network is not a {network}; use --to diffusers for a dit")
    if config.moe is not None:
        raise ValueError(f"--to: a mixture of experts is not a {network}; export a run without a moe section")
    return config.model
