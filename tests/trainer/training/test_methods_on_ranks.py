"""What methods draw and weigh, under each engine: two ranks train as one, a resumed run is the straight one."""

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.ranks import run_ranks
from tests.trainer.data.test_captions import written as captioned
from tests.trainer.data.test_pairs import written
from tests.trainer.training.on_ranks import Found, assert_resumed_bit_by_bit, straight_and_resumed
from trainer.config.file import resolve
from trainer.config.run import RunConfig
from trainer.data import Examples, write_shards

STEPS, SAVED = 5, 2
INTERPOLANT = {
    "path": {"kind": "stochastic_interpolant", "gamma": {"kind": "brownian", "factor": 2.0}},
    "target": {"kind": "velocity_and_noise"},
    "objective": {"kind": "regression", "antithetic": True},
}
SOURCE = {"source": {"name": "rings", "num_examples": 21, "held_out": 5}}
OWN_SOURCE = {"source": {"kind": "toy", **SOURCE["source"]}}
CHAIN: dict[str, Any] = {
    "kind": "causal_transition",
    "hidden": 16,
    "num_layers": 1,
    "head": {"hidden": 8},
    "dropout": 0.1,
}
FLOWS: dict[str, dict[str, Any]] = {
    "weights": {"coupling": {"kind": "gibbs_weighted", "epsilon": 1.0}},
    "assignment over ranks": {"coupling": {"kind": "assignment", "scope": "global_batch"}, **SOURCE},
    "weights of a plan over ranks": {
        "coupling": {"kind": "minibatch_ot", "solver": "unbalanced", "scope": "global_batch"}
    },
    "labels in states": {"coupling": {"kind": "symmetric", "label": {"kind": "one_hot"}}},
    "masks in states": {"coupling": {"kind": "symmetric", "label": {"kind": "channels"}}},
    "first frames": {"context": {"kind": "first_frame"}},
    "letters": {
        "path": {"kind": "gumbel_softmax"},
        "target": {"kind": "token"},
        "objective": {"kind": "cross_entropy"},
    },
    "captions": {"coupling": {"kind": "encoded"}},
    "reactions": {
        "coupling": {"kind": "ends"},
        "target": {"kind": "data"},
        "objective": {"kind": "regression", "spread": {"draws": 2}},
    },
    "clusters of a memory": {},
    "surfaces": {},
    "clusters": {},
    "pairs": {"coupling": {"kind": "paired"}},
    "chords": {"coupling": {"kind": "paired"}, "time": {"kind": "grid", "steps": 1}},
    "interpolant": {**INTERPOLANT, **SOURCE},
    "transitions": {"objective": {"kind": "transition", "draws": 2}},
    "last state of a chain": {"objective": {"kind": "causal_transition", "process": "independent", "draws": 2}},
    "all states of a chain": {"objective": {"kind": "causal_transition", "process": "linear"}, **OWN_SOURCE},
    "Monge map": {"objective": {"kind": "monge_map"}, **SOURCE},
    "regularised reflow": {"coupling": {"kind": "paired"}, "objective": {"monge_gap": {"weight": 0.5}}},
}
"""Each over data of which an epoch ends within a step."""
ENGINES: dict[str, dict[str, Any]] = {"ZeRO 2": {"zero_stage": 2}, "FSDP2": {"kind": "fsdp"}}


