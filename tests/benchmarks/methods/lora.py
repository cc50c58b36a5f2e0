"""Low-rank adapters beside full fine-tuning: python -m tests.benchmarks.methods.lora

A transformer of one block of width 128 over patches of 2 x 2 pixels learns the 8 x 8 digits by class in 1,200 steps of
batch 64. Then the same digits, turned by 90 degrees, are learned from its averaged weights in 1,200 steps of batch 64,
in several ways:

* full: all of its weights;
* LoRA, rank r: adapters beside every linear layer of the block, those that steer it included, and beside those that
  read patches, write them and steer the output, but not beside the embeddings of time and class;
* LoRA in the block, rank r: the same in the block alone, up to ranks that no longer save much, to tell whether it is
  the rank that limits the quality;
* last layers: the two layers behind the blocks alone;
* from scratch: a new network, in as many steps;
* base: nothing.

Every way has the best of four learning rates on a seed that is not measured (`--search` prints them). FD is the
Fréchet distance on the 64 pixels, without guidance, of 1,437 samples in 20 steps of Euler's method to the turned images
of training; its floor is that of the 360 turned images held out. "of all" is the share of the numbers that are trained
in those of the network.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685.
"""

import copy
import sys
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import nn

from tests.benchmarks.methods import by_seed
from tests.benchmarks.methods.bars import Bar, show
from tests.benchmarks.methods.plain_loop import flow_task, follow, frechet_distance, rows, train
from trainer.config.layout import Layout
from trainer.data import SPLITS, Batch, DigitsConfig
from trainer.flow import Condition
from trainer.model.build import build_model
from trainer.model.network import frozen_tensors, put_frozen
from trainer.task import FlowTask

UNMEASURED = 9
BASE_STEPS, STEPS, BATCH = 1200, 1200, 64
MODEL: dict[str, Any] = {"kind": "dit", "hidden": 128, "num_layers": 1, "num_heads": 4, "patch_size": 2}
EVERYWHERE = ("blocks", "embed_patches", "unembed_patches", "final_modulation")
RATES: dict[str, float] = {
    "full": 3e-3,
    "LoRA, rank 4": 2e-2,
    "LoRA in the block, rank 4": 2e-2,
    "LoRA in the block, rank 16": 1e-2,
    "LoRA in the block, rank 64": 5e-3,
    "last layers": 3e-3,
    "from scratch": 3e-3,
}
"""The learning rate at which each way begins."""
TRIED = (1e-3, 3e-3, 1e-2, 2e-2)
Figures = dict[str, float]


def untrained(task: FlowTask, seed: int) -> nn.Module:
    """The network of a task with its initial weights."""
    run = task.config.run.model_copy(update={"seed": seed})
    config = task.config.model_copy(update={"run": run})
    return build_model(config, Layout.single(config))


def task_of(**settings: Any) -> FlowTask:
    """What is learned: upright digits or turned ones, which the task does not see."""
    return flow_task({}, model={**MODEL, **settings}, data={"kind": "digits"})


def adapted(base: nn.Module, rank: int, seed: int, on: Sequence[str] = ()) -> nn.Module:
    """A base with adapters at their start."""
    task = task_of(adapters={"kind": "low_rank", "base": "unused", "rank": rank, "on": on})
    network = untrained(task, seed)
    for name, _ in [*frozen_tensors(network)]:
        put_frozen(network, name, base.get_parameter(name).detach().clone())
    return network


def with_trained(base: nn.Module, chosen: Callable[[str], bool]) -> nn.Module:
    """A copy of a base of which some parameters are trained."""
    network = copy.deepcopy(base)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(chosen(name))
    return network


def beginning(way: str, base: nn.Module, seed: int) -> nn.Module:
    """The network that a way begins with."""
    match way.split(", rank "):
        case ["LoRA", rank]:
            return adapted(base, int(rank), seed, EVERYWHERE)
        case ["LoRA in the block", rank]:
            return adapted(base, int(rank), seed)
        case ["last layers"]:
            return with_trained(base, lambda name: name.startswith(("final_modulation", "unembed_patches")))
        case ["from scratch"]:
            return untrained(task_of(), seed + 100)
    return with_trained(base, lambda _: True)


