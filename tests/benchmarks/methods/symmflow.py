"""One network that draws and reads classes: python -m tests.benchmarks.methods.symmflow

A residual-free perceptron of 3 x 384 learns vectors of the 64 pixels of a digit beside a code of its class, 1,437 of
them; 360 others are read. One run codes a class as ten planes, one as the paper's scalar, 16 times beside each other,
and one has permuted labels. "read" is the share of held-out images that one evaluation reads as their class, with one
noise and with eight; "drawn" the share of 500 images, drawn in 25 steps of Euler's method, that a logistic regression
on all training images takes for the class that they were drawn for. Its own share on held-out images is the rival of
reading and the floor of drawing.

Source: "Symmetrical Flow Matching", arXiv 2506.10634.
"""

import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.methods.bars import Bar, show
from tests.benchmarks.methods.by_seed import seeds_parser
from tests.benchmarks.methods.plain_loop import PlainNetwork, flow_task, follow, rows, train
from trainer.data import DigitsConfig, build, write_shards
from trainer.evaluation.quality import ClassJudge
from trainer.flow import Condition
from trainer.flow.coupling import Symmetric
from trainer.sampling.flow import keys_of
from trainer.task import FlowTask

CODES: dict[str, dict[str, Any]] = {
    "one-hot": {"kind": "one_hot"},
    "scalar": {"kind": "scalar", "repeats": 16},
}
STEPS, BATCH, LR = 6000, 128, 3e-3
DRAWN, NOISES = 500, 8
FIGURES = ("read, 1 noise", "read, 8 noises", "drawn")


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and held-out digits as vectors [N, 64], each with its classes."""
    data = build(DigitsConfig())
    train, held_out = (data.get(data.indices(split)) for split in ("train", "held_out"))
    assert train.labels is not None
    assert held_out.labels is not None
    return train.x_1.flatten(1), train.labels, held_out.x_1.flatten(1), held_out.labels


def read(task: FlowTask, network: PlainNetwork, images: Tensor, noises: int, seed: int) -> Tensor:
    """The classes of images [B, 64], from the mean code of some noises."""
    coupling, planes = task.coupling, task.parts.fields["label"]
    assert isinstance(coupling, Symmetric)
    generator = torch.Generator().manual_seed(seed)
    codes = []
    for _ in range(noises):
        noise = torch.randn(len(images), planes, generator=generator)
        velocity = network(torch.cat([images, noise], dim=1), torch.ones(len(images)), Condition())
        codes.append(noise - velocity[:, -planes:])
    classes = coupling.field().decode(torch.stack(codes).mean(0), 10)
    assert classes is not None
    return classes


@torch.no_grad()
def run(code: dict[str, Any], seed: int, *, permuted: bool = False) -> dict[str, float]:
    """Trains and measures."""
    x, labels, held_out, truth = digits()
    judge = ClassJudge(x.numpy(), labels.numpy())
    if permuted:
        labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits"
        write_shards(path, [(x.numpy(), labels.numpy())], num_classes=10)
        task = flow_task(
            {"coupling": {"kind": "symmetric", "label": code}},
            model={"kind": "mlp", "label_dropout": 0.0},
            data={"kind": "shards", "path": str(path), "held_out": 100},
        )
    network = PlainNetwork(64 + task.parts.fields["label"], hidden=384, layers=3, seed=seed)
    with torch.enable_grad():
        trained = train(task, rows(x, labels), network, steps=STEPS, batch=BATCH, lr=LR, seed=seed, ema=0.99)
    assert isinstance(trained, PlainNetwork)
    wanted = torch.arange(DRAWN) % 10
    keys = keys_of(torch.arange(DRAWN), "start", seed=seed)
    begun = task.coupling.start((64 + task.parts.fields["label"],), Condition(wanted), keys)
    drawn = task.parts.data_of(follow(task, trained, begun, 25).final)
    shares = [(read(task, trained, held_out, noises, seed) == truth).float().mean().item() for noises in (1, NOISES)]
    return dict(zip(FIGURES, (*shares, judge.accuracy(drawn.numpy(), wanted.numpy())), strict=True))


def rival() -> dict[str, float]:
    """A logistic regression on the pixels of the training images."""
    x, labels, held_out, truth = digits()
    share = ClassJudge(x.numpy(), labels.numpy()).accuracy(held_out.numpy(), truth.numpy())
    return dict.fromkeys(FIGURES, share)


def main() -> int:
    """Trains, measures and prints; 0 if every bar is met, otherwise 1."""
    parser = seeds_parser(__doc__)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    found = {name: [run(code, seed) for seed in seeds] for name, code in CODES.items()}
    found["one-hot, permuted labels"] = [run(CODES["one-hot"], seed, permuted=True) for seed in seeds]
    found["logistic regression"] = [rival()]
    table = {name: {figure: [one[figure] for one in ones] for figure in FIGURES} for name, ones in found.items()}
    limits = {"one-hot": (0.95, 0.75), "scalar": (0.88, 0.60)}
    bars = [
        Bar(f"{name}: {figure}", fmean(table[name][figure]), limit, at_least=True)
        for name, of_name in limits.items()
        for figure, limit in zip((FIGURES[1], FIGURES[2]), of_name, strict=True)
    ]
    permuted = fmean(table["one-hot, permuted labels"][FIGURES[1]])
    bars.append(Bar("one-hot, permuted labels: read, 8 noises", permuted, 0.2))
    return show("digits, 64 pixels", table, bars)


if __name__ == "__main__":
    raise SystemExit(main())
