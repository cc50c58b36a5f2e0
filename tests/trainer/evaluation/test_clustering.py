"""Clusters beside classes: figures against scikit-learn's, the table and the page."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, normalized_mutual_info_score
from torch import Tensor

from trainer.evaluation.clustering import OWN, ClusteringMeasurement, Judged, clustered, purity


def drawn(classes: int, clusters: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = random.choice(classes, 300, p=np.arange(1, classes + 1) / sum(range(classes + 1)))
    found = np.where(random.random(300) < 0.7, (truth + 2) % clusters, random.integers(0, clusters, 300))
    return truth, found


@pytest.mark.parametrize(("classes", "clusters"), [(4, 4), (3, 6), (6, 3)])
def test_figures_are_those_of_other_programmes(classes: int, clusters: int) -> None:
    truth, found = drawn(classes, clusters, 0)
    judged = Judged.of(found, truth, clusters, classes)
    assert judged.information == pytest.approx(normalized_mutual_info_score(truth, found))
    np.testing.assert_array_equal(judged.sizes[0], np.bincount(truth, minlength=classes))
    assert sorted(judged.sizes[1]) == sorted(np.bincount(found, minlength=max(clusters, classes)))
    if classes == clusters:
        place = {cluster: int(judged.confusion[:, cluster].argmax()) for cluster in range(clusters)}
        assert place == {cluster: cluster for cluster in range(clusters)}
        moved = (found - 2) % clusters
        assert judged.accuracy == pytest.approx((moved == truth).mean())
        assert judged.balanced == pytest.approx(balanced_accuracy_score(truth, moved))


def test_the_best_assignment_is_found_among_all() -> None:
    from itertools import permutations

    truth, found = drawn(4, 4, 1)
    best = max((np.array(order)[found] == truth).mean() for order in permutations(range(4)))
    assert Judged.of(found, truth, 4, 4).accuracy == pytest.approx(best)


def blobs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    return 10 * torch.eye(3, 5)[labels] + torch.randn(90, 5, generator=generator), labels


def test_neighbours_of_blobs_are_of_their_class_and_those_of_noise_are_not() -> None:
    points, labels = blobs()
    assert purity(points, labels) == pytest.approx(1, abs=0.01)
    assert purity(torch.randn(90, 5, generator=torch.Generator().manual_seed(1)), labels) < 0.5


def test_a_class_of_few_examples_has_no_more_neighbours_than_others() -> None:
    points, labels = blobs()
    few = torch.cat([torch.where(labels == one)[0][:number] for one, number in enumerate((30, 30, 4))])
    assert purity(points[few], labels[few]) == pytest.approx(1, abs=0.01)


def test_a_page_and_a_table_have_the_figures_of_both_splits() -> None:
    points, labels = blobs()
    found = clustered(points, labels, lambda some: (some[:, :3], some), 3, seed=0)
    assert found.judged[OWN].accuracy == 1
    assert found.judged["k-means on features"].accuracy == 1
    measurement = ClusteringMeasurement("step_8", "blobs", {"training": found, "held out": found}, ("a", "b", "c"))
    written = measurement.to_dict()
    assert written["format"] == "flowfabric.clustering/1"
    assert written["splits"]["held out"]["clusters"][OWN]["class_sizes"] == [30, 30, 30]
    assert measurement.table().row_count == 6
    page = measurement.page(Path("runs/blobs"), None)
    assert "100.0% of the training examples are in the cluster of their class" in page
    assert page == measurement.page(Path("runs/blobs"), None)
