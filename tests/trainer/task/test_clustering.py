"""Clustering as a task: what a step learns, what is remembered, and pictures and figures of a small run."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.data import Batch
from trainer.model.build import build_model
from trainer.model.network import GivesFeatures, Network
from trainer.observe.measurement import MeasurementSpec
from trainer.task.clustering import ClusteringTask, DrawnViews
from trainer.training.task import TrainedNetworks


def config(**task: Any) -> RunConfig:
    labels = task.pop("labels", {"neighbours": 4})
    document = {
        "run": {"dir": "unused"},
        "model": {"kind": "prototypes", "hidden": 16, "num_layers": 1, "clusters": 5},
        "task": {"labels": labels, **task},
        "optim": {"steps": 10, "global_batch": 12},
    }
    return RunConfig.model_validate(document)


def network(run: RunConfig) -> Network:
    return build_model(run, plan_layout(run, 1)).eval()


def batch(num: int = 12, seed: int = 0) -> Batch:
    return Batch(torch.randn(num, 1, 8, 8, generator=torch.Generator().manual_seed(seed)), None, torch.arange(num))


def drawn(task: ClusteringTask, *seeds: int) -> list[DrawnViews]:
    batches, generators = zip(*((batch(seed=seed), torch.Generator().manual_seed(seed)) for seed in seeds), strict=True)
    return list(task.draw(batches, generators))


def test_each_view_learns_the_label_of_the_other() -> None:
    run = config(labels={"kind": "uniform", "iterations": 500})
    task, model = ClusteringTask(run), network(run)
    views = drawn(task, 0)
    (collected,) = task.collect(views, TrainedNetworks(model))
    assert collected.labels is not None
    first, second = collected.labels.unflatten(0, (2, -1))
    logits = model(collected.views)[0].unflatten(0, (2, -1))
    again = ClusteringTask(run)
    swapped = collected.views.unflatten(0, (2, -1)).flip(0).flatten(0, 1)
    (other,) = again.collect([views[0]._replace(views=swapped)], TrainedNetworks(model))
    assert other.labels is not None
    torch.testing.assert_close(other.labels.unflatten(0, (2, -1)), torch.stack([second, first]))
    expected = -(first * logits[0].log_softmax(-1) + second * logits[1].log_softmax(-1)).sum(-1) / 2
    torch.testing.assert_close(task.loss(model, collected).per_example, expected)


def test_a_plan_labels_the_examples_of_all_micro_batches_together() -> None:
    run = config(labels={"kind": "uniform", "iterations": 500})
    model = network(run)
    collected = ClusteringTask(run).collect(drawn(ClusteringTask(run), 0, 1), TrainedNetworks(model))
    labels = torch.cat([cast(Tensor, one.labels).unflatten(0, (2, -1)) for one in collected], dim=1)
    torch.testing.assert_close(labels.sum(1), torch.full((2, 5), 24 / 5), rtol=1e-3, atol=1e-3)


def test_progress_potentials_and_memory_are_what_the_task_knows() -> None:
    run = config(memory=2)
    task, model = ClusteringTask(run), network(run)
    masses = []
    for seed in range(4):
        (one,) = task.collect(drawn(task, seed), TrainedNetworks(model))
        assert one.figures is not None
        assert one.labels is not None
        assert one.labels.shape == (24, 5)
        masses.append(float(one.figures["plan_mass"]))
    settings = run.task.labels  # pyright: ignore[reportAttributeAccessIssue]
    assert masses == pytest.approx([settings.mass(taken / 10) for taken in range(4)])
    state = task.state()
    assert state["taken"] == 4
    assert [tuple(one.shape) for one in state["memory"]] == [(2, 24, 5), (2, 24, 16)]
    resumed = ClusteringTask(run)
    resumed.load(state)
    after = [one.collect(drawn(task, 9), TrainedNetworks(model))[0].labels for one in (task, resumed)]
    assert torch.equal(cast(Tensor, after[0]), cast(Tensor, after[1]))


def test_the_network_gives_features_of_length_one() -> None:
    model = network(config())
    assert isinstance(model, GivesFeatures)
    features = model.features(batch().x_1)
    assert features.shape == (12, 16)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(12))


def test_clusters_are_measured_beside_classes() -> None:
    run = config()
    found = ClusteringTask(run).measure(TrainedNetworks(network(run)), MeasurementSpec((1,)), lambda _: None)
    assert [*found.splits] == ["training", "held out"]
    assert found.names == tuple("0123456789")
    assert "sizes" in found.page(Path("runs/a"), None).lower()
