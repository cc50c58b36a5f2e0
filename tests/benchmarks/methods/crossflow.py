"""Paths from captions to images, without noise between: python -m tests.benchmarks.methods.crossflow

A perceptron of 3 x 384 learns vectors of the pixels of an image from its caption: 40 values, the class as one of ten
and the six leading principal coordinates of the image, each as one of five fifths. 200 captions of held-out images are
drawn four times each, in 25 steps of Euler's method. "asked, w" is the share of what is drawn with guidance w that a
logistic regression on training images takes for the class of the caption; "deviation" that of a pixel over the drawings
of one caption, and "error" the squared error of their mean to the caption's own image, a mean over pixels, both at
guidance 1.

The rival is the same perceptron from standard normal noise, which reads the caption beside the state. "held-out images"
is what the regression says of real ones, and the deviation of real images of one class.

Source: Liu et al., "Flowing from Words to Pixels", arXiv 2412.15213 (CrossFlow).
"""

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from moe.seeds import fold_in
from tests.benchmarks.methods.bars import Bar, show
from tests.benchmarks.methods.by_seed import seeds_parser
from tests.benchmarks.methods.plain_loop import PlainNetwork, flow_task, follow, train
from trainer.config.model.encoded import EncoderConfig
from trainer.data import Batch, DigitsConfig, build, write_shards
from trainer.data.derived import TEXTS, VECTORS, CaptionsIndex
from trainer.data.idx import IdxConfig
from trainer.evaluation.quality import ClassJudge
from trainer.flow import Condition
from trainer.flow.coupling import Encoded
from trainer.flow.coupling.protocol import keyed_normals
from trainer.flow.question import Encode, FromSource, Question
from trainer.model.encoded import Likeness, SourceEncoder, answer
from trainer.task import FlowTask

FASHION = Path("/usr/share/datasets/fashion-mnist")
COORDINATES, FIFTHS, WIDTH = 6, 5, 40
HIDDEN, BATCH, LR, STEPS, LONG, FEW = 384, 128, 1e-3, 600, 2400, 1437
CAPTIONS, TIMES, EVALUATIONS = 200, 4, 25
JUDGED_BY = 6000
GUIDANCES = (1.0, 2.0, 4.0)
ENCODED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "variational, KL 1e-4": ({"divergence": 1e-4}, {}),
    "variational, KL 1e-2": ({"divergence": 1e-2}, {}),
    "variational, KL 1e-1": ({"divergence": 1e-1}, {}),
    "without contrast, KL 1e-4": ({"divergence": 1e-4, "contrastive": 0.0}, {}),
    "deterministic": ({}, {"deviation": 0.0}),
}
"""Settings of the objective and of the encoder."""
RIVAL, REAL = "noise, caption beside it", "held-out images"


class Examples(NamedTuple):
    """Images [N, P] with captions [N, W] and classes; those that are held out after those that are learned from."""

    x: Tensor
    captions: Tensor
    labels: Tensor
    held_out: int

    def rows(self, learned: int) -> "Examples":
        """The same with fewer images to learn from."""
        kept = torch.cat([torch.arange(learned), torch.arange(len(self.x) - self.held_out, len(self.x))])
        return Examples(self.x[kept], self.captions[kept], self.labels[kept], self.held_out)


def captioned(x: Tensor, labels: Tensor, held_out: int) -> Examples:
    """Images with captions of class and style; coordinates and fifths are those of the images that are learned from."""
    learned = x[: len(x) - held_out]
    centred = x - learned.mean(0)
    _, axes = torch.linalg.eigh(centred[: len(learned)].T.double() @ centred[: len(learned)].double())
    places = centred @ axes[:, -COORDINATES:].flip(1).float()
    edges = places[: len(learned)].quantile(torch.linspace(0, 1, FIFTHS + 1)[1:-1], dim=0)
    fifths = (places[:, None] > edges).sum(1)
    parts = [nn.functional.one_hot(labels, 10), *(nn.functional.one_hot(one, FIFTHS) for one in fifths.unbind(1))]
    captions = torch.cat(parts, dim=1).float()
    mean, std = captions.mean(0), captions.std(0, correction=0)
    return Examples(x, (captions - mean) / std, labels, held_out)


