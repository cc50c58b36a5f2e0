"""A network whose blocks belong to segments of time, against networks without segments and plain loops."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.benchmarks.methods.plain_loop import PlainNetwork
from tests.each import each
from tests.trainer.model.blockwise_networks import CLASSES, flow, network, points, single
from trainer.config.model import BlockwiseConfig, BlockwiseMLPConfig, DiTConfig
from trainer.flow import UNCONDITIONAL, Condition
from trainer.flow.time import segment_of, share_behind, start_of
from trainer.model.blockwise import Blockwise, BlockwiseMLP, Groups, SegmentLinear
from trainer.model.dit import DiT
from trainer.model.network import NetworkSpec
from trainer.model.values import initialised

# Segments of time


@each("segments", [1, 2, 3, 5, 6, 7, 10])
@each("dtype", [torch.float32, torch.float64])
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


@each("number", [1, 2, 7, 12])
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
    layers = DiTConfig(**sizes, num_layers=2)
    plain = DiT(NetworkSpec(config=layers, state_shape=(1, 4, 4), num_classes=CLASSES))
    initialised(plain, 3)
    config = BlockwiseConfig(**sizes, segments=1, trunk_layers=0, segment_layers=2)
    blockwise = Blockwise(NetworkSpec(config=config, state_shape=(1, 4, 4), num_classes=CLASSES))
    pairs = list(zip(plain.parameters(), same_order(blockwise, plain), strict=True))
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
    one = BlockwiseMLP(NetworkSpec(config=BlockwiseMLPConfig(segments=1, hidden=24), state_shape=(2,)))
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
    made = initialised(BlockwiseMLP(NetworkSpec(config=config, state_shape=(2,), num_classes=3)), 0)
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
