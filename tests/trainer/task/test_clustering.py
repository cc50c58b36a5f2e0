"""Clustering as a task: what a step learns, what is remembered, and pictures and figures of a small run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

import trainer.data
from tests.ranks import run_ranks
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.data import Batch
from trainer.model.build import build_model
from trainer.model.network import GivesFeatures, Network
from trainer.model.representation import Prototypes
from trainer.observe.measurement import MeasurementSpec
from trainer.task.clustering import ClusteringTask, DrawnViews, k_means_prototypes
from trainer.training.task import TrainedNetworks


def config(begin: str = "drawn", **task: Any) -> RunConfig:
    labels = task.pop("labels", {"neighbours": 4})
    document = {
        "run": {"dir": "unused"},
        "model": {"kind": "prototypes", "hidden": 16, "num_layers": 1, "clusters": 5, "begin": begin},
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


def test_prototypes_begin_at_the_clusters_of_groups_far_apart() -> None:
    model = cast(Prototypes, network(config()))
    groups = torch.arange(60) % 5
    examples = 10 * torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))[groups]
    examples += torch.randn(examples.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        model.prototypes.weight.copy_(k_means_prototypes(model, examples, 0))
        found = model(examples)[0].argmax(1)
    of_group = [set(found[groups == group].tolist()) for group in range(5)]
    assert all(len(one) == 1 for one in of_group)
    assert set.union(*of_group) == set(range(5))


def first_weights(rank: int, world_size: int) -> Mapping[str, Tensor]:
    del rank, world_size
    run = config("k_means")
    return ClusteringTask(run).first_weights(trainer.data.build(run.data))


def test_all_ranks_begin_at_the_clusters_of_the_training_examples() -> None:
    run = config("k_means")
    dataset = trainer.data.build(run.data)
    examples = dataset.get(dataset.indices("train")).x_1
    expected = k_means_prototypes(cast(Prototypes, network(run)), examples, run.run.seed)
    for begun in run_ranks(first_weights, 2):
        assert begun.keys() == {"prototypes.weight"}
        assert torch.equal(begun["prototypes.weight"], expected)
    assert ClusteringTask(config()).first_weights(dataset) == {}
