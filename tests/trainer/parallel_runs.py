"""Short runs of the real loop under one division of the work after another."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import trainer.data
import trainer.task
from trainer.config.run import RunConfig
from trainer.data import Batch, Dataset, Split
from trainer.observe.protocol import Sink

STEPS, GLOBAL_BATCH, MICRO_BATCH = 4, 8, 2
CLIP_NORM = 0.3
"""Below the norm of every gradient of these runs."""
EXAMPLES = 24

FEW_STEPS = {"kind": "euler", "steps": 2}
DENSE: dict[str, dict[str, Any]] = {
    "dit": {
        "model": {"kind": "dit", "hidden": 32, "num_layers": 2, "num_heads": 4, "dropout": 0.1},
        "sample": {"every": STEPS, "per_class": 1, "sampler": FEW_STEPS},
    },
    "dit told of maps": {
        "model": {"kind": "dit", "hidden": 32, "num_layers": 2, "num_heads": 4, "dropout": 0.1},
        "flow": {"context": {"kind": "semantic_map"}},
    },
    "gpt": {
        "model": {
            "kind": "gpt",
            "hidden": 32,
            "num_layers": 2,
            "num_heads": 8,
            "num_kv_heads": 4,
            "context": 16,
            "dropout": 0.1,
        },
        "data": {"context": 12},
        "sample": {"every": STEPS, "prompts": ["def ", "a"], "num_tokens": 8},
    },
    "mlp": {
        "model": {"kind": "mlp", "hidden": 32, "num_layers": 2, "dropout": 0.1},
        "data": {"kind": "toy", "classes": True},
        "sample": {"every": STEPS, "num": 6, "sampler": FEW_STEPS},
    },
    "transition_dit": {
        "model": {"kind": "transition_dit", "hidden": 32, "num_layers": 2, "num_heads": 4, "dropout": 0.1},
        "sample": {"every": STEPS, "per_class": 1, "sampler": {"kind": "transition", "steps": 2}},
    },
    "transition_mlp": {
        "model": {"kind": "transition_mlp", "hidden": 32, "num_layers": 2, "dropout": 0.1},
        "data": {"kind": "toy", "classes": True},
        "sample": {"every": STEPS, "num": 6, "sampler": FEW_STEPS},
    },
    "causal_transition": {
        "model": {
            "kind": "causal_transition",
            "history": "last",
            "patch_size": 4,
            "hidden": 32,
            "num_layers": 2,
            "dropout": 0.1,
            "head": {"hidden": 16},
        },
        "sample": {"every": STEPS, "per_class": 1, "sampler": {"kind": "causal_transition", "head": FEW_STEPS}},
    },
    "autoencoder": {
        "model": {"kind": "autoencoder", "hidden": 16, "num_layers": 2, "latent_channels": 2},
        "sample": {"every": STEPS, "num": 4},
    },
}


@dataclass(frozen=True)
class Division:
    """How a run is divided over its ranks.

    Attributes:
        kind: of the network, a key of `DENSE`.
        tensor: ranks of a tensor-parallel group.
        engine: section of that name.
        expert: ranks of an expert-parallel group.
        moe: section of that name; empty for a dense network.
    """

    kind: str = "dit"
    tensor: int = 1
    engine: dict[str, Any] = field(default_factory=dict)
    expert: int = 1
    moe: dict[str, Any] = field(default_factory=dict)

    def config(self, folder: Path, steps: int = STEPS) -> RunConfig:
        """The run, its files in a folder; what it draws, it draws after its last step."""
        parts = DENSE[self.kind]
        return RunConfig.model_validate(
            {
                "run": {"dir": folder},
                **parts,
                **({"sample": parts["sample"] | {"every": steps}} if "sample" in parts else {}),
                "moe": self.moe or None,
                "optim": {
                    "steps": steps,
                    "global_batch": GLOBAL_BATCH,
                    "micro_batch": MICRO_BATCH,
                    "lr": 1e-2,
                    "clip_norm": CLIP_NORM,
                    "weight_decay": 0.01,
                    "ema_decay": 0.0,
                    **parts.get("optim", {}),
                },
                "engine": self.engine,
                "parallel": {"tensor": self.tensor, "expert": self.expert},
                "observe": {"log_every": 1, "tensorboard": False},
                "evaluate": {"every": steps},
            }
        )


class Noise(Dataset):
    """Drawn examples, so that no data set has to be loaded."""

    def __init__(self, config: RunConfig) -> None:
        self.num_examples, self.num_classes, self.shape = EXAMPLES, config.data.num_classes, config.data.shape
        generator = torch.Generator().manual_seed(3)
        self.labels = None
        if config.model.kind == "gpt":
            self.values = torch.randint(256, (EXAMPLES, *self.shape), generator=generator)
        else:
            self.values = torch.randn(EXAMPLES, *self.shape, generator=generator)
            self.labels = torch.arange(EXAMPLES) % self.num_classes if self.num_classes else None
        width = config.flow.captions.width if config.flow and config.flow.captions else None
        self.captions = None if width is None else torch.randn(EXAMPLES, width, generator=generator)

    def indices(self, split: Split) -> torch.Tensor:
        """The last seven examples are held out, which no batch divides."""
        return torch.arange(EXAMPLES - 7) if split == "train" else torch.arange(EXAMPLES - 7, EXAMPLES)

    def get(self, ids: torch.Tensor) -> Batch:
        """Examples and labels."""
        labels, captions = (None if of_all is None else of_all[ids] for of_all in (self.labels, self.captions))
        return Batch(self.values[ids], labels, ids, captions=captions)


class Figures(Sink):
    """Keeps what a run reports."""

    def __init__(self) -> None:
        self.values: list[dict[str, float]] = []

    def close(self) -> None:
        """See `Sink.close`."""

    def write(self, step: int, values: Mapping[str, float]) -> None:  # noqa: ARG002
        """See `Sink.write`."""
        self.values.append({name: value for name, value in values.items() if not name.startswith(("time.", "memory."))})


def train(rank: int, world_size: int, config: RunConfig) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Trains to the last step on process groups of its own.

    Returns:
        The figures of every step, and the whole final weights by their logical names.
    """
    from trainer.config.rules.plan import plan_layout
    from trainer.distributed.groups import Launch, divide_ranks, unite_ranks
    from trainer.training.assembly import assembled
    from trainer.training.loop import train

    layout = plan_layout(config, world_size)
    divide_ranks(layout.expert_parallel, layout.tensor_parallel)
    launch = Launch(rank=rank, local_rank=rank, world_size=world_size, local_world_size=world_size)
    figures = Figures()
    read = config.data.kind in ("numbers", "reactions", "surfaces")
    dataset = trainer.data.build(config.data) if read else Noise(config)
    train(assembled(config, layout, launch, trainer.task.build(config), dataset, [figures], None))
    unite_ranks()
    weights = load_file(config.run.dir / "checkpoints" / f"step_{config.optim.steps:08d}" / "ema.safetensors")
    return figures.values, weights
