"""Rewards: closed forms, finite differences, scikit-learn; what ends a run; the same classifier on every machine."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

import trainer.data
from netsim.foundation.refusal import Refusal
from tests.each import each
from trainer.data.builtin import DigitsConfig
from trainer.flow import UNCONDITIONAL, Condition
from trainer.flow.reward import CheckedReward, Classifier, Config, Distance, FittedClassifier, Ink, Reward, RewardInputs


def inputs(
    shape: tuple[int, ...] = (1, 8, 8), read: Callable[[], tuple[Tensor, Tensor]] | None = None, num_classes: int = 10
) -> RewardInputs:
    def nothing() -> tuple[Tensor, Tensor]:
        raise AssertionError("no reward but the classifier reads examples")

    return RewardInputs(shape, num_classes, read or nothing, seed=0)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def digits(split: str) -> tuple[Tensor, Tensor]:
    data = trainer.data.build(DigitsConfig())
    batch = data.get(data.indices(split))  # pyright: ignore[reportArgumentType]
    assert batch.labels is not None
    return batch.x_1, batch.labels


@pytest.fixture(scope="module")
def classifier() -> CheckedReward:
    return Classifier().build(inputs(read=lambda: digits("train")))


def test_ink_is_the_share_of_white_and_of_strokes() -> None:
    images = torch.full((3, 1, 4, 4), -1.0)
    images[1, 0, :2] = 1.0
    images[2] = 1.0
    for measure in ("brightness", "strokes"):
        reward = Ink(measure=measure, weight=-2.0).build(inputs((1, 4, 4)))
        torch.testing.assert_close(reward(images, UNCONDITIONAL), torch.tensor([0.0, -1, -2]), rtol=0, atol=1e-3)
    grey = torch.zeros(1, 1, 4, 4)
    for measure in ("brightness", "strokes"):
        assert float(Ink(measure=measure).build(inputs((1, 4, 4)))(grey, UNCONDITIONAL)) == 0.5


def test_the_distance_to_a_point_is_the_one_of_numpy() -> None:
    points = drawn(5, 2)
    reward = Distance(target=(2.2, -1.0)).build(inputs((2,), num_classes=0))
    expected = -np.linalg.norm(points.numpy() - np.array([2.2, -1.0]), axis=1)
    np.testing.assert_allclose(reward(points, UNCONDITIONAL), expected, rtol=1e-6)


def test_the_distance_to_a_picture_is_0_at_the_picture(tmp_path: Path) -> None:
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(pixels).save(tmp_path / "wanted.png")
    config = TypeAdapter(Config).validate_python({"kind": "distance", "target": str(tmp_path / "wanted.png")})
    reward = config.build(inputs())
    wanted = torch.from_numpy(pixels / 127.5 - 1)[None, None]
    moved = wanted.clone()
    moved[0, 0, 0, 0] += 0.5
    at = torch.cat([wanted, moved]).requires_grad_()
    rewards = reward(at, UNCONDITIONAL)
    np.testing.assert_allclose(rewards.detach(), [0, -0.5], atol=1e-5)
    (gradient,) = torch.autograd.grad(rewards.sum(), at)
    assert bool(gradient.isfinite().all())


def test_the_classifier_knows_digits_and_the_class_asked(classifier: CheckedReward) -> None:
    examples, labels = digits("held_out")
    asked = classifier(examples, Condition(label=labels))
    other = classifier(examples, Condition(label=(labels + 1) % 10))
    none = classifier(examples, Condition(label=torch.full_like(labels, 10)))
    assert float(asked.mean()) > -0.15
    assert float(other.mean()) < -3
    assert float((asked == none).double().mean()) >= 0.96
    assert bool((none >= asked).all())


def test_the_classifier_is_the_optimum_whatever_the_order_of_the_examples(classifier: CheckedReward) -> None:
    """The order changes the last digits of all sums, as another machine does."""
    examples, labels = digits("train")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    again = Classifier().build(inputs(read=lambda: (examples[order], labels[order])))
    one, other = (inner(reward) for reward in (classifier, again))
    assert torch.equal(one.weight_CD, other.weight_CD)
    assert torch.equal(one.bias_C, other.bias_C)
    assert torch.equal(one.log_probabilities(examples), other.log_probabilities(examples))


def inner(reward: CheckedReward) -> FittedClassifier:
    built = reward._reward
    assert isinstance(built, FittedClassifier)
    return built


def test_two_classes_have_one_logit_and_the_odds_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    points, labels = drawn(200, 3).float(), torch.arange(200) % 2
    points[:, 0] += labels
    reward = Classifier().build(inputs((3,), lambda: (points, labels), num_classes=2))
    scaled = (points - points.mean(0)) / (points - points.mean(0)).square().mean().sqrt()
    model = LogisticRegression(C=1 / (1e-3 * 200), tol=1e-8).fit(scaled.numpy(), labels.numpy())
    expected = model.predict_log_proba(scaled.numpy())[np.arange(200), labels.numpy()]
    np.testing.assert_allclose(reward(points, Condition(label=labels)), expected, atol=5e-3)


def test_gradients_are_those_of_finite_differences() -> None:
    points, labels = drawn(60, 2), torch.arange(60) % 3
    points += 0.3 * labels[:, None]
    for config in (Ink(), Ink(measure="strokes"), Distance(target=(2.0, 1.0))):
        reward = config.build(inputs((2,)))
        assert torch.autograd.gradcheck(lambda x, reward=reward: reward(x, UNCONDITIONAL), points[:3].requires_grad_())
    reward = Classifier().build(inputs((2,), lambda: (points.detach().float(), labels), num_classes=3))
    at = points[:3].detach().float().requires_grad_()
    condition = Condition(label=labels[:3])
    (gradient,) = torch.autograd.grad(reward(at, condition).sum(), at)
    step = torch.zeros(2)
    step[0] = 1e-2
    change = (reward(at + step, condition) - reward(at - step, condition)) / 2e-2
    torch.testing.assert_close(gradient[:, 0], change.detach(), rtol=1e-2, atol=1e-3)


def test_rewards_are_functions_of_a_row(classifier: CheckedReward) -> None:
    examples, labels = digits("held_out")
    for reward in (classifier, Ink().build(inputs()), Ink(measure="strokes").build(inputs())):
        whole = reward(examples[:8], Condition(label=labels[:8]))
        alone = torch.cat([reward(examples[i : i + 1], Condition(label=labels[i : i + 1])) for i in range(8)])
        torch.testing.assert_close(whole, alone, rtol=1e-5, atol=1e-6)


class Mine(Reward):
    """Returns what its setting says."""

    differentiable = False

    def __init__(self, *, says: str = "good", num_classes: int) -> None:
        self.says, self.num_classes = says, num_classes

    def __call__(self, examples: Tensor, condition: Condition, /) -> Tensor:  # noqa: ARG002
        rewards = examples.flatten(1).sum(1).detach() * self.num_classes
        match self.says:
            case "nan":
                rewards[1] = torch.nan
            case "column":
                rewards = rewards[:, None]
            case "number":
                return 1.0  # pyright: ignore[reportReturnType]
            case "whole":
                rewards = rewards.long()
            case _:
                pass
        return rewards


class Claims(Mine):
    """Says that it has a gradient."""

    differentiable = True


def own(name: str = "Mine", **settings: str) -> CheckedReward:
    return TypeAdapter(Config).validate_python({"class": f"{__name__}:{name}", **settings}).build(inputs())


def test_a_reward_of_a_users_is_built_with_what_it_asks_for() -> None:
    examples = drawn(3, 1, 8, 8)
    torch.testing.assert_close(own()(examples, UNCONDITIONAL), 10 * examples.flatten(1).sum(1))
    assert not own().differentiable
    assert Ink().differentiable


@each(
    ("says", "message"),
    [
        ("nan", r"reward \S+:Mine is not finite for 1 of 3 examples; return a finite number for every example"),
        ("column", r"reward \S+:Mine returns float64 \[3, 1\] for 3 examples; return floats \[3\]"),
        ("whole", r"reward \S+:Mine returns int64 \[3\] for 3 examples; return floats \[3\]"),
        ("number", r"reward \S+:Mine returns float; return a tensor \[3\]"),
    ],
)
def test_a_wrong_reward_ends_the_run_with_its_name(says: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        own(says=says)(drawn(3, 1, 8, 8), UNCONDITIONAL)


def test_a_reward_without_the_gradient_that_it_claims_is_named() -> None:
    examples = drawn(3, 1, 8, 8).requires_grad_()
    own()(examples, UNCONDITIONAL)
    with torch.no_grad():
        own("Claims")(examples, UNCONDITIONAL)
    with pytest.raises(ValueError, match=r"^reward \S+:Claims has no gradient in the examples; compute it"):
        own("Claims")(examples, UNCONDITIONAL)


def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path, classifier: CheckedReward) -> None:
    points, labels = drawn(20, 2).float(), torch.arange(20) % 2
    for config, given, message in (
        (Distance(target=(1.0, 2.0)), inputs(), r"target: is a point of 2 .* \[1, 8, 8\]; name a picture"),
        (Distance(target=(1.0,)), inputs((2,)), r"target: is a point of 1 coord.*; write 2 coordinates"),
        (Distance(target=Path("a.png")), inputs((2,)), r"target: a.png is a picture.*; write coordinates"),
        (Classifier(), inputs(num_classes=0), r"kind: classifier tells classes apart, and the data have 0; use"),
        (
            Classifier(),
            inputs((2,), lambda: (points, labels), num_classes=3),
            r"kind: classifier has no training example of class 2; bring some",
        ),
        (
            Classifier(),
            inputs((2,), lambda: (points * 0, labels), num_classes=2),
            r"cannot tell training examples apart that are all equal",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            config.build(given)
    with pytest.raises(Refusal, match=r"none.png: target: No such file or directory; give a picture"):
        Distance(target=tmp_path / "none.png").build(inputs())
    with pytest.raises(ValueError, match=r"^kind: classifier rewards the requested class, .*; ask for classes$"):
        classifier(points, UNCONDITIONAL)
    for settings in ({"kind": "distance"}, {"kind": "ink", "measure": "smell"}, {"kind": "classifier", "ridge": 0}):
        with pytest.raises(ValidationError):
            TypeAdapter(Config).validate_python(settings)
