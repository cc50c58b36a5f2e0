"""The features verb: a small classifier of a run's examples, whose hidden layers are a feature extractor."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import trainer.data
from trainer.evaluation.judgement import JUDGED
from trainer.model.feature_extractor.extractor import write_extractor


def run(source: trainer.data.AnyConfig, hidden: Sequence[int], seed: int, out: Path) -> int:
    """Trains a classifier on one process and writes its hidden layers, the last of which are the features."""
    if not hidden or min(hidden) < 1:
        raise ValueError(f"--hidden: {list(hidden)} are not widths of 1 or more; use for example 64")
    if source.num_classes < 2:
        raise ValueError(
            f"data.kind: {source.kind} data have {source.num_classes} classes, and features are learned "
            "by telling two or more apart; give data with classes"
        )
    dataset = trainer.data.build(source)
    learned, unseen = (
        dataset.get(trainer.data.first_data_points(dataset, split, JUDGED)) for split in trainer.data.SPLITS
    )
    assert learned.labels is not None
    assert unseen.labels is not None
    classifier = trained_classifier(learned.x_1, learned.labels, hidden=hidden, seed=seed)
    write_extractor(nn.Sequential(*list(classifier)[:-1]), out, source.shape)
    with torch.no_grad():
        right = (classifier(unseen.x_1).argmax(1) == unseen.labels).double().mean()
    print(f"{out}: {hidden[-1]} features; the classifier names {right:.1%} of {len(unseen.labels)} held-out examples")
    return 0


def trained_classifier(examples: Tensor, labels: Tensor, *, hidden: Sequence[int], seed: int) -> nn.Sequential:
    """A perceptron for classes int64 [N] of examples [N, *D], by scikit-learn's MLPClassifier.

    All classes must occur. Flattening, linear layers with ReLU between them, the last to one logit a class; in
    evaluation mode.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier  # nearly a second to import

    classifier = MLPClassifier(tuple(hidden), random_state=seed, max_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last percent of a loss makes no better features
        classifier.fit(examples.flatten(1).double().numpy(), labels.numpy())
    layers: list[nn.Module] = [nn.Flatten()]
    for weight, bias in zip(classifier.coefs_, classifier.intercepts_, strict=True):
        layers += [_linear(weight, bias), nn.ReLU()]
    last = layers[-2]
    if isinstance(last, nn.Linear) and last.out_features == 1:  # one logit for two classes
        zero = np.zeros_like
        layers[-2] = _linear(
            np.concatenate([zero(classifier.coefs_[-1]), classifier.coefs_[-1]], axis=1),
            np.concatenate([zero(classifier.intercepts_[-1]), classifier.intercepts_[-1]]),
        )
    return nn.Sequential(*layers[:-1]).eval()


def _linear(weight: NDArray[np.float64], bias: NDArray[np.float64]) -> nn.Linear:
    """Returns a linear layer with a weight matrix [inputs, outputs] and a bias."""
    layer = nn.Linear(*weight.shape)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight.T))
        layer.bias.copy_(torch.from_numpy(bias))
    return layer
