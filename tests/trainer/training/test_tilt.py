"""What weights do to mean and variance: closed forms, permutations, numpy, and a run that tells."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tests.ranks import run_ranks
from trainer.flow import UNCONDITIONAL, coupling
from trainer.training.weighting import Tilt, tilt, tilt_cautions, tilt_figures, tilts_of


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def share(weight: torch.Tensor) -> float:
    return float(weight.sum() ** 2 / (len(weight) * weight.square().sum()))


def test_a_gaussian_whose_tails_fade_is_told_although_nearly_all_pairs_count() -> None:
    """N(0, I) times exp(-a |x|^2) is N(0, I / (1 + 2 a)), with a share of (sqrt(1 + 4 a) / (1 + 2 a))^d."""
    a, x = 0.0815, torch.randn(200_000, 4, generator=generator(0), dtype=torch.float64)
    weight = (-a * x.square().sum(1)).exp()
    found = tilt([x], [weight])
    assert share(weight) == pytest.approx(((1 + 4 * a) ** 0.5 / (1 + 2 * a)) ** 4, abs=2e-3)
    assert share(weight) > 0.95
    assert found.variance == pytest.approx(1 / (1 + 2 * a) - 1, abs=0.01)
    assert found.variance < -0.13
    assert found.mean < 0.02
    assert found.large


def test_a_far_mode_that_fades_is_told() -> None:
    """A tenth of the points 10 away, left with 1.9 % of the mass: moments of two points and a common variance."""
    far = torch.arange(20_000) % 10 == 0
    x = torch.randn(20_000, 2, generator=generator(0)) + far[:, None] * torch.tensor([10.0, 0.0])
    left, part = 0.019, 0.1
    weight = torch.where(far, left / part, (1 - left) / (1 - part))
    assert share(weight) > 0.89
    found = tilt([x], [weight])
    variance = 2 + part * (1 - part) * 100
    assert found.mean == pytest.approx((part - left) * 10 / variance**0.5, rel=0.02)
    assert found.variance == pytest.approx((2 + left * (1 - left) * 100) / variance - 1, rel=0.02)
    assert found.large


@pytest.mark.parametrize("cost", ["sqeuclidean"])
def test_gibbs_weights_tilt_as_their_gaussians_say(cost: Any) -> None:
    """x ~ N(0, 1), y ~ N(m, s^2), times exp(-(x - y)^2 / epsilon): a Gaussian of two dimensions."""
    m, s, epsilon, size = 1.5, 0.6, 4.0, 200_000
    x_0 = torch.randn(size, 1, generator=generator(0))
    x_1 = m + s * torch.randn(size, 1, generator=generator(1))
    built = coupling.GibbsWeighted(cost=cost, epsilon=epsilon)
    pairs = built.draw(x_1, UNCONDITIONAL, x_0=x_0, generator=generator(2))
    assert pairs.log_weight is not None
    weight = pairs.log_weight.softmax(0) * size
    precision = np.diag([1, 1 / s**2]) + 2 / epsilon * np.array([[1, -1], [-1, 1]])
    covariance = np.linalg.inv(precision)
    mean = covariance @ np.array([0, m / s**2])
    for points, place, center, deviation in ((pairs.x_0, 0, 0.0, 1.0), (pairs.x_1, 1, m, s)):
        found = tilt([points], [weight])
        assert found.mean == pytest.approx(abs(mean[place] - center) / deviation, abs=0.01)
        assert found.variance == pytest.approx(covariance[place, place] / deviation**2 - 1, abs=0.01)


@pytest.mark.parametrize(("size", "dim"), [(8, 2), (64, 1), (64, 300)])
def test_weights_that_know_nothing_of_the_points_are_chance(size: int, dim: int) -> None:
    """The same weights in random orders: their root mean square is foretold, and hardly ever called large."""
    x = torch.randn(size, dim, generator=generator(0)).exp()
    weight = torch.randn(size, generator=generator(1)).mul(0.8).exp()
    found = [tilt([x], [weight[torch.randperm(size, generator=generator(seed))]]) for seed in range(1000)]
    assert np.sqrt(np.mean([each.mean**2 for each in found])) == pytest.approx(found[0].chance_of_mean, rel=0.15)
    # The weighted mean's own distance makes the weighted variance smaller too, in small batches.
    spread = np.std([each.variance for each in found])
    assert spread == pytest.approx(found[0].chance_of_variance, rel=0.4)
    assert sum(each.large for each in found) <= 20


def test_equal_points_and_equal_weights_are_not_tilted() -> None:
    x = torch.randn(40, 3, generator=generator(0))
    for points, weight in ((x, torch.ones(40)), (torch.ones(40, 3), torch.rand(40, generator=generator(1)))):
        found = tilt([points], [weight])
        assert found.mean == pytest.approx(0, abs=1e-12)
        assert found.variance == pytest.approx(0, abs=1e-12)
        assert not found.large
    assert tilts_of([{}, {}], [None, None]) == {}
    assert tilt_figures({}) == {}
    assert tilt_cautions({}) == {}


def test_the_caution_names_what_is_tilted_in_one_line() -> None:
    lines = tilt_cautions({"source": Tilt(0.01, 0.0, 0.01, 0.01), "data": Tilt(0.27, -0.14, 0.02, 0.02)})
    assert lines.keys() == {"tilt"}
    text = lines["tilt"]
    assert "mean of the data by 0.27 of a standard deviation" in text
    assert "-14%" in text
    assert "\n" not in text
    assert not Tilt(0.27, -0.14, 0.1, 0.1).large


PIECES = 4


def piece(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(5, 2, 3, generator=generator(number)) + number
    return x, (-0.3 * x.flatten(1).square().sum(1)).exp()


def on_ranks(rank: int, world_size: int) -> Tilt:
    share = PIECES // world_size
    own = [piece(number) for number in range(rank * share, (rank + 1) * share)]
    found = tilts_of([{"data": x} for x, _ in own], [w for _, w in own], dist.group.WORLD)["data"]
    x, w = (torch.cat(parts).double().numpy() for parts in zip(*map(piece, range(PIECES)), strict=True))
    x = x.reshape(len(x), -1)
    mean, weighted = x.mean(0), np.average(x, axis=0, weights=w)
    variance = np.square(x - mean).sum(1).mean()
    assert found.mean == pytest.approx(np.linalg.norm(weighted - mean) / variance**0.5, rel=1e-6)
    expected = np.average(np.square(x - weighted).sum(1), weights=w) / variance - 1
    assert found.variance == pytest.approx(expected, rel=1e-6)
    return found


def test_a_batch_is_tilted_alike_on_any_number_of_ranks() -> None:
    (alone,) = run_ranks(on_ranks, 1)
    for found in run_ranks(on_ranks, 4):
        assert vars(found) == pytest.approx(vars(alone), rel=1e-9)


EPSILONS = (1.0, 1e6)


def test_a_run_tells_the_tilt_in_its_metrics_and_once_in_words(tmp_path: Path) -> None:
    for epsilon in EPSILONS:
        (tmp_path / f"{epsilon}").mkdir()
    for epsilon, said in run_ranks(train_both, 1, str(tmp_path))[0].items():
        lines = [json.loads(line) for line in (tmp_path / f"{epsilon}" / "metrics.jsonl").read_text().splitlines()]
        names = {f"{of}_{moment}_tilt" for of in ("data", "source") for moment in ("mean", "variance")}
        assert all(names <= line.keys() for line in lines if "loss" in line)
        assert said.count("the weights of the pairs move the mean") == (epsilon == 1.0)


def train_both(rank: int, world_size: int, folder: str) -> dict[float, str]:
    return {epsilon: train(rank, world_size, f"{folder}/{epsilon}", epsilon) for epsilon in EPSILONS}


def train(rank: int, world_size: int, folder: str, epsilon: float) -> str:
    """What the run says on stderr."""
    import trainer.data
    import trainer.task
    from trainer.config.rules.plan import plan_layout
    from trainer.config.run import RunConfig
    from trainer.distributed.groups import Launch, divide_ranks, unite_ranks
    from trainer.observe.metrics import MetricsFile
    from trainer.training.assembly import assembled
    from trainer.training.loop import train

    config = RunConfig.model_validate(
        {
            "run": {"dir": folder},
            "model": {"kind": "mlp", "hidden": 8, "num_layers": 1},
            "data": {"kind": "toy", "name": "swiss_roll"},
            "flow": {"coupling": {"kind": "gibbs_weighted", "cost": "sqeuclidean", "epsilon": epsilon}},
            "optim": {"steps": 3, "global_batch": 512, "micro_batch": 256},
            "observe": {"log_every": 1, "tensorboard": False},
            "evaluate": {"every": None},
        }
    )
    layout = plan_layout(config, world_size)
    divide_ranks(1, 1)
    launch = Launch(rank=rank, local_rank=rank, world_size=world_size, local_world_size=world_size)
    sink = MetricsFile(config.run.dir / "metrics.jsonl")
    with contextlib.redirect_stderr(io.StringIO()) as said:
        task, dataset = trainer.task.build(config), trainer.data.build(config.data)
        train(assembled(config, layout, launch, task, dataset, [sink], None))
    unite_ranks()
    return said.getvalue()