@cache
def examples(name: str) -> Examples:
    """Digits, or Fashion-MNIST."""
    settings = DigitsConfig()
    if name != "digits":
        settings = IdxConfig.model_validate(IdxConfig.resolved({"kind": "idx", "path": FASHION, "held_out": 1000}))
    data = build(settings)
    batches = [data.get(data.indices(split)) for split in ("train", "held_out")]
    labels = [batch.labels for batch in batches if batch.labels is not None]
    x = torch.cat([batch.x_1 for batch in batches]).flatten(1)
    return captioned(x, torch.cat(labels), len(batches[1].x_1))


def write_captions(folder: Path) -> None:
    """Writes the captions of the digits as encode-captions would, without a text encoder."""
    data, digits = examples("digits"), build(DigitsConfig())
    order = torch.cat([digits.indices("train"), digits.indices("held_out")]).argsort()
    vectors, labels = data.captions[order], data.labels[order].tolist()
    folder.mkdir(parents=True)
    np.save(folder / VECTORS, vectors.half().numpy())
    (folder / TEXTS).write_text("".join(f'"{label} and its style"\n' for label in labels))
    shift, scale = (0.0,) * WIDTH, (1.0,) * WIDTH
    known = {"encoder": "0" * 16, "texts": "0" * 16, "shift": shift, "scale": scale}
    CaptionsIndex(num_captions=len(vectors), width=WIDTH, **known).write(folder)


class Beside(PlainNetwork):
    """The perceptron that reads the caption beside the state, zeros for none."""

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return super().forward(x_t, t, replace(condition, context=condition.caption))


class Encoding(PlainNetwork):
    """The perceptron with an encoder of captions."""

    def __init__(self, values: int, encoder: EncoderConfig, **sizes: Any) -> None:
        super().__init__(values, **sizes)
        with torch.random.fork_rng():
            torch.manual_seed(sizes["seed"])
            self.encoder = SourceEncoder(encoder, caption_width=WIDTH, values=values)
            self.likeness = Likeness(encoder, values=values)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition, question: Question | None = None) -> Any:
        if isinstance(question, Encode | FromSource):
            return answer(self, super().forward, x_t, t, condition, question)
        return super().forward(x_t, t, condition)


def task_for(values: int, flow: dict[str, Any]) -> FlowTask:
    """Flow matching of vectors with captions."""
    captions = {"path": "unused", "width": WIDTH, "digest": "0" * 16}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors"
        write_shards(path, [(torch.zeros(4, values).numpy(), torch.arange(4).numpy())], num_classes=10)
        data = {"kind": "shards", "path": str(path), "held_out": 1}
        return flow_task({"captions": captions, **flow}, model={"kind": "mlp"}, data=data)


def trained(name: str, data: Examples, seed: int, steps: int) -> tuple[FlowTask, nn.Module]:
    """Trains an arm."""
    values, learned = data.x.shape[1], len(data.x) - data.held_out
    sizes: dict[str, Any] = {"hidden": HIDDEN, "layers": 3, "seed": seed}
    if name == RIVAL:
        task = task_for(values, {})
        network: nn.Module = Beside(values, num_classes=10, num_context_values=WIDTH, **sizes)
    else:
        objective, encoder = ENCODED[name]
        kinds = {"coupling": {"kind": "encoded"}, "objective": {"kind": "encoded_source", **objective}}
        task = task_for(values, kinds)
        network = Encoding(values, EncoderConfig(hidden=HIDDEN, **encoder), num_classes=1, **sizes)

    def draw(num: int, generator: torch.Generator) -> Batch:
        ids = torch.randint(learned, (num,), generator=generator)
        return Batch(x_1=data.x[ids], labels=data.labels[ids], ids=ids, captions=data.captions[ids])

    return task, train(task, draw, network, steps=steps, batch=BATCH, lr=LR, seed=seed, ema=0.99)


