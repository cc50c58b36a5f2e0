"""One network that draws, segments and classifies Fashion-MNIST: python -m tests.benchmarks.methods.symmflow_pictures

A state holds an image of 28 x 28, its mask (pixels brighter than 0.2 of the range) and ten planes of its class. A
diffusion transformer learns 6,000 images, 2,000 others are read, in one evaluation each, with one noise and with eight.
"classifier" is the same transformer on the image alone, whose label planes at t = 1, averaged over the pixels, are
logits of a cross-entropy: the same steps, batches, examples and rate. Logistic regression sees the same pixels. "mask"
is the intersection over union; these masks are a threshold of the brightness, so the threshold's own is 1. "drawn" is
the share of 500 images, drawn in 25 steps of Euler's method from a held-out image's mask and class, that the logistic
regression takes for that class.

The images are those of Debian's dataset-fashion-mnist (apt install dataset-fashion-mnist); --path names another folder.
Source: "Symmetrical Flow Matching", arXiv 2506.10634.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from moe.seeds import fold_in
from tests.benchmarks.methods.bars import Bar, show
from tests.benchmarks.methods.by_seed import seeds_parser
from tests.benchmarks.methods.plain_loop import flow_task, follow, train
from trainer.config.rules.plan import plan_layout
from trainer.data import Batch, build, write_shards
from trainer.data.idx import IdxConfig
from trainer.data.shard.writer import Examples
from trainer.evaluation.quality import ClassJudge
from trainer.flow import Condition
from trainer.flow.coupling import Symmetric
from trainer.flow.coupling.protocol import keyed_normals
from trainer.flow.objective.protocol import LossTerms
from trainer.model.build import build_model
from trainer.sampling.flow import keys_of
from trainer.task import FlowTask

FASHION = Path("/usr/share/datasets/fashion-mnist")
LEARNED, HELD_OUT, DRAWN, NOISES, BRIGHT = 6000, 2000, 500, 8, 0.2
STEPS, BATCH, LR = 1500, 64, 1e-3
MODEL = {"kind": "dit", "patch_size": 4, "hidden": 96, "num_layers": 3, "num_heads": 4, "label_dropout": 0.0}
READ, MASKS, DRAWS = "class, 1 noise", "mask, 1 noise", "drawn"
READ_8, MASKS_8 = f"class, {NOISES} noises", f"mask, {NOISES} noises"


def fashion(path: Path) -> tuple[Batch, Batch]:
    """Training and held-out images, each with its mask [N, 1, 28, 28] of -1 and 1 as context."""
    document = {"kind": "idx", "path": str(path), "num_examples": LEARNED, "held_out": HELD_OUT}
    data = build(IdxConfig.model_validate(IdxConfig.resolved(document)))
    parts = []
    for split in ("train", "held_out"):
        batch = data.get(data.indices(split))
        mask = (batch.x_1 > 2 * BRIGHT - 1).float() * 2 - 1
        parts.append(Batch(batch.x_1, batch.labels, batch.ids, context=mask))
    return parts[0], parts[1]


def some(batch: Batch, rows: Tensor) -> Batch:
    """Some examples."""
    assert batch.labels is not None
    assert batch.context is not None
    return Batch(batch.x_1[rows], batch.labels[rows], rows, context=batch.context[rows])


@dataclass(frozen=True)
class Pictures:
    """Images and their classes, as a task hands them from drawing to its loss."""

    images: Tensor
    labels: Tensor
    log_weight: None = None


class Classifier(FlowTask):
    """The same network as a classifier."""

    def draw(self, batches: Sequence[Batch], generators: Sequence[torch.Generator]) -> list[Any]:
        """The images as they are."""
        del generators
        return [Pictures(batch.x_1, batch.labels) for batch in batches if batch.labels is not None]

    def loss(self, model: Any, drawn: Any) -> LossTerms:
        """Cross-entropies [B]."""
        values = nn.functional.cross_entropy(self.logits(model, drawn.images), drawn.labels, reduction="none")
        return LossTerms(values, {})

    def logits(self, model: nn.Module, images: Tensor) -> Tensor:
        """Means [B, 10] of the label planes at t = 1 of a state whose other channels are 0."""
        beside = images.new_zeros(len(images), self.config.state_shape[0] - 1, *images.shape[2:])
        planes = model(torch.cat([images, beside], dim=1), torch.ones(len(images)), Condition())
        return planes[:, -10:].flatten(2).mean(2)


def task_of(learned: Batch, seed: int) -> FlowTask:
    """Symmetric flow matching of images, masks and classes."""
    assert learned.labels is not None
    assert learned.context is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fashion"
        few = Examples(learned.x_1[:200].numpy(), learned.labels[:200].numpy(), learned.context[:200].numpy())
        write_shards(path, [few], num_classes=10)
        return flow_task(
            {"coupling": {"kind": "symmetric", "label": {"kind": "channels", "classes": {"kind": "one_hot"}}}},
            model=MODEL,
            data={"kind": "shards", "path": str(path), "held_out": 100},
            run={"dir": "unused", "seed": seed},
            sample={"guidance": 1.0},
        )


@torch.no_grad()
def read(task: FlowTask, network: nn.Module, images: Tensor, noises: int, seed: int) -> Tensor:
    """Mean fields [B, 11, 28, 28] of some noises, by one evaluation at t = 1 each."""
    planes, fields, coupling = task.parts.fields["label"], [], task.coupling
    assert isinstance(coupling, Symmetric)
    for rows in torch.arange(len(images)).split(250):
        keys, x = keys_of(rows, "reading", seed=seed), images[rows]
        codes = []
        for number in range(noises):
            noise = coupling.field().fill(keyed_normals((planes, *x.shape[2:]), fold_in(keys, number)))
            velocity = network(torch.cat([x, noise], dim=1), torch.ones(len(x)), Condition())
            codes.append(noise - velocity[:, -planes:])
        fields.append(torch.stack(codes).mean(0))
    return torch.cat(fields)


def overlap(masks: Tensor, truth: Tensor) -> float:
    """Intersection over union of what is above 0."""
    return float(((masks > 0) & (truth > 0)).sum() / ((masks > 0) | (truth > 0)).sum())


def run(learned: Batch, held_out: Batch, seed: int) -> dict[str, dict[str, float]]:
    """Trains both networks and measures them."""
    assert held_out.labels is not None
    assert held_out.context is not None
    task = task_of(learned, seed)
    layout = plan_layout(task.config, 1)

    def data(num: int, generator: torch.Generator) -> Batch:
        return some(learned, torch.randint(len(learned.x_1), (num,), generator=generator))

    settings: dict[str, Any] = {"steps": STEPS, "batch": BATCH, "lr": LR, "seed": seed, "ema": 0.99, "clip_norm": 1.0}
    network = train(task, data, build_model(task.config, layout), **settings)
    classifier = Classifier(task.config)
    rival = train(classifier, data, build_model(task.config, layout), **settings)
    figures = {}
    for noises, of_class, of_mask in ((1, READ, MASKS), (NOISES, READ_8, MASKS_8)):
        fields = read(task, network, held_out.x_1, noises, seed)
        coupling = task.coupling
        assert isinstance(coupling, Symmetric)
        classes = coupling.field().decode(fields, 10)
        assert classes is not None
        figures[of_class] = float((classes == held_out.labels).float().mean())
        figures[of_mask] = overlap(fields[:, :1], held_out.context)
    assert learned.labels is not None
    judge = ClassJudge(learned.x_1.flatten(1).numpy(), learned.labels.numpy())
    wanted = some(held_out, torch.arange(DRAWN))
    with torch.no_grad():
        keys = keys_of(torch.arange(DRAWN), "start", seed=seed)
        begun = task.coupling.start(task.config.state_shape, Condition(wanted.labels, wanted.context), keys)
        ends = torch.cat([follow(task, network, part, 25).final for part in begun.split(250)])
        drawn = task.parts.data_of(ends)
        named = torch.cat([classifier.logits(rival, x) for x in held_out.x_1.split(250)]).argmax(1)
    assert wanted.labels is not None
    figures[DRAWS] = judge.accuracy(drawn.flatten(1).numpy(), wanted.labels.numpy())
    share = judge.accuracy(held_out.x_1.flatten(1).numpy(), held_out.labels.numpy())
    accuracy = float((named == held_out.labels).float().mean())
    return {
        "symmetric flow": figures,
        "classifier, the same transformer": {READ: accuracy, READ_8: accuracy},
        "logistic regression": {READ: share, READ_8: share, DRAWS: share},
        "threshold on the brightness": {MASKS: 1.0, MASKS_8: 1.0},
    }


def main() -> int:
    """Trains, measures and prints; 0 if every bar is met, otherwise 1."""
    parser = seeds_parser(__doc__)
    parser.add_argument("--path", type=Path, default=FASHION, help="folder with the files of Fashion-MNIST")
    request = parser.parse_args()
    torch.set_num_threads(1)
    learned, held_out = fashion(request.path)
    found = []
    for seed in request.seeds:
        begun = time.perf_counter()
        found.append(run(learned, held_out, seed))
        print(f"seed {seed}: {time.perf_counter() - begun:.0f} s", flush=True)
    table = {name: {figure: [one[name][figure] for one in found] for figure in found[0][name]} for name in found[0]}
    symmetric, rival = table["symmetric flow"], table["classifier, the same transformer"]
    behind = fmean(rival[READ_8]) - fmean(symmetric[READ_8])
    bars = [
        Bar(f"intersection over union, {NOISES} noises", fmean(symmetric[MASKS_8]), 0.85, at_least=True),
        Bar("classes: classifier ahead of the flow", behind, 0.05),
    ]
    return show("Fashion-MNIST, 28 x 28", table, bars)


if __name__ == "__main__":
    raise SystemExit(main())
