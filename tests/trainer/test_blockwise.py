"""A network whose blocks belong to segments of time, against networks without segments and plain loops."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.benchmarks.methods.plain_loop import PlainNetwork, flow_task
from trainer.flow import UNCONDITIONAL, Condition, objective, path, target
from trainer.flow.coupling import Pairs
from trainer.flow.features import Approximation, Onward, WithFeatures, WithProjection
from trainer.flow.path import PathSample
from trainer.flow.sampler import EulerConfig, HeunConfig, Segmented, SegmentedConfig, build
from trainer.flow.time.segments import segment_of, share_behind, start_of
from trainer.model.blockwise import Blockwise
from trainer.model.blockwise_config import BlockwiseConfig, BlockwiseMLPConfig
from trainer.model.blockwise_mlp import BlockwiseMLP
from trainer.model.config import DiTConfig
from trainer.model.dit import DiT, FeedForward
from trainer.model.head import SegmentField
from trainer.model.segments import Groups, SegmentLinear
from trainer.model.steering import steering
from trainer.task import FlowTask

SIZES: dict[str, Any] = {"segments": 3, "hidden": 16, "num_heads": 2, "trunk_layers": 2, "segment_layers": 1}
CLASSES = 4
STRAIGHT = path.build(path.LinearConfig())


def network(**settings: Any) -> Blockwise:
    """A network on images 1 x 4 x 4, all of whose weights differ from 0."""
    config = BlockwiseConfig(**{**SIZES, **settings})
    made = Blockwise(config, shape=(1, 4, 4), num_classes=CLASSES, generator=torch.Generator().manual_seed(0))
    return stirred(made).eval()


def stirred(made: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return made


def points(number: int) -> tuple[Tensor, Tensor, Condition]:
    generator = torch.Generator().manual_seed(2)
    x, t = torch.randn(number, 1, 4, 4, generator=generator), torch.rand(number, generator=generator)
    return x, t, Condition(torch.randint(CLASSES + 1, (number,), generator=generator))


def flow(**model: Any) -> FlowTask:
    """A flow-matching task over such a network."""
    task = flow_task({}, model={"kind": "blockwise", **SIZES, **model})
    task.null_label = CLASSES
    return task


# Segments of time


@pytest.mark.parametrize("segments", [1, 2, 3, 5, 6, 7, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_edge_belongs_to_the_segment_that_starts_there(segments: int, dtype: torch.dtype) -> None:
    numbers = torch.arange(segments)
    starts = start_of(numbers, segments, torch.zeros(0, dtype=dtype))
    assert torch.equal(segment_of(starts, segments), numbers)
    before = torch.nextafter(starts[1:], torch.zeros(1, dtype=dtype))
    assert torch.equal(segment_of(before, segments), numbers[:-1])
    assert segment_of(torch.ones(1, dtype=dtype), segments).item() == segments - 1


def test_the_share_of_a_segment_grows_from_0_to_1() -> None:
    t = torch.tensor([0.25, 0.375, 0.5])
    assert share_behind(t, 1, 4).tolist() == [0.0, 0.5, 1.0]
    assert share_behind(t, segment_of(t, 4), 4).tolist() == [0.0, 0.5, 0.0]


@pytest.mark.parametrize("number", [1, 2, 7, 12])
def test_examples_return_from_their_groups(number: int) -> None:
    x, t, _ = points(number)
    groups = Groups.by_time(t, 3)
    gathered = groups.gather(x)
    assert gathered.shape == (3, torch.bincount(segment_of(t, 3)).max(), *x.shape[1:])
    assert torch.equal(groups.scatter(gathered), x)
    times = groups.gather(t)
    for segment in range(3):
        own = t[segment_of(t, 3) == segment]
        assert torch.equal(times[segment, : len(own)], own)


# Blocks of segments against networks without segments


def single(trained: Blockwise, segment: int) -> Blockwise:
    """The network that has the blocks of one segment at all times."""
    alone = network(segments=1, **{name: SIZES[name] for name in ("trunk_layers", "segment_layers")})
    state = alone.state_dict()
    for name, value in trained.state_dict().items():
        if name in state:
            state[name] = value[segment : segment + 1] if name.startswith("own_blocks") else value
    alone.load_state_dict(state)
    return alone


def test_each_example_meets_the_blocks_of_its_segment_alone() -> None:
    trained, (x, t, condition) = network(), points(11)
    found = trained(x, t, condition)
    for segment in range(3):
        own = segment_of(t, 3) == segment
        wanted = single(trained, segment)(x[own], t[own], condition.rows(own))
        torch.testing.assert_close(found[own], wanted, rtol=1e-5, atol=1e-6)
        stated = trained(x[own], t[own], replace(condition.rows(own), segment=segment))
        torch.testing.assert_close(stated, wanted, rtol=0, atol=0)


def test_a_segment_that_is_stated_outweighs_the_times() -> None:
    trained, (x, _, condition) = network(), points(4)
    edge = torch.full((4,), 1 / 3)
    assert torch.equal(trained(x, edge, replace(condition, segment=0)), single(trained, 0)(x, edge, condition))
    torch.testing.assert_close(
        trained(x, edge, condition), single(trained, 1)(x, edge, condition), rtol=1e-5, atol=1e-6
    )


def test_blocks_that_are_tied_are_one_network() -> None:
    trained, (x, t, condition) = network(), points(9)
    with torch.no_grad():
        for layer in trained.modules():
            if isinstance(layer, SegmentLinear):
                layer.weight[1:] = layer.weight[:1]
                layer.bias[1:] = layer.bias[:1]
    wanted = single(trained, 0)(x, t, condition)
    torch.testing.assert_close(trained(x, t, condition), wanted, rtol=1e-5, atol=1e-6)


def test_gradients_of_a_segment_come_from_its_examples() -> None:
    trained, (x, t, condition) = network(), points(8)
    t = t * 2 / 3
    trained(x, t, condition).square().sum().backward()
    for layer in trained.own_blocks.modules():
        if isinstance(layer, SegmentLinear):
            assert layer.weight.grad is not None
            touched = layer.weight.grad.abs().flatten(1).amax(1) > 0
            assert touched.tolist() == [True, True, False]


@pytest.mark.parametrize("segment", [None, 1])
def test_gradients_of_layers_of_segments(segment: int | None) -> None:
    layer = SegmentLinear(3, 4, 2).double()
    generator = torch.Generator().manual_seed(0)
    shapes = (3 if segment is None else 1, 2, 5, 4), layer.weight.shape, layer.bias.shape
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def applied(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (values, segment))

    assert torch.autograd.gradcheck(applied, inputs)


def test_one_segment_without_a_trunk_is_the_plain_transformer_bit_for_bit() -> None:
    sizes: dict[str, Any] = {"hidden": 16, "num_heads": 2, "dropout": 0.1}
    plain = DiT(
        DiTConfig(**sizes, num_layers=2),
        shape=(1, 4, 4),
        num_classes=CLASSES,
        feed_forward=lambda _: FeedForward(16, 64),
        generator=torch.Generator().manual_seed(3),
    )
    config = BlockwiseConfig(**sizes, segments=1, trunk_layers=0, segment_layers=2)
    blockwise = Blockwise(config, shape=(1, 4, 4), num_classes=CLASSES, generator=torch.Generator().manual_seed(3))
    pairs = list(zip(plain.parameters(), same_order(blockwise, plain), strict=True))
    assert all(torch.equal(one.flatten(), other.flatten()) for one, other in pairs)
    stir = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for one, other in pairs:
            one += 0.1 * torch.randn(one.shape, generator=stir)
            other.copy_(one.view_as(other))
    losses = []
    for made in (plain, blockwise):
        torch.manual_seed(5)  # of the dropout
        generator = torch.Generator().manual_seed(6)
        task = flow()
        (drawn,) = task.draw([examples(32, generator)], [generator])
        losses.append(task.loss(made, drawn).per_example)
        losses[-1].mean().backward()
    assert torch.equal(*losses)
    for one, other in pairs:
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad.flatten(), other.grad.flatten())


def same_order(blockwise: Blockwise, plain: DiT) -> list[nn.Parameter]:
    """The parameters of a network of one segment, in the order of the plain one's."""
    own = {"feed_forward.0": "feed_forward_in", "feed_forward.2": "feed_forward_out", "blocks": "own_blocks"}
    found = []
    for name, _ in plain.named_parameters():
        for theirs, ours in own.items():
            name = name.replace(theirs, ours)
        found.append(blockwise.get_parameter(name))
    return found


