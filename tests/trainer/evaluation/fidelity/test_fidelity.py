"""FID, precision and recall by blocks and on ranks: closed forms, scipy's matrix root and brute force as references."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from netsim.foundation.refusal import Refusal
from tests.each import each
from tests.ranks import run_ranks
from trainer.evaluation.fidelity.gaussian import Gaussian, gaussian_distance
from trainer.evaluation.fidelity.precision_recall import NEIGHBOURS, precision_recall
from trainer.evaluation.fidelity.sets import FeatureSet, blocks_of, features_of
from trainer.evaluation.fidelity.statistics_file import Statistics
from trainer.model.feature_extractor.extractor import Description, Extractor
from trainer.model.feature_extractor.layers import describe_layers

NUM, SIZE, WIDTH = 230, 16, 12


class Points:
    """Points of a Gaussian with correlated coordinates, by their numbers."""

    def __init__(self, num: int, seed: int, shift: float = 0.0, *, together: bool = False) -> None:
        self.num, self.together = num, together
        generator = torch.Generator().manual_seed(seed)
        self.points = torch.randn(num, WIDTH, generator=generator) @ torch.randn(WIDTH, WIDTH, generator=generator)
        self.points += shift

    def read(self, numbers: Tensor) -> list[Tensor]:
        return list(self.points[numbers].split([len(numbers) // 2, len(numbers) - len(numbers) // 2]))


def network() -> Extractor:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(WIDTH, 64), nn.Tanh(), nn.Linear(64, WIDTH)).eval()
    description = Description.model_validate({"shape": (WIDTH,), "layers": describe_layers(layers)})
    return Extractor(layers, description, torch.device("cpu"))


def read_set(rank: int, world_size: int, num: int, seed: int, kept: int = 100) -> FeatureSet:  # noqa: ARG001
    group = dist.group.WORLD if world_size > 1 else None
    return features_of(Points(num, seed, together=seed == 2), network(), WIDTH, size=SIZE, kept=kept, group=group)


def by_brute_force(real: NDArray[np.float64], samples: NDArray[np.float64], k: int) -> tuple[float, float]:
    """The definition: is a point nearer to some point of the other set than that one's k-th nearest neighbour?"""

    def share(points: NDArray[np.float64], asked: NDArray[np.float64]) -> float:
        radii = np.sort(cdist(points, points), axis=1)[:, k]
        return float((cdist(asked, points) <= radii).any(1).mean())

    return share(real, samples), share(samples, real)


