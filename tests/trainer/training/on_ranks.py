"""Runs on process groups of their own, straight and from one of their checkpoints on, and that both are the same."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

import trainer.data
import trainer.task
from tests.trainer.parallel_runs import Figures
from trainer.checkpoint.directory import step_folder
from trainer.config.run import RunConfig

Found = dict[str, tuple[list[dict[str, float]], dict[str, Tensor]]]
"""Figures of the steps and the final weights of each run; one that was resumed is `NAME, resumed`."""


def train(rank: int, world_size: int, run: RunConfig, resumes: Path | None) -> list[dict[str, float]]:
    """Trains to the last step; returns the figures of every step."""
    from trainer.config.rules.plan import plan_layout
    from trainer.distributed.groups import Launch, divide_ranks, unite_ranks
    from trainer.training.assembly import assembled
    from trainer.training.loop import train

    layout = plan_layout(run, world_size)
    divide_ranks(layout.expert_parallel, layout.tensor_parallel)
    launch = Launch(rank=rank, local_rank=rank, world_size=world_size, local_world_size=world_size)
    dataset, figures = trainer.data.build(run.data, run.source, run.flow and run.flow.captions), Figures()
    train(assembled(run, layout, launch, trainer.task.build(run), dataset, [figures], resumes))
    unite_ranks()
    return figures.values


def straight_and_resumed(
    rank: int, world_size: int, name: str, configured: Callable[[str], RunConfig], saved: int | None
) -> Found:
    """A run, and on several ranks another from its checkpoint after a step on; `configured` by the names of folders."""
    straight = configured(f"{world_size} {name}")
    runs: dict[str, tuple[RunConfig, Path | None]] = {name: (straight, None)}
    if world_size > 1 and saved is not None:
        begun = step_folder(straight.run.dir / "checkpoints", saved)
        runs[f"{name}, resumed"] = configured(f"{name}, resumed"), begun
    found = {}
    for which, (run, resumes) in runs.items():
        figures = train(rank, world_size, run, resumes)
        last = step_folder(run.run.dir / "checkpoints", run.optim.steps)
        found[which] = figures, load_file(last / "ema.safetensors")
    return found


def assert_resumed_bit_by_bit(divided: list[Found], folder: Path, name: str) -> None:
    """Of two ranks: figures, weights and the samples that are drawn after the last step."""
    for rank in divided:
        (straight, weights), (resumed, found) = rank[name], rank[f"{name}, resumed"]
        assert resumed == straight[-len(resumed) :]
        assert 0 < len(resumed) < len(straight)
        assert all(torch.equal(value, weights[parameter]) for parameter, value in found.items())
    one, other = (sorted((folder / run / "samples").glob("*.png")) for run in (f"2 {name}", f"{name}, resumed"))
    assert [(path.name, path.read_bytes()) for path in one] == [(path.name, path.read_bytes()) for path in other]
    assert one
