"""The contrastive task: its loss, on any division of a step, and what it refuses."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from tests.each import each
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.data import Batch
from trainer.experiment.forecast.unknown import without_formula
from trainer.model.network import GivesFeatures, NetworkSpec
from trainer.model.representation import Contrastive
from trainer.model.values import initialised
from trainer.task.contrastive import ContrastiveTask, DrawnViews
from trainer.training.task import TrainedNetworks

NEAREST = {"kind": "nearest", "memory": 8, "neighbours": 2, "begin": 1}


def run(positives: dict[str, Any] = NEAREST, **sections: Any) -> RunConfig:
    document = {
        "run": {"dir": "unused"},
        "data": {"kind": "digits"},
        "model": {"kind": "contrastive", "hidden": 8, "num_layers": 1, "features": 12, "projected": 8},
        "task": {"kind": "contrastive", "positives": positives},
        "optim": {"steps": 20, "global_batch": 8},
        "sample": {"every": None},
    }
    merged = {name: {**document.get(name, {}), **section} for name, section in sections.items()}
    return RunConfig.model_validate({**document, **merged})


def network(config: RunConfig) -> Contrastive:
    return initialised(Contrastive(NetworkSpec(config=config.model, state_shape=(1, 8, 8))), 0)  # pyright: ignore[reportArgumentType]


def step(number: int, sizes: tuple[int, ...]) -> list[DrawnViews]:
    generator = torch.Generator().manual_seed(number)
    views = [torch.randn(sum(sizes), 1, 8, 8, generator=generator).split(sizes) for _ in range(2)]
    return [DrawnViews(None, pair) for pair in zip(*views, strict=True)]


def test_the_loss_of_an_example_does_not_depend_on_the_micro_batches_of_its_step() -> None:
    config = run()
    model, losses = network(config), []
    for sizes in ((8,), (2, 2, 4)):
        task = ContrastiveTask(config)
        for number in range(3):
            drawn = task.collect(step(number, sizes), TrainedNetworks(model))
        losses.append(torch.cat([task.loss(model, one).per_example for one in drawn]))
    torch.testing.assert_close(losses[0], losses[1])


def test_the_loss_is_the_formula() -> None:
    config = run(task={"kind": "contrastive", "positives": NEAREST, "uniformity": 0.3, "temperature": 0.7})
    model, task = network(config), ContrastiveTask(config)
    seen = []
    for number in range(3):
        drawn = task.collect(step(number, (8,)), TrainedNetworks(model))
        projected = [functional.normalize(model(view)[0], dim=1).detach() for view in drawn[0].views]
        seen.append(projected[0])
    memory, expected = seen[1], torch.zeros(8)  # the memory holds one step
    for own, other in ((0, 1), (1, 0)):
        predicted = functional.normalize(model(drawn[0].views[own])[1], dim=1)
        for row in range(8):
            near = memory[(memory @ projected[other][row]).topk(2).indices]
            positives = torch.cat([projected[other][row, None], near])
            kept = torch.arange(8) != row
            apart = torch.cat([projected[0][kept], projected[1][kept]]) @ predicted[row]
            expected[row] -= (positives @ predicted[row]).mean().detach() / 2
            expected[row] += 0.3 * 0.7 * (apart / 0.7).exp().mean().log().detach() / 2
    terms = task.loss(model, drawn[0])
    torch.testing.assert_close(terms.per_example.detach(), expected)
    assert {"view_cosine", "neighbour_cosine", "uniformity"} == set(terms.terms)
    terms.per_example.mean().backward()
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if "to_features" not in name)


def test_views_alone_keep_no_memory_and_held_out_examples_need_none() -> None:
    config = run({"kind": "views"})
    model, task = network(config), ContrastiveTask(config)
    (drawn,) = task.collect(step(0, (8,)), TrainedNetworks(model))
    assert drawn.compared is not None
    assert drawn.compared.positives[0].shape == (8, 1, 8)
    assert task.state() == {}
    torch.testing.assert_close(task.examine(model, drawn)["held_out_loss"], task.loss(model, drawn).per_example)


def test_a_task_goes_on_where_its_state_was() -> None:
    config = run({"kind": "dynamic_clusters", "memory": 16, "clusters": 4, "neighbours": 2, "begin": 0})
    model, straight, resumed = network(config), ContrastiveTask(config), ContrastiveTask(config)
    for number in range(3):
        straight.collect(step(number, (8,)), TrainedNetworks(model))
    resumed.load(straight.state())
    assert resumed.state().keys() == straight.state().keys()
    found = [task.collect(step(3, (8,)), TrainedNetworks(model))[0].compared for task in (straight, resumed)]
    first, second = (one.positives for one in found if one is not None)
    assert first[0].shape == (8, 3, 8)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    resumed.load(None)
    assert resumed.state()["written"] == 0


def test_views_are_drawn_from_the_generator_and_features_are_standardised() -> None:
    config = run()
    model, task = network(config), ContrastiveTask(config)
    assert isinstance(model, GivesFeatures)
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    batch = Batch(images, None, torch.arange(4))
    one, other = (task.draw_one(batch, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one.views[0], other.views[0])
    assert not torch.equal(one.views[0], one.views[1])
    features = model.features(images)
    torch.testing.assert_close(features.mean(1), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.var(1, correction=0), torch.ones(4), atol=1e-2, rtol=0)


@each(
    ("sections", "problem"),
    [
        ({"optim": {"global_batch": 16}}, "task.positives.memory: 8 is less than the 16 examples of a step; use 16 or"),
        (
            {"optim": {"steps": 1}},
            "task.positives: neighbours count from step 2 on, once the memory is full, and there",
        ),
        ({"optim": {"micro_batch": 1}}, "optim.micro_batch: 1 example has no other that it is kept apart from; use 2"),
        ({"task": {"views": {"shift": 9}}}, "task.views.shift: 9 pixels are too large a shift for an image of 8"),
    ],
)
def test_what_cannot_be_compared(sections: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        plan_layout(run(**sections), 1)


def test_no_formula_knows_what_its_collecting_sends() -> None:
    said = without_formula(run())
    assert said is not None
    assert said.startswith("task.kind: contrastive gathers what it compares")
