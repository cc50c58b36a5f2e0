"""What of an image a network is told: holes, maps, and how they reach it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

import trainer.data
from tests.draws import generator
from tests.trainer.flow.unions import members, name
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.data import Batch, ShardsConfig, write_shards
from trainer.data.shard.writer import Examples
from trainer.flow import Condition, context
from trainer.flow.context import BoxesConfig, CentreConfig, Identity, draw_holes
from trainer.model.build import build_model
from trainer.model.conditioning import SpatialRescaler
from trainer.model.dit import DiT
from trainer.model.values import initialised
from trainer.sampling.conditioning import conditioning_for
from trainer.task import FlowTask

KINDS = [pytest.param(member, id=name(member)) for member in members(context.Config)]


def images(num: int = 6, side: int = 8, seed: int = 0) -> Tensor:
    return torch.rand(num, 1, side, side, generator=generator(seed)) * 2 - 1


def configuration(kind: dict[str, Any] | None, **sections: Any) -> RunConfig:
    document = {"run": {"dir": "unused"}, "model": {}, "optim": {"steps": 1, "global_batch": 4}}
    return RunConfig.model_validate({**document, "flow": {"context": kind}, **sections})


def network(config: RunConfig) -> DiT:
    built = build_model(config, plan_layout(config, 1))
    assert isinstance(built, DiT)
    with torch.no_grad():
        for number, parameter in enumerate(built.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(number)))
    return built


def asked(config: RunConfig, model: DiT, given: Tensor, seed: int = 1) -> Tensor:
    """What the network answers at fixed states about what it knows of images."""
    assert config.flow is not None
    assert config.flow.context is not None
    seen = config.flow.context.draw(given, Identity(), generator=generator(seed))
    x_t = torch.randn(given.shape, generator=generator(2))
    return model(x_t, torch.full((len(given),), 0.3), Condition(context=seen.context))


@pytest.mark.parametrize("kind", KINDS)
def test_every_context_has_the_shape_that_the_network_is_built_for(kind: type) -> None:
    config = kind()
    given = images(side=16)
    seen = config.draw(given, Identity(), generator=generator())
    assert seen.context.shape[1:] == config.shape(example=(1, 16, 16), state=(1, 16, 16))
    assert seen.picture.shape == given.shape
    assert seen.hole.shape == given.shape
    assert seen.hole.dtype == torch.bool
    again = config.draw(given, Identity(), generator=generator())
    assert torch.equal(seen.context, again.context), "a function of the generator"
    written = TypeAdapter(context.Config).dump_python(config, mode="json")
    assert TypeAdapter(context.Config).validate_python(written) == config


def test_the_centre_is_hidden_and_boxes_keep_their_sizes() -> None:
    centre = draw_holes(CentreConfig(share=0.5), 2, 8, 12, generator=generator())
    expected = np.zeros((8, 12), dtype=bool)
    expected[2:6, 3:9] = True
    assert all(np.array_equal(hole, expected) for hole in centre[:, 0].numpy())
    boxes = draw_holes(BoxesConfig(num=1, smallest=0.25, largest=0.5), 500, 8, 12, generator=generator())[:, 0]
    heights, widths = boxes.any(2).sum(1), boxes.any(1).sum(1)
    assert torch.equal(boxes.sum((1, 2)), heights * widths), "each is a box"
    assert (sorted(set(heights.tolist())), sorted(set(widths.tolist()))) == ([2, 3, 4], [3, 4, 5, 6])
    assert boxes.any(0).all(), "every pixel is hidden now and then"
    assert not torch.equal(boxes[0], boxes[1])
    several = draw_holes(BoxesConfig(num=3, smallest=0.9, largest=0.9), 50, 2, 2, generator=generator())
    assert several.any((1, 2, 3)).all()
    assert several.shape == (50, 1, 2, 2)


def test_what_a_hole_hides_does_not_reach_the_network_and_known_pixels_stay() -> None:
    config = configuration({"kind": "inpainting", "mask": {"kind": "centre"}})
    model, given = network(config), images()
    hole = draw_holes(CentreConfig(), len(given), 8, 8, generator=generator())
    answer = asked(config, model, given)
    other = images(seed=5)
    assert torch.equal(asked(config, model, torch.where(hole, other, given)), answer)
    assert not torch.allclose(asked(config, model, torch.where(hole, given, given.flip(0))), answer)
    seen = context.Inpainting(mask=CentreConfig()).draw(given, Identity(), generator=generator())
    completed = seen.completed(other)
    assert torch.equal(completed.masked_select(~hole), given.masked_select(~hole))
    assert torch.equal(completed.masked_select(hole), other.masked_select(hole))


def test_a_map_says_how_bright_each_block_is() -> None:
    given = images()
    config = context.SemanticMap(levels=3, block=4)
    seen = config.draw(given, Identity(), generator=generator())
    for image, told in zip(given[:, 0].numpy(), seen.context.numpy(), strict=True):
        for row in range(8):
            for column in range(8):
                top, left = row // 4 * 4, column // 4 * 4
                mean = image[top : top + 4, left : left + 4].mean()
                level = 0 if mean < -1 / 3 else 1 if mean < 1 / 3 else 2
                assert told[:, row, column].tolist() == [float(level == one) for one in range(3)]
    shades = torch.tensor([-1.0, 0.0, 1.0])[seen.context.argmax(1)]
    assert torch.equal(seen.picture, shades[:, None].expand_as(given)), "levels are shown from black to white"
    assert seen.hole.all()
    assert torch.equal(seen.completed(given), given), "nothing of what is drawn is replaced"
    bounds = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    assert config.block_levels(bounds).flatten().tolist() == [0, 2]


def test_the_rescaler_takes_means_of_blocks_and_then_a_matrix() -> None:
    layer = initialised(SpatialRescaler(3, 2, 2), 0)
    told = torch.randn(5, 3, 8, 8, generator=generator(1))
    means = told.reshape(5, 3, 2, 4, 2, 4).mean((3, 5))
    expected = torch.einsum("ok,bkhw->bohw", layer.weight[:, :, 0, 0], means)
    state = torch.randn(5, 4, 2, 2, generator=generator(2))
    torch.testing.assert_close(layer(state, told), torch.cat([state, expected], dim=1))


def test_the_layer_that_reads_a_map_learns() -> None:
    config = configuration({"kind": "semantic_map"})
    task, model = FlowTask(config), network(config)
    (drawn,) = task.draw([Batch(images(), torch.arange(6), torch.arange(6))], [generator()])
    task.loss(model, drawn).mean().backward()
    assert isinstance(model.read_context, SpatialRescaler)
    gradient = model.read_context.weight.grad
    assert gradient is not None
    assert gradient.abs().min() > 0
    assert not torch.allclose(asked(config, model, images()), asked(config, model, images().flip(0)))


def with_masks(folder: Path, shape: tuple[int, int, int] = (2, 8, 8)) -> dict[str, Any]:
    masks = np.random.default_rng(3).random((30, *shape), np.float32)
    write_shards(folder, [Examples(images(30).numpy(), np.arange(30) % 3, masks)], num_classes=3)
    return ShardsConfig.resolved({"kind": "shards", "path": str(folder), "held_out": 10})


def test_contexts_of_the_data_reach_the_network_in_training_and_drawing(tmp_path: Path) -> None:
    config = configuration(None, data=with_masks(tmp_path / "masks"))
    plan_layout(config, 1)
    task, model = FlowTask(config), network(config)
    dataset = trainer.data.build(config.data)
    batch = dataset.get(dataset.indices("train")[:6])
    (drawn,) = task.draw([batch], [generator()])
    assert batch.context is not None
    assert drawn.condition.context is not None
    assert torch.equal(drawn.condition.context, batch.context)
    task.loss(model, drawn).mean().backward()
    conditioning = conditioning_for(config, task.parts, 4, seed=0)
    held_out = dataset.get(dataset.indices("held_out")[:4])
    assert held_out.context is not None
    assert conditioning.condition.context is not None
    assert torch.equal(conditioning.condition.context, held_out.context)
    x_t, t = torch.randn(4, 1, 8, 8, generator=generator(3)), torch.rand(4, generator=generator(4))
    answer = model(x_t, t, conditioning.condition)
    assert not torch.allclose(answer, model(x_t, t, replace(conditioning.condition, context=-held_out.context)))
    rows = conditioning.pictures(conditioning.completed(torch.zeros(4, 1, 8, 8)), 4)
    torch.testing.assert_close(rows[:4], held_out.context.mean(1, keepdim=True), msg="the first row shows the context")


@pytest.mark.parametrize(
    ("shape", "sections", "problem"),
    [
        ((2, 8, 8), {"flow": {"context": {"kind": "inpainting"}}}, "the data have contexts already"),
        ((2, 4, 4), {}, "data.context_shape: .2, 4, 4. does not lie beside states of shape .1, 8, 8."),
    ],
)
def test_contexts_of_the_data_that_have_no_use(
    tmp_path: Path, shape: tuple[int, int, int], sections: dict[str, Any], problem: str
) -> None:
    config = configuration(None, **{"data": with_masks(tmp_path / "masks", shape), **sections})
    with pytest.raises(ValueError, match=problem):
        plan_layout(config, 1)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance_leads_away_from_no_class_with_the_same_context(scale: float) -> None:
    config = configuration({"kind": "inpainting"})
    task, model = FlowTask(config), network(config).eval()
    (drawn,) = task.draw([Batch(images(), torch.arange(6), torch.arange(6))], [generator()])
    condition = replace(drawn.condition, label=torch.arange(6))
    x_t, t = torch.randn(6, 1, 8, 8, generator=generator(3)), torch.rand(6, generator=generator(4))
    unconditional = model(x_t, t, replace(condition, label=torch.full((6,), 10)))
    expected = unconditional + scale * (model(x_t, t, condition) - unconditional)
    torch.testing.assert_close(task.parts.field(model, condition, scale)(x_t, t), expected)
    if scale in (0.0, 1.0):
        alone = unconditional if scale == 0 else model(x_t, t, condition)
        assert torch.equal(task.parts.field(model, condition, scale)(x_t, t), alone)


@pytest.mark.parametrize(
    ("kind", "sections", "problem"),
    [
        ({"kind": "semantic_map", "block": 3}, {}, "flow.context.block: 3 does not divide images of 8 x 8"),
        ({"kind": "inpainting"}, {"model": {"kind": "mlp"}, "data": {"name": "moons"}}, "which an mlp does not take"),
    ],
)
def test_contexts_that_nothing_can_be_told_of(kind: dict[str, Any], sections: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        plan_layout(configuration(kind, **sections), 1)


def test_boxes_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match=r"smallest: 0\.6 exceeds largest 0\.3; exchange them"):
        BoxesConfig(smallest=0.6, largest=0.3)