@torch.no_grad()
def drawn(task: FlowTask, network: nn.Module, data: Examples, guidance: float, seed: int) -> Tensor:
    """Images [TIMES, CAPTIONS, P] of captions of held-out images."""
    own = slice(len(data.x) - data.held_out, len(data.x) - data.held_out + CAPTIONS)
    found = []
    for time in range(TIMES):
        keys = fold_in(torch.tensor(seed), time * CAPTIONS + torch.arange(CAPTIONS))
        condition = task.parts.of_any_caption(Condition(data.labels[own], caption=data.captions[own]))
        x_0 = keyed_normals(data.x.shape[1:], keys)
        if isinstance(task.coupling, Encoded):
            x_0 = task.coupling.encode(network, x_0, condition)
        found.append(follow(task, network, x_0, EVALUATIONS, condition=condition, guidance=guidance).final)
    return torch.stack(found)


def measured(name: str, data: Examples, judge: ClassJudge, seed: int, steps: int) -> dict[str, float]:
    """Trains an arm and measures it."""
    own = slice(len(data.x) - data.held_out, len(data.x) - data.held_out + CAPTIONS)
    task, network = trained(name, data, seed, steps)
    labels, figures = data.labels[own].repeat(TIMES).numpy(), {}
    for guidance in GUIDANCES:
        images = drawn(task, network, data, guidance, seed)
        figures[f"asked, {guidance:g}"] = judge.accuracy(images.flatten(0, 1).numpy(), labels)
        if guidance == 1:
            figures["deviation"] = float(images.std(0).mean())
            figures["error"] = float((images.mean(0) - data.x[own]).square().mean())
    return figures


def judge_of(data: Examples) -> tuple[ClassJudge, dict[str, float]]:
    """A logistic regression on training images, and what it says of real ones."""
    learned = min(len(data.x) - data.held_out, JUDGED_BY)
    judge = ClassJudge(data.x[:learned].numpy(), data.labels[:learned].numpy())
    x, labels = data.x[-data.held_out :], data.labels[-data.held_out :]
    within = fmean(float(x[labels == one].std(0).mean()) for one in range(10))
    return judge, {"asked, 1": judge.accuracy(x.numpy(), labels.numpy()), "deviation": within}


def bars_of(name: str, found: dict[str, list[dict[str, float]]], real: dict[str, float]) -> list[Bar]:
    """What has to be shown; means over seeds."""

    def mean(arm: str, figure: str) -> float:
        return fmean(one[figure] for one in found[arm])

    least, most, fixed = "variational, KL 1e-4", "variational, KL 1e-2", "deterministic"
    ratio = mean(most, "deviation") / real["deviation"]
    return [
        Bar(f"{name}, {least}: asked", mean(least, "asked, 1"), mean(fixed, "asked, 1") + 0.10, at_least=True),
        Bar(f"{name}, {most}: asked, guidance 2", mean(most, "asked, 2"), mean(most, "asked, 1") + 0.05, at_least=True),
        Bar(f"{name}, {most}: deviation by that of the data", ratio, 0.5, at_least=True),
        Bar(f"{name}, {most}: deviation by that of the data", ratio, 2.0),
        Bar(f"{name}, {fixed}: deviation", mean(fixed, "deviation"), 0.0),
    ]


def main() -> int:
    """Trains, measures and prints; 0 if every bar is met, otherwise 1."""
    parser = seeds_parser(__doc__)
    parser.add_argument("--data", choices=["digits", "fashion"], nargs="+", default=["digits", "fashion"])
    parser.add_argument("--captions", type=Path, help="write the captions of the digits to this folder, and end")
    asked = parser.parse_args()
    if asked.captions is not None:
        write_captions(asked.captions)
        return 0
    torch.set_num_threads(1)
    failed = 0
    for name in asked.data:
        data = examples(name)
        judge, real = judge_of(data)
        found = {arm: [measured(arm, data, judge, seed, STEPS) for seed in asked.seeds] for arm in (RIVAL, *ENCODED)}
        bars = bars_of(name, found, real)
        few = data if name == "digits" else data.rows(FEW)
        steps, told = (LONG, f"{LONG:,} steps") if name == "digits" else (STEPS, f"{FEW:,} examples")
        for arm in (RIVAL, "variational, KL 1e-4"):
            found[f"{arm}, {told}"] = [measured(arm, few, judge, seed, steps) for seed in asked.seeds]
        found[REAL] = [real]
        table = {arm: {figure: [one[figure] for one in ones] for figure in ones[0]} for arm, ones in found.items()}
        failed |= show(f"{name}, {len(data.x) - data.held_out:,} examples, {STEPS:,} steps", table, bars)
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
