"""What a step of the trainer costs beside bare loops: python -m tests.benchmarks.step_time [--rounds 9] [--out FILE]

Two ranks talk over gloo on this machine, one thread each. The contestants hold networks of the same sizes and take
turns of some steps within each round, in random order; a turn begins and ends at a barrier, the slowest rank counts.

    trainer     the training loop: loader, flow parts, engine, guard, moving average, expert statistics, figures logged
    bare        the same network on the same engine, a loop of a few lines: draw, forward, backward, step, and the
                routers' own update, without which they would not learn to balance
    ddp         dense only: the same network under DistributedDataParallel with AdamW and clipping

trainer / bare is what the loop adds; trainer / ddp adds what DeepSpeed costs a small network.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tests.forked import ROOT

RANKS = 2
DIGITS = ROOT / "configs" / "runs" / "digits_moe.yaml"
QUIET = ["trace.steps=[]", "evaluate.every=null", "sample.every=null", "checkpoint.every=1000000"]
CASES = {
    "digits_moe": [],
    "dense DiT": ["moe=null", "parallel.expert=1", "model.hidden=128", "model.num_layers=4"],
}
Steps = Callable[[int], None]
"""Takes so many optimiser steps."""


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20, help="optimiser steps of a turn")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the figures go, as JSON")
    given = parser.parse_args()
    figures = {name: _case(overrides, given.rounds, given.steps) for name, overrides in CASES.items()}
    for name, figure in figures.items():
        times = ", ".join(f"{kind} {1e3 * step_s:.1f} ms" for kind, step_s in figure["step_s"].items())
        ratios = ", ".join(f"trainer / {kind} {ratio:.3f}" for kind, ratio in figure["ratios"].items())
        print(f"{name}: {times} a step; {ratios} (medians over rounds)")
    print(f"load average {os.getloadavg()[0]:.2f}")
    if given.out:
        given.out.write_text(json.dumps({"cases": figures, "load_average": os.getloadavg()[0]}, indent=1) + "\n")


def _case(overrides: list[str], rounds: int, steps: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        arguments = RANKS, store, folder, overrides, rounds, steps
        torch.multiprocessing.start_processes(measure, arguments, nprocs=RANKS, start_method="spawn")  # pyright: ignore[reportArgumentType]
        of_ranks = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(RANKS)]
    slowest = {
        name: [max(turn) for turn in zip(*(turns[name] for turns in of_ranks), strict=True)] for name in of_ranks[0]
    }
    pairs = {name: zip(slowest["trainer"], turns, strict=True) for name, turns in slowest.items() if name != "trainer"}
    return {
        "step_s": {name: median(turns) / steps for name, turns in slowest.items()},
        "ratios": {name: median(own / other for own, other in turns) for name, turns in pairs.items()},
    }


def measure(
    rank: int, world_size: int, store: Path, folder: str, overrides: list[str], rounds: int, steps: int
) -> None:
    """Lets the contestants take turns on one rank and writes how long each turn took.

    Args:
        rank: this process.
        world_size: all of them.
        store: file through which they meet.
        folder: where the figures go.
        overrides: of the configuration.
        rounds: turns of each contestant.
        steps: optimiser steps of a turn.
    """
    from trainer import load_config
    from trainer.config.rules.plan import plan_layout
    from trainer.distributed.groups import divide_ranks

    torch.set_num_threads(1)
    os.environ.update(GLOO_SOCKET_IFNAME="lo", LOCAL_RANK=str(rank))
    config = load_config(DIGITS, [*QUIET, *overrides, f"run.dir={folder}/run", "optim.steps=1000000"])
    layout = plan_layout(config, world_size)
    dist.init_process_group("gloo", store=dist.FileStore(str(store), world_size), rank=rank, world_size=world_size)
    divide_ranks(layout.expert_parallel, layout.tensor_parallel)
    contestants = {"trainer": _trainer(config, layout, rank), "bare": _bare(config, layout, rank)}
    if config.moe is None:
        contestants["ddp"] = _ddp(config, layout, rank)
    turns: dict[str, list[float]] = {name: [] for name in contestants}
    order = Random(0)
    for round_number in range(-1, rounds):  # the first warms up
        for name in order.sample(list(contestants), len(contestants)):
            dist.barrier()
            begun = time.perf_counter()
            contestants[name](steps)
            dist.barrier()
            if round_number >= 0:
                turns[name].append(time.perf_counter() - begun)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(turns))
    dist.destroy_process_group()


def _trainer(config: Any, layout: Any, rank: int) -> Steps:
    """The training loop without checkpoints, evaluation and samples, which the others have not either."""
    import trainer.data
    import trainer.task
    from trainer.distributed.groups import Launch
    from trainer.training.assembly import assembled
    from trainer.training.loop import StepLog, take_step

    launch = Launch(rank=rank, local_rank=rank, world_size=RANKS, local_world_size=RANKS)
    training = assembled(config, layout, launch, trainer.task.build(config), trainer.data.build(config.data), [], None)
    log = StepLog(training)
    numbers = iter(range(1, 1_000_000))

    def take(steps: int) -> None:
        for step in (next(numbers) for _ in range(steps)):
            log.add(step, take_step(training, step), 1.0)

    return take


def _bare(config: Any, layout: Any, rank: int) -> Steps:
    from trainer.distributed.engine import build_engine
    from trainer.model.build import build_model
    from trainer.model.parallel.state import HoldsExperts

    engine = build_engine(build_model(config, layout), config, layout, torch.device("cpu"))
    routers: list[Any] = [module.router for module in engine.module.modules() if isinstance(module, HoldsExperts)]
    batches = _batches(config, rank)

    def take(steps: int) -> None:
        for _ in range(steps):
            engine.backward(_loss(engine.model, *next(batches)))
            engine.step(config.optim.lr, lambda _: None)
            for router in routers:
                router.update_bias()

    return take


def _ddp(config: Any, layout: Any, rank: int) -> Steps:
    from trainer.model.build import build_model

    model = torch.nn.parallel.DistributedDataParallel(build_model(config, layout))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.optim.lr, betas=config.optim.betas, fused=True)
    batches = _batches(config, rank)

    def take(steps: int) -> None:
        for _ in range(steps):
            _loss(model, *next(batches)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm)
            optimizer.step()
            optimizer.zero_grad()

    return take


def _batches(config: Any, rank: int) -> Iterator[tuple[Tensor, Tensor]]:
    import trainer.data

    dataset = trainer.data.build(config.data)
    train, size = dataset.indices("train"), config.optim.global_batch // RANKS
    generator = torch.Generator().manual_seed(rank)
    while True:
        batch = dataset.get(train[torch.randint(len(train), (size,), generator=generator)])
        images, labels = batch.x_1, batch.labels
        assert labels is not None
        yield images, labels


def _loss(model: Callable[..., Tensor], x_1: Tensor, labels: Tensor) -> Tensor:
    from trainer.flow import Condition

    x_0, t = torch.randn_like(x_1), torch.rand(len(x_1))
    share = t.view(-1, 1, 1, 1)
    return (model((1 - share) * x_0 + share * x_1, t, Condition(labels)) - (x_1 - x_0)).square().mean()


if __name__ == "__main__":
    main()