def distance(network: nn.Module, real: Batch, seed: int) -> float:
    """Of as many samples as there are real examples, of the same classes."""
    assert real.labels is not None
    x_0 = torch.randn(real.x_1.shape, generator=torch.Generator().manual_seed(4000 + seed))
    drawn = follow(task_of(), network, x_0, steps=20, condition=Condition(real.labels), seed=seed).final
    return frechet_distance(drawn.numpy(), real.x_1.numpy())


def base_of(seed: int) -> nn.Module:
    """The network that has learned upright digits."""
    data, task = DigitsConfig(held_out=360, size=8).open(), task_of()
    upright = data.get(data.indices("train"))
    batches = rows(upright.x_1, upright.labels)
    return train(task, batches, untrained(task, seed), steps=BASE_STEPS, batch=BATCH, lr=2e-3, seed=seed, ema=0.99)


def learned(way: str, base: nn.Module, real: Batch, seed: int, lr: float) -> Figures:
    """What a way leads to."""
    network = beginning(way, base, seed)
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    batches = rows(real.x_1, real.labels)
    network = train(task_of(), batches, network, steps=STEPS, batch=BATCH, lr=lr, seed=50 + seed, ema=0.99)
    share = trained / sum(parameter.numel() for parameter in base.parameters())
    return {"trained": trained, "of all": share, "FD": distance(network, real, seed)}


def turned() -> tuple[Batch, Batch]:
    """The turned digits of training, and those held out."""
    data = DigitsConfig(held_out=360, size=8, rotate=90).open()
    learned, held_out = (data.get(data.indices(split)) for split in SPLITS)
    return learned, held_out


def run(seed: int) -> dict[str, Figures]:
    """All rows of one seed."""
    torch.set_num_threads(1)
    real, held_out = turned()
    base = base_of(seed)
    found = {"360 held-out digits": {"FD": frechet_distance(held_out.x_1.numpy(), real.x_1.numpy())}}
    found["base"] = {"trained": 0, "of all": 0.0, "FD": distance(base, real, seed)}
    for way, lr in RATES.items():
        found[way] = learned(way, base, real, seed, lr)
        print(f"seed {seed}, {way}: {found[way]}", file=sys.stderr, flush=True)
    return found


def search() -> None:
    """Prints the distance of each way at each learning rate, on the seed that is not measured."""
    torch.set_num_threads(1)
    real, _ = turned()
    base = base_of(UNMEASURED)
    for way in RATES:
        told = {lr: learned(way, base, real, UNMEASURED, lr)["FD"] for lr in TRIED}
        print(way, ", ".join(f"{lr:g}: {value:.4g}" for lr, value in told.items()), flush=True)


def main() -> int:
    """Trains, measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    parser = by_seed.parser(__doc__)
    parser.add_argument("--search", action="store_true", help="try the learning rates on another seed, and end")
    options = parser.parse_args()
    if options.search:
        search()
        return 0
    of_seeds = by_seed.for_seeds(options, run)
    table = {
        way: {figure: [rows[way][figure] for rows in of_seeds] for figure in figures}
        for way, figures in of_seeds[0].items()
    }
    own, full = table["LoRA, rank 4"], table["full"]
    ratios = [one / other for one, other in zip(own["FD"], full["FD"], strict=True)]
    shares = own["of all"]
    bars = [
        Bar("Fréchet distance: LoRA of rank 4 over full fine-tuning", fmean(own["FD"]) / fmean(full["FD"]), 1.15),
        Bar("the same, largest of the seeds", max(ratios), 1.15),
        Bar("share of the numbers that it trains", max(shares), 0.05),
    ]
    return show("digits turned by 90 degrees", table, bars)


if __name__ == "__main__":
    raise SystemExit(main())
