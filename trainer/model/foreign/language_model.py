"""What imported language models have in common: the data that their runs begin with, and who can be exported."""

from typing import Any

from trainer.config.model import GPTConfig
from trainer.config.run import RunConfig

LONGEST_WINDOW = 1024


def data_section(context: int) -> dict[str, Any]:
    """Data that need no download, for a first run; a user's own take their place.

    Args:
        context: tokens of the longest sequence of the network.
    """
    return {"kind": "python_source", "context": min(context, LONGEST_WINDOW), "held_out": 100_000}


def gpt_of(config: RunConfig, network: str) -> GPTConfig:
    """The settings of a dense language model.

    Args:
        config: the run.
        network: what it is to become.

    Raises:
        ValueError: its network is another.
    """
    if not isinstance(config.model, GPTConfig):
        raise ValueError(f"--to: a {config.model.kind} network is no {network}; use --to diffusers for a dit")
    if config.moe is not None:
        raise ValueError(f"--to: a mixture of experts is no {network}; export a run without a moe section")
    return config.model