def config(folder: Path, name: str, engine: str, run: str) -> RunConfig:
    points: dict[str, Any] = {"kind": "toy", "num_examples": 17, "held_out": 5}
    sampler: dict[str, Any] = {"kind": "euler_maruyama" if name == "interpolant" else "euler", "steps": 2}
    if name == "Monge map":
        sampler = {"kind": "euler", "times": [0, 1]}
    if name == "labels in states":
        points = {**points, "classes": True}
    paired = FLOWS[name].get("coupling") == {"kind": "paired"}
    pairs = {"kind": "pairs", "path": folder / ("chords" if name == "chords" else "pairs"), "held_out": 5}
    model: dict[str, Any] = {"kind": "mlp", "hidden": 16, "num_layers": 1, "dropout": 0.1}
    if name == "labels in states":
        model = {**model, "label_dropout": 0.0}
    dit = {"kind": "dit", "patch_size": 1, "hidden": 16, "num_layers": 1, "num_heads": 2, "dropout": 0.1}
    flow, optim = FLOWS[name], {"steps": STEPS, "global_batch": 8, "micro_batch": 2, "lr": 1e-2, "ema_decay": 0.5}
    if name == "captions":  # told apart within micro batches, which are the same on any number of ranks
        model, optim = {**model, "kind": "encoded_mlp"}, {**optim, "global_batch": 32, "micro_batch": 8}
        flow = {**flow, "captions": {"path": folder / "captions"}}
        points = {"kind": "shards", "path": folder / "points", "held_out": 5}
    if name == "transitions":
        model, sampler = {**model, "kind": "transition_mlp"}, {"kind": "transition", "steps": 2}
    if name.endswith("of a chain"):
        model = {**CHAIN, "history": "last" if name.startswith("last") else "full"}
        sampler = {"kind": "causal_transition", "head": sampler}
    kind = "points"
    if name == "letters":
        kind, points = "sequences", {"kind": "sequences", "path": folder / "sequences.txt", "held_out": 5}
        model = dit
    masked = {"kind": "shards", "path": folder / "masked", "held_out": 5}
    if name == "masks in states":
        kind, points, model = "images", masked, {**dit, "label_dropout": 0.0}
    if name == "first frames":
        moving = {"kind": "moving_pictures", "pictures": masked, "pad": 1, "window": 3, "frames": 2, "clips": 1}
        kind, points, model = "clips", moving, dit
    if name == "reactions":  # of 165 that ship, so that an epoch ends within a step
        kind, points = "reactions", {"kind": "reactions", "held_out": 148}
        model = {"kind": "equivariant", "hidden": 8, "num_layers": 1}
    guidance = {"guidance": 1.0} if name == "masks in states" else {}
    drawn = {"per_class": 3} if kind == "images" else {"num": 6}
    document = {
        "run": {"dir": folder / run},
        "model": model,
        "data": pairs if paired else points,
        "flow": flow,
        "optim": optim,
        "engine": ENGINES[engine],
        "checkpoint": {"every": SAVED, "keep": 9},
        "observe": {"log_every": 1, "tensorboard": False},
        "evaluate": {"every": STEPS},
        "sample": {"kind": kind, "every": STEPS, "sampler": sampler, **drawn, **guidance},
    }
    if name == "surfaces":  # which no flow is learned from
        spheres = {"analytic": {"pairs": 7, "halvings": 1}, "eigenfunctions": 12, "waves": 20, "signatures": 8}
        document["data"] = {"kind": "surfaces", "held_out": 2, **spheres}
        document["model"] = {"kind": "descriptor_mlp", "hidden": 16, "num_layers": 1, "features": 8}
        document["task"] = {"kind": "correspondence", "sliced": 1.0, "slices": 5}
        document["sample"] = {"every": STEPS}
        del document["flow"]
    if name == "clusters of a memory":
        near = {"kind": "dynamic_clusters", "memory": 8, "clusters": 2, "neighbours": 2, "begin": 0}
        document["data"] = masked
        document["model"] = {"kind": "contrastive", "hidden": 16, "num_layers": 1, "features": 8, "projected": 32}
        document["task"] = {"kind": "contrastive", "positives": near}
        document["sample"] = {"every": STEPS}
        del document["flow"]
    if name == "clusters":
        document["data"] = masked
        document["model"] = {"kind": "prototypes", "hidden": 16, "num_layers": 1, "clusters": 3}
        document["task"] = {"kind": "clustering", "labels": {"neighbours": 3}, "memory": 1}
        document["sample"] = {"every": STEPS, "per_column": 3}
        del document["flow"]
    return RunConfig.model_validate(resolve(document).document)


def train_all(rank: int, world_size: int, folder: str) -> Found:
    """Every method under every engine, straight and then from a checkpoint of that run on."""
    found: Found = {}
    for name, engine in product(FLOWS, ENGINES):
        configured = partial(config, Path(folder), name, engine)
        found |= straight_and_resumed(rank, world_size, f"{name}, {engine}", configured, SAVED)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    written(folder / "pairs")
    captioned(folder / "captions", 22)
    write_shards(folder / "points", [(np.random.default_rng(0).normal(size=(22, 2)).astype(np.float32), None)])
    images, masks = np.random.default_rng(1).normal(size=(2, 22, 1, 4, 4)).astype(np.float32)
    write_shards(folder / "masked", [Examples(images, None, masks)])
    (folder / "sequences.txt").write_text("CAG\t9\nGAU\t8\nUUU\t5\n")
    written(folder / "chords", nodes=(0.0, 0.1, 0.45, 1.0))
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> Found:
    return run_ranks(train_all, 1, str(folder))[0]


@pytest.fixture(scope="module")
def divided(folder: Path) -> list[Found]:
    return run_ranks(train_all, 2, str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", FLOWS)
def test_two_ranks_train_as_one(alone: Found, divided: list[Found], name: str, engine: str) -> None:
    expected, weights = alone[f"{name}, {engine}"]
    assert len(expected) == STEPS
    assert "held_out_loss" in expected[-1]
    for rank in divided:
        figures, found = rank[f"{name}, {engine}"]
        for values, truth in zip(figures, expected, strict=True):
            assert values == pytest.approx(truth, rel=1e-5)
        for parameter, value in found.items():
            torch.testing.assert_close(value, weights[parameter], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", FLOWS)
def test_a_resumed_run_is_the_straight_one_bit_by_bit(
    divided: list[Found], folder: Path, name: str, engine: str
) -> None:
    assert_resumed_bit_by_bit(divided, folder, f"{name}, {engine}")
