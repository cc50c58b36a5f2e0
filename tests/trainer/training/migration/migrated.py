"""A short run whose experts are moved by hand: the losses of every step, and what the ranks then hold."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.config.run import RunConfig
from trainer.flow import Condition

EXPERTS, LAYERS = 8, 2


def configuration(
    *,
    expert_parallel: int = 2,
    zero_stage: int = 1,
    precision: str = "fp32",
    top_k: int = 2,
    dispatch: str = "home",
    clip_norm: float | None = None,
    micro_batch: int | None = None,
    migration: dict[str, Any] | None = None,
    placement: Path | None = None,
    replicas: str = "even",
    folder: Path = Path("unused"),
) -> RunConfig:
    """A small DiT with experts; dropout and the load-balancing loss are on."""
    return RunConfig.model_validate(
        {
            "run": {"dir": folder},
            "model": {"hidden": 16, "num_layers": LAYERS, "num_heads": 4, "dropout": 0.1},
            "moe": {
                "num_experts": EXPERTS,
                "top_k": top_k,
                "expert_hidden": 24,
                "dispatch": dispatch,
                "migration": migration,
                "placement": placement,
                "replicas": replicas,
            },
            "optim": {"steps": 8, "global_batch": 16, "micro_batch": micro_batch, "lr": 1e-2, "clip_norm": clip_norm},
            "engine": {"zero_stage": zero_stage, "precision": precision},
            "parallel": {"expert": expert_parallel},
        }
    )


def shuffled(seed: int) -> np.ndarray:
    """Slots filled at random: experts change ranks, change slots on their rank, and stay."""
    generator = np.random.default_rng(seed)
    return np.stack([generator.permutation(EXPERTS) for _ in range(LAYERS)])


class Run:
    """One rank of a run, with the loop's own arithmetic without its surroundings.

    Args:
        config: the run.
        world_size: its ranks.
        resumes: checkpoint to go on from.
        leaning: whether the images of the ranks differ, so that their tokens choose different experts, and those that
            they chose before: the weights change slowly.
    """

    def __init__(
        self, config: RunConfig, world_size: int, *, resumes: Path | None = None, leaning: bool = False
    ) -> None:
        from trainer.checkpoint.contents import resumed_layout
        from trainer.checkpoint.resuming import load_checkpoint
        from trainer.config.rules.plan import plan_layout
        from trainer.distributed.engine import build_engine
        from trainer.distributed.engine.ema import MovingAverage
        from trainer.model.build import build_model
        from trainer.training.migration.live import LiveMigration

        self.config, self.leaning = config, leaning
        self.layout = plan_layout(config, world_size)
        if resumes is not None:
            self.layout = resumed_layout(config, self.layout, resumes)
        self.engine = build_engine(build_model(config, self.layout), config, self.layout, torch.device("cpu"))
        self.average = MovingAverage(self.engine, 0.9)
        self.migration = None
        if config.moe is not None and config.moe.migration is not None:
            self.migration = LiveMigration(config, self.layout, self.engine, self.average)
        if resumes is not None:
            load_checkpoint(resumes, config, self.layout, self.engine, self.average, self.migration)

    def step(self, step: int) -> float:
        """Takes an optimiser step on data that depend on the step and the micro batch alone; returns its loss."""
        import torch.distributed as dist

        from moe.seeds import derive_seed

        total = 0.0
        for local in range(self.layout.accumulation):
            micro = self.layout.data_rank(dist.get_rank()) * self.layout.accumulation + local
            generator = torch.Generator().manual_seed(derive_seed("data", step, micro))
            torch.manual_seed(derive_seed("dropout", step, micro))
            x_t = torch.randn(self.layout.micro_batch, 1, 8, 8, generator=generator)
            if self.leaning:
                x_t += 3.0 * (-1) ** dist.get_rank()
            t = torch.rand(self.layout.micro_batch, generator=generator)
            predicted = self.engine.model(x_t, t, Condition(torch.arange(self.layout.micro_batch) % 10))
            loss = (predicted - x_t).square().mean()
            self.engine.backward(loss)
            total += float(loss.detach())
        self.norm = self.engine.step(1e-4 if self.leaning else 1e-2, lambda _: None).norm
        self.average.update(step)
        if self.migration is not None:
            self.migration.after(step)
        return total / self.layout.accumulation

    def save(self, root: Path, step: int) -> Path:
        """Saves a checkpoint."""
        from trainer.checkpoint.directory import step_folder
        from trainer.checkpoint.saving import Checkpointer

        Checkpointer(root, self.config, self.layout, self.engine, self.average, self.migration).save(step)
        return step_folder(root, step)

    def place(self, slot_to_expert: np.ndarray) -> str | None:
        """Moves the experts; returns why not, if it was refused."""
        from megatron.core import parallel_state

        from trainer.training.migration.live import transfer

        group: Any = parallel_state.get_expert_model_parallel_group()
        return transfer(self.engine, self.average, slot_to_expert, group)

    def experts(self) -> dict[tuple[str, str], bytes]:
        """Everything that this rank holds of its experts, by parameter and kind."""
        held = {}
        averages = self.average.state()
        for shard in self.engine.shards():
            if shard.expert is not None:
                average = self.engine.gathered(shard, [piece for piece in averages if piece.name == shard.name])
                state = {**self.engine.expert_state(shard), "average": average, "used": shard.tensor}
                for kind, value in state.items():
                    held[shard.name, kind] = value.detach().contiguous().view(torch.uint8).numpy().tobytes()
        return held


def losses(config: RunConfig, world_size: int, placements: dict[int, np.ndarray], steps: int = 8) -> list[float]:
    """Losses of this rank, with the experts re-placed after some of the steps."""
    run = Run(config, world_size)
    found = []
    for step in range(1, steps + 1):
        found.append(run.step(step))
        if step in placements:
            assert run.place(placements[step]) is None
    return found
