"""Source points that are drawn by the threads that read, and what they are a function of."""

import torch
from torch import Tensor

import trainer.data
from tests.forked import ROOT
from trainer import load_config
from trainer.config.run import RunConfig
from trainer.data import Batch, Loader
from trainer.data.loader import DataLoadingConfig
from trainer.task.flow import FlowTask
from trainer.training.generators import micro_batch_generator
from trainer.training.shares import reading_ahead

SEED = 7


def configuration(*overrides: str) -> RunConfig:
    return load_config(ROOT / "configs" / "runs" / "digits_moe.yaml", ["moe=null", "parallel.expert=1", *overrides])


def batches(config: RunConfig, rank: int, num_ranks: int, loading: DataLoadingConfig, steps: int) -> list[Batch]:
    """Every micro batch of the first steps of a rank."""
    dataset = trainer.data.build(config.data)
    loader = Loader(dataset, global_batch=16, micro_batch=4, rank=rank, world_size=num_ranks, seed=SEED)
    reader = reading_ahead(FlowTask(config), loader, loading, seed=SEED, device=torch.device("cpu"))
    return [reader.batch(step, local) for step in range(steps) for local in range(loader.accumulation)]


def sources(found: list[Batch]) -> Tensor:
    return torch.stack([batch.x_0 for batch in found if batch.x_0 is not None])


def test_source_points_depend_on_their_place_alone() -> None:
    config = configuration()
    one = batches(config, 0, 1, DataLoadingConfig(prefetch=0), steps=3)
    threads = batches(config, 0, 1, DataLoadingConfig(prefetch=5, workers=3), steps=3)
    shared = [batches(config, rank, 2, DataLoadingConfig(), steps=3) for rank in range(2)]
    assert torch.equal(sources(one), sources(threads))
    by_step = sources(one).unflatten(0, (3, 4))
    assert torch.equal(by_step[:, :2].flatten(0, 1), sources(shared[0]))
    assert torch.equal(by_step[:, 2:].flatten(0, 1), sources(shared[1]))
    of_place = micro_batch_generator(SEED, "train source", 2, 1)
    assert torch.equal(sources(one)[5], torch.randn(4, 1, 8, 8, generator=of_place))


def test_other_source_points_are_left_to_whom_they_belong() -> None:
    x_1 = torch.zeros(4, 1, 8, 8)
    read = Batch(x_1, None, torch.arange(4))
    assert FlowTask(configuration("flow.coupling={kind: knn}")).source(read, torch.Generator()) is None
    paired = Batch(x_1, None, torch.arange(4), x_0=x_1)
    assert FlowTask(configuration()).source(paired, torch.Generator()) is None
