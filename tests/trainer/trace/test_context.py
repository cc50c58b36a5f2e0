"""Which block the forward and the backward pass are in."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from trainer.trace.context import attach, layer, phase, position


class Probe(nn.Module):
    """A block that notes the position in both passes."""

    def __init__(self, seen: list[tuple[str, int | None]]) -> None:
        super().__init__()
        self.linear, self.seen = nn.Linear(3, 3), seen

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + Note.apply(self.linear(x), self.seen)


class Note(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, seen):
        ctx.seen = seen
        seen.append((position.phase, position.layer))
        return x.clone()

    @staticmethod
    def backward(ctx, *gradients):
        ctx.seen.append((position.phase, position.layer))
        return gradients[0], None


def run(blocks: Sequence[nn.Module], stem: nn.Module, seen: list[tuple[str, int | None]]) -> list[torch.Tensor]:
    with phase("forward"):
        h = stem(torch.ones(2, 3))
        for block in blocks:
            h = block(h)
        h = Note.apply(h, seen)
    with phase("backward"):
        h.sum().backward()
    return [parameter.grad.clone() for parameter in stem.parameters() if parameter.grad is not None]


def test_each_block_is_its_own_layer_forward_and_backward() -> None:
    seen: list[tuple[str, int | None]] = []
    blocks = [Probe(seen) for _ in range(3)]
    stem = nn.Sequential(nn.Linear(3, 3), Probe(seen))
    with attach(blocks):
        run(blocks, stem, seen)
    forward = [("forward", place) for place in (None, 0, 1, 2, None)]
    assert seen == forward + [("backward", place) for _, place in reversed(forward)]


class Around:
    """Works around a block as engines do: from hooks on its output (FSDP2), or from values in place of its own."""

    def __init__(self, seen: list[tuple[str, int | None]], *, in_place: bool) -> None:
        self.seen, self.in_place = seen, in_place

    def note(self, *_: Any) -> None:
        self.seen.append((position.phase, position.layer))

    def before(self, _block: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (Note.apply(inputs[0], self.seen),)

    def after(self, _block: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
        if self.in_place:
            return Note.apply(output, self.seen)
        self.note()
        output.register_hook(self.note)
        return None


@pytest.mark.parametrize("in_place", [False, True])
def test_what_an_engine_does_around_a_block_belongs_to_it(in_place: bool) -> None:
    seen: list[tuple[str, int | None]] = []
    blocks = [nn.Linear(3, 3) for _ in range(3)]
    engine = Around(seen, in_place=in_place)
    for block in blocks:
        block.register_forward_pre_hook(engine.before, prepend=True)
        block.register_forward_hook(engine.after)
    with attach(blocks):
        run(blocks, nn.Linear(3, 3), seen)
    forward = [("forward", place) for place in (0, 0, 1, 1, 2, 2, None)]
    assert seen == forward + [("backward", place) for _, place in reversed(forward)]


def test_gradients_are_the_same_and_nothing_stays_attached() -> None:
    torch.manual_seed(0)
    blocks, stem = [Probe([]) for _ in range(2)], nn.Linear(3, 3)
    plain = run(blocks, stem, [])
    stem.zero_grad()
    with attach(blocks):
        watched = run(blocks, stem, [])
    assert len(plain) == 2
    assert all(map(torch.equal, plain, watched))
    assert all(not block._forward_hooks and not block._forward_pre_hooks for block in blocks)


def test_marks_end_with_their_block_even_when_it_fails() -> None:
    def fail() -> None:
        with phase("optimizer"), layer(4):
            assert (position.phase, position.layer) == ("optimizer", 4)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (position.phase, position.layer) == ("forward", None)