def examples(number: int, generator: torch.Generator) -> Any:
    from trainer.data import Batch

    labels = torch.randint(CLASSES, (number,), generator=generator)
    return Batch(torch.randn(number, 1, 4, 4, generator=generator), labels, torch.arange(number))


def test_one_segment_is_the_plain_perceptron_bit_for_bit() -> None:
    plain = PlainNetwork(2, hidden=24, layers=3, seed=0)
    one = BlockwiseMLP(BlockwiseMLPConfig(segments=1, hidden=24), num_values=2, num_classes=0, generator=None)
    with torch.no_grad():
        for ours, theirs in zip(one.parameters(), plain.parameters(), strict=True):
            ours.copy_(theirs[None])
    generator = torch.Generator().manual_seed(0)
    x, t = torch.randn(50, 2, generator=generator), torch.rand(50, generator=generator)
    outputs = [made(x, t, UNCONDITIONAL) for made in (plain, one)]
    assert torch.equal(*outputs)
    for output in outputs:
        output.square().mean().backward()
    for ours, theirs in zip(one.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.equal(ours.grad[0], theirs.grad)


def test_perceptrons_of_segments_are_perceptrons() -> None:
    config = BlockwiseMLPConfig(segments=4, hidden=8)
    made = BlockwiseMLP(config, num_values=2, num_classes=3, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    x, t, label = torch.randn(9, 2, generator=generator), torch.rand(9, generator=generator), torch.arange(9) % 4
    found = made(x, t, Condition(label))
    assert made.embed_label is not None
    for row in range(9):
        segment = int(t[row] * 4)
        values = torch.cat([x[row], t[row, None]])
        for number, block in enumerate(made.blocks):
            values = block.get_parameter("weight")[segment] @ values + block.get_parameter("bias")[segment]
            values = nn.functional.silu(values + made.embed_label.weight[label[row]] if number == 0 else values)
        wanted = made.output.weight[segment] @ values + made.output.bias[segment]
        torch.testing.assert_close(found[row], wanted, rtol=1e-5, atol=1e-6)


# Features and their approximation


def test_projection_and_features_stand_beside_the_same_prediction() -> None:
    trained, (x, t, condition) = network(teacher_features=6), points(5)
    prediction = trained(x, t, condition)
    first, features = trained(x, t, condition, WithFeatures())
    second, projection = trained(x, t, condition, WithProjection())
    assert torch.equal(first, prediction)
    assert torch.equal(second, prediction)
    assert features.shape == (5, 4, 16)
    assert trained.projection is not None
    assert torch.equal(projection, trained.projection(features))


def test_features_are_approximated_by_a_share_of_the_residual() -> None:
    trained, (x, t, condition) = network(residual_layers=1), points(5)
    start = t.mul(3).floor() / 3
    share = share_behind(t, segment_of(t, 3), 3)
    x_start = x + start[:, None, None, None]
    found, true = trained(x, t, condition, Approximation(lambda times: x + times[:, None, None, None]))
    _, wanted = trained(x, t, condition, WithFeatures())
    _, first = trained(x_start, start, condition, WithFeatures())
    torch.testing.assert_close(true, wanted, rtol=1e-5, atol=1e-6)
    _, onward = trained(x, t, condition, WithFeatures()), trained(x, t, condition, Onward(found, torch.zeros(5)))
    torch.testing.assert_close(onward, trained(x, t, condition, Onward(first, share)), rtol=1e-5, atol=1e-6)
    found.square().sum().backward()
    learning = {name.partition(".")[0] for name, value in trained.named_parameters() if value.grad is not None}
    assert learning == {"residual", "residual_output"}


def test_a_residual_of_zero_leaves_the_features_at_the_start() -> None:
    trained, (x, t, condition) = network(residual_layers=1), points(5)
    assert trained.residual_output is not None
    with torch.no_grad():
        for parameter in trained.residual_output.parameters():
            parameter.zero_()
    start = start_of(segment_of(t, 3), 3, t)
    found, _ = trained(x, t, condition, Approximation(lambda _: x + 1))
    _, first = trained(x + 1, start, condition, WithFeatures())
    torch.testing.assert_close(found, first, rtol=1e-5, atol=1e-6)


# Objectives


def drawn_points() -> PathSample:
    x, t, _ = points(7)
    return path.build(path.LinearConfig()).sample(Pairs(x, x.flip(0) + 1), t, generator=torch.Generator())


@pytest.mark.parametrize("places", [(), (2, 2)], ids=["an example", "places"])
def test_an_aligned_loss_is_the_error_less_the_mean_cosine(places: tuple[int, ...]) -> None:
    trained, sample, (_, _, condition) = network(teacher_features=6), drawn_points(), points(7)
    matrix = torch.randn(16, 6 * (4 if places else 1), generator=torch.Generator().manual_seed(8))

    def teacher(images: Tensor) -> Tensor:
        return (images.flatten(1) @ matrix).view(len(images), 6, *places)

    config = objective.AlignedConfig(teacher=Path("unused"), weight=0.3)
    aligned = objective.build(config, target=target.Velocity(STRAIGHT), teacher=teacher)
    found = aligned.loss(trained, sample, condition)
    prediction, projected = trained(sample.x_t, sample.t, condition, WithProjection())
    taught = teacher(sample.x_1)
    for row in range(7):
        error = (prediction[row] - sample.velocity[row]).square().mean()
        cosines = []
        for token in range(4):
            own = taught[row, :, token // 2, token % 2] if places else taught[row]
            cosines.append(own @ projected[row, token] / own.norm() / projected[row, token].norm())
        torch.testing.assert_close(found.per_example[row], error - 0.3 * sum(cosines) / 4, rtol=1e-5, atol=1e-6)
    found.per_example.mean().backward()
    assert trained.embed_trunk is not None
    assert trained.embed_trunk.weight.grad is not None


def test_a_residual_of_features_is_learned_from_states_of_the_same_pairs() -> None:
    trained, sample, (_, _, condition) = network(residual_layers=1), drawn_points(), points(7)
    found = objective.FeatureResidual(STRAIGHT).loss(trained, sample, condition)
    start = start_of(segment_of(sample.t, 3), 3, sample.t)
    x_start = (1 - start)[:, None, None, None] * sample.x_0 + start[:, None, None, None] * sample.x_1
    _, first = trained(x_start, start, condition, WithFeatures())
    _, wanted = trained(sample.x_t, sample.t, condition, WithFeatures())
    share = share_behind(sample.t, segment_of(sample.t, 3), 3)
    patches = trained.grid.patches(sample.x_t)
    assert trained.embed_trunk is not None
    assert trained.residual_output is not None
    change = trained.residual[0](trained.embed_trunk(patches) + trained.positions, steered(trained, sample, condition))
    approximated = first + share[:, None, None] * trained.residual_output(change)
    errors = (approximated - wanted).square().mean((1, 2))
    torch.testing.assert_close(found.per_example, errors, rtol=1e-5, atol=1e-6)
    relative = errors.mean() / wanted.square().mean()
    torch.testing.assert_close(found.terms["feature_relative_error"], relative, rtol=1e-5, atol=0)


def steered(made: Blockwise, sample: PathSample, condition: Condition) -> Tensor:
    return steering(made, sample.t, condition.label, torch.float32)


# Sampling


def drawn(made: Blockwise, steps: int, *, approximates: bool, guidance: float = 1.5, **within: Any) -> Tensor:
    field = flow(residual_layers=1).field(made, Condition(torch.arange(6) % CLASSES), guidance)
    assert isinstance(field, SegmentField)
    chosen = SegmentedConfig(segments=3, within=EulerConfig(steps=steps))
    if within:
        chosen = SegmentedConfig(segments=3, within=HeunConfig(steps=steps))
    x = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(5))
    times = torch.linspace(0, 1, 3 * steps + 1)
    task = flow()
    with torch.no_grad():
        return build(chosen, path=task.path).sample(replace(field, approximates=approximates), x, times).final


@pytest.mark.parametrize("guidance", [0.0, 1.0, 1.5])
def test_one_step_a_segment_needs_no_approximation(guidance: float) -> None:
    made = network(residual_layers=1)
    full, approximated = (drawn(made, 1, approximates=choice, guidance=guidance) for choice in (False, True))
    assert torch.equal(full, approximated)
    full, approximated = (drawn(made, 3, approximates=choice, guidance=guidance) for choice in (False, True))
    assert not torch.equal(full, approximated)


def test_a_sampler_keeps_to_the_blocks_of_its_segment() -> None:
    """Heun's second evaluation of a step that ends on an edge stays in the segment that ends there."""
    made = network()
    field = flow().field(made, Condition(torch.arange(6) % CLASSES), 1.0)
    x = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(5))
    sampler = build(SegmentedConfig(segments=3, within=HeunConfig(steps=1)), path=flow().path)
    assert isinstance(sampler, Segmented)
    with torch.no_grad():
        found = sampler.sample(field, x, torch.tensor([0.0, 1 / 3, 2 / 3, 1.0])).final
        wanted = x
        for segment in range(3):
            alone = single(made, segment)
            start, end = (torch.full((6,), edge / 3) for edge in (segment, segment + 1))
            label = Condition(torch.arange(6) % CLASSES)
            slope = alone(wanted, start, label)
            ahead = alone(wanted + slope / 3, end, label)
            wanted = wanted + (slope + ahead) / 6
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_walk_back_to_the_source_approximates_nothing() -> None:
    made = network(residual_layers=1)
    field = flow(residual_layers=1).field(made, Condition(torch.arange(6) % CLASSES), 1.0)
    assert isinstance(field, SegmentField)
    x = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(5))
    sampler = build(SegmentedConfig(segments=3, within=EulerConfig(steps=2)), path=flow().path)
    with torch.no_grad():
        both = [
            sampler.sample(replace(field, approximates=choice), x, torch.linspace(1, 0, 7)).final
            for choice in (False, True)
        ]
    assert torch.equal(*both)


@pytest.mark.parametrize(
    ("sizes", "steps", "full", "approximated"),
    [((4, 1, 1), 8, 40, 5 + 2 * 7), ((20, 5, 4), 8, 25 * 8, 25 + 9 * 7)],
    ids=["digits", "paper"],
)
def test_block_calls_of_a_segment(sizes: tuple[int, int, int], steps: int, full: int, approximated: int) -> None:
    trunk, own, residual = sizes
    made = network(trunk_layers=trunk, segment_layers=own, residual_layers=residual, hidden=8)
    calls: Counter[str] = Counter()
    for block in made.blocks:
        block.register_forward_hook(lambda *_: calls.update(["block"]))
    for approximates, wanted in ((False, full), (True, approximated)):
        calls.clear()
        drawn(made, steps, approximates=approximates)
        assert calls["block"] == 3 * wanted
