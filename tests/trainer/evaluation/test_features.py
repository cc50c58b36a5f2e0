"""The features verb: a classifier's hidden layers as a feature extractor."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neural_network import MLPClassifier

import trainer.data
from tests.each import each
from trainer.__main__ import main
from trainer.data import ToyConfig
from trainer.evaluation import feature_classifier as features
from trainer.evaluation.feature_classifier import trained_classifier
from trainer.model.feature_extractor.extractor import check_extractor, feature_shape, read_extractor

CONFIG = "configs/methods/blockwise.yaml"


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("classes", [2, 3])
def test_the_network_is_the_classifier_of_scikit_learn(classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % classes
    x = torch.randn(60, 1, 2, 2, generator=generator) + labels[:, None, None, None]
    network = trained_classifier(x, labels, hidden=[8, 5], seed=3)
    peer = MLPClassifier((8, 5), random_state=3, max_iter=200).fit(x.flatten(1).double().numpy(), labels.numpy())
    logits = network(x)
    assert logits.shape == (60, classes)
    np.testing.assert_allclose(
        logits.softmax(1).detach().numpy(), np.asarray(peer.predict_proba(x.flatten(1).numpy())), rtol=1e-4, atol=1e-5
    )


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("num_examples", [150, None])
def test_training_examples_teach_and_held_out_ones_judge(
    num_examples: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "JUDGED", 200)
    settings = {"name": "checkerboard", "classes": "true", "num_examples": num_examples or "null", "held_out": 250}
    words = (f"data.{name}={value}" for name, value in settings.items())
    assert main(["features", "configs/runs/toy.yaml", *words, "--hidden", "8", "--out", str(tmp_path / "out")]) == 0
    dataset = trainer.data.build(ToyConfig(name="checkerboard", classes=True, num_examples=num_examples, held_out=250))
    learned, unseen = (
        dataset.get(ids) for ids in (torch.arange(num_examples or 200), dataset.indices("held_out")[:200])
    )
    assert learned.labels is not None
    assert unseen.labels is not None
    peer = MLPClassifier((8,), random_state=0, max_iter=200).fit(learned.x_1.double().numpy(), learned.labels.numpy())
    right = peer.score(unseen.x_1.double().numpy(), unseen.labels.numpy())
    assert right != peer.score(learned.x_1.double().numpy(), learned.labels.numpy())
    assert capsys.readouterr().out.endswith(f"the classifier names {right:.1%} of 200 held-out examples\n")


def test_a_file_that_is_the_same_for_the_same_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        out = str(tmp_path / name)
        assert main(["features", CONFIG, "--hidden", "8", "--seed", str(seed), "--out", out]) == 0
    assert "8 features; the classifier names" in capsys.readouterr().out
    one, again, other = ((tmp_path / name).read_bytes() for name in ("one", "again", "other"))
    assert one == again
    assert one != other
    check_extractor(tmp_path / "one", (1, 8, 8))
    assert feature_shape(tmp_path / "one") == (8,)
    features = read_extractor(tmp_path / "one").features(torch.zeros(2, 1, 8, 8))
    assert features.shape == (2, 8)
    assert (features >= 0).all()


@each(
    ("arguments", "words"),
    [
        ([CONFIG, "--hidden", "0"], "--hidden: [0]"),
        ([CONFIG, "--stage", "none"], "there is no stage none"),
        (["configs/methods/rectified_flow.yaml", "--stage", "pairs"], "--stage: pairs draws pairs"),
        (["configs/runs/toy.yaml"], "two or more apart; give data with classes"),
        (["no.yaml"], "no.yaml"),
    ],
)
def test_refusals(arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "features"
    assert main(["features", *arguments, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not out.exists()