def test_moments_are_numpys_and_do_not_depend_on_blocks() -> None:
    source, extractor = Points(NUM, 0), network()
    features = extractor.features(source.points).astype(np.float64)
    found = features_of(source, extractor, WIDTH, size=SIZE, kept=100)
    assert found.num == NUM
    np.testing.assert_allclose(found.gaussian.mean, features.mean(0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found.gaussian.covariance, np.cov(features, rowvar=False), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.in_order(None), features[:100], rtol=1e-5, atol=1e-6)
    seen = torch.cat([block.examples[: block.wanted] for block in blocks_of(NUM, SIZE)])
    assert seen.tolist() == list(range(NUM))


def of_ranks(rank: int, world_size: int) -> tuple[Any, Any, Any, tuple[float, ...]]:
    real, samples = (read_set(rank, world_size, num, seed) for num, seed in ((NUM, 1), (190, 2)))
    group = dist.group.WORLD if world_size > 1 else None
    both = real.in_order(group), gaussian_distance(real.gaussian, samples.gaussian)
    found = precision_recall(real.kept, samples.kept, group=group)
    return real.gaussian.mean, samples.gaussian.covariance, both, tuple(found)


def test_two_ranks_find_what_one_finds_to_the_last_bit() -> None:
    mean, covariance, (kept, distance), figures = of_ranks(0, 1)
    for of_rank in run_ranks(of_ranks, 2):
        np.testing.assert_array_equal(of_rank[0], mean)
        np.testing.assert_array_equal(of_rank[1], covariance)
        np.testing.assert_array_equal(of_rank[2][0], kept)
        assert of_rank[2][1] == distance
        assert of_rank[3] == figures


def test_the_distance_of_gaussians_is_the_closed_form_and_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    spreads = rng.uniform(0.1, 2, (2, WIDTH))
    x, y = (Gaussian(rng.normal(size=WIDTH), np.diag(spread**2)) for spread in spreads)
    expected = np.square(x.mean - y.mean).sum() + np.square(spreads[0] - spreads[1]).sum()
    assert gaussian_distance(x, y) == pytest.approx(expected, rel=1e-12)
    one, two = (Gaussian.of(rng.standard_normal((60, WIDTH)) @ rng.standard_normal((WIDTH, WIDTH))) for _ in "12")
    root = np.real(sqrtm(one.covariance @ two.covariance))
    trace = np.trace(one.covariance + two.covariance - 2 * root)
    assert gaussian_distance(one, two) == pytest.approx(np.square(one.mean - two.mean).sum() + trace, rel=1e-9)


def test_fewer_examples_than_features_make_no_trouble() -> None:
    """Covariances without full rank, for which the field adds a multiple of the identity."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((5, 40)), rng.standard_normal((7, 40))
    found = gaussian_distance(Gaussian.of(x), Gaussian.of(y))
    covariances = [np.cov(points, rowvar=False) + 1e-10 * np.eye(40) for points in (x, y)]
    trace = np.trace(sum(covariances) - 2 * np.real(sqrtm(covariances[0] @ covariances[1])))
    assert found == pytest.approx(np.square(x.mean(0) - y.mean(0)).sum() + trace, rel=1e-4)
    assert gaussian_distance(Gaussian.of(x), Gaussian.of(x)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_precision_and_recall_are_those_of_brute_force(neighbours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.evaluation.fidelity.precision_recall.QUERIES", 32)
    monkeypatch.setattr("trainer.evaluation.fidelity.precision_recall.POINTS", 50)
    rng = np.random.default_rng(neighbours)
    real, samples = rng.standard_normal((130, 3)), 0.7 * rng.standard_normal((90, 3)) + 0.4
    found = precision_recall(torch.from_numpy(real), torch.from_numpy(samples), neighbours=neighbours)
    assert tuple(found) == by_brute_force(real, samples, neighbours)
    assert 0 < found.recall < found.precision <= 1


def test_precision_and_recall_of_equal_and_of_distant_sets() -> None:
    points = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    assert precision_recall(points, points) == (1.0, 1.0)
    assert precision_recall(points, points + 1000) == (0.0, 0.0)
    narrow = points[:1] + 1e-3 * torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    found = precision_recall(points, narrow)
    assert (found.precision, found.recall) == (1.0, 1 / 40), "all samples in one place: real, and without variety"
    copies = 1e3 + torch.rand(3).repeat(10, 1) / 3
    assert precision_recall(copies, copies) == (1.0, 1.0), "balls without a radius hold their own points"


def test_sets_without_enough_neighbours_are_refused() -> None:
    few, many = torch.zeros(NEIGHBOURS, 2), torch.zeros(9, 2)
    with pytest.raises(ValueError, match=r"^samples: 3 have no 3 neighbours; give 4 or more$"):
        precision_recall(many, few)
    with pytest.raises(ValueError, match=r"^neighbours: 0 "):
        precision_recall(many, many, neighbours=0)


def statistics(**changes: object) -> Statistics:
    rng = np.random.default_rng(0)
    values = {
        "gaussian": Gaussian.of(rng.standard_normal((9, 4))),
        "num": 9,
        "features": rng.standard_normal((5, 4)).astype(np.float32),
        "data": "of these",
        "extractor": "of this",
    }
    return Statistics(**(values | changes))  # pyright: ignore[reportArgumentType]


TOLD: dict[str, Any] = {"num_features": 4, "extractor": "of this"}
MADE_OF: dict[str, Any] = {"data": "of these", "num": 9}


def test_statistics_are_read_as_they_were_written(tmp_path: Path) -> None:
    path, written = tmp_path / "statistics.npz", statistics()
    written.write(path)
    found = Statistics.read(path, **TOLD)
    for one, other in ((found.gaussian.mean, written.gaussian.mean), (found.features, written.features)):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(found.gaussian.covariance, written.gaussian.covariance)
    assert (found.num, found.data, found.extractor) == (9, "of these", "of this")
    found.check_made_of(path, **MADE_OF)
    with np.load(path, allow_pickle=False) as arrays:  # as pytorch-fid reads them
        assert arrays["mu"].shape == (4,)
        assert arrays["sigma"].shape == (4, 4)


def test_published_statistics_have_a_mean_and_a_covariance_alone(tmp_path: Path) -> None:
    gaussian = statistics().gaussian
    np.savez(tmp_path / "published.npz", mu=gaussian.mean, sigma=gaussian.covariance, arr_0=np.zeros(3, np.uint8))
    found = Statistics.read(tmp_path / "published.npz", **TOLD)
    np.testing.assert_array_equal(found.gaussian.covariance, gaussian.covariance)
    assert (found.num, found.features, found.data) == (None, None, None)
    found.check_made_of(tmp_path / "published.npz", **MADE_OF)


def read_checked(path: Path, wanted: dict[str, Any]) -> None:
    found = Statistics.read(path, **{name: wanted[name] for name in TOLD})
    found.check_made_of(path, **{name: wanted[name] for name in MADE_OF})


@each(
    ("changes", "complaint"),
    [
        ({"extractor": "of another"}, "extractor: is another network's (of this); delete it"),
        ({"data": "of others"}, "data: are other real examples (of these); delete it"),
        ({"num": 8}, "num: is 9 where 8 real examples are meant; delete it"),
        ({"num_features": 5}, "mu: has shape (4,) but the network gives 5 features; give statistics of the same"),
    ],
)
def test_statistics_of_something_else_are_refused(changes: dict[str, object], complaint: str, tmp_path: Path) -> None:
    statistics().write(tmp_path / "file.npz")
    with pytest.raises(Refusal) as refusal:
        read_checked(tmp_path / "file.npz", TOLD | MADE_OF | changes)
    assert str(refusal.value).startswith(f"{tmp_path / 'file.npz'}: {complaint}")


@each(
    ("arrays", "complaint"),
    [
        ({"mu": np.zeros(4)}, "sigma: is missing"),
        ({"mu": np.zeros(4), "sigma": np.array([[object()]])}, "statistics: cannot be read (Object arrays cannot"),
        ({"mu": np.full(4, np.nan), "sigma": np.eye(4)}, "mu: contains values that are not finite"),
        ({"mu": np.zeros(4), "sigma": np.eye(4), "flowfabric": np.array("{}")}, "flowfabric."),
        ({"mu": np.zeros(4), "sigma": np.eye(4), "flowfabric": np.array("x")}, "flowfabric: is not JSON"),
    ],
)
def test_malformed_statistics_are_refused(arrays: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "file.npz", **arrays)
    with pytest.raises(Refusal) as refusal:
        Statistics.read(tmp_path / "file.npz", **TOLD)
    assert str(refusal.value).startswith(f"{tmp_path / 'file.npz'}: {complaint}")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04cut off"])
def test_a_file_that_is_no_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.npz").write_bytes(content)
    with pytest.raises(Refusal, match="statistics: cannot be read"):
        Statistics.read(tmp_path / "file.npz", **TOLD)
