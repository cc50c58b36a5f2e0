"""The causal transformer over the states of a chain: what a token sees, with and without kept keys and values."""

from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.config.model import CausalTransitionConfig
from trainer.flow import Condition
from trainer.flow.question import NextStates, NextToken, OfToken, Past
from trainer.model.conditioning import PatchGrid
from trainer.model.network import NetworkSpec
from trainer.model.transition import CausalTransition
from trainer.model.values import initialised

NUM, CLASSES = 3, 4
SHAPES = {"vector": (3,), "image": (2, 4, 6)}
histories = pytest.mark.parametrize("history", ["last", "full"])
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def network(history: str, shape: tuple[int, ...] = (3,), transitions: int = 2) -> CausalTransition:
    """A network away from its start, where blocks are the identity and velocities 0."""
    config = CausalTransitionConfig.model_validate(
        {
            "history": history,
            "transitions": transitions,
            "hidden": 16,
            "num_layers": 2,
            "num_heads": 2,
            "head": {"hidden": 8},
        }
    )
    generator = torch.Generator().manual_seed(0)
    built = initialised(CausalTransition(NetworkSpec(config=config, state_shape=shape, num_classes=CLASSES)), 0)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return built.eval()


class Given:
    """States and what the head is asked about them."""

    def __init__(self, built: CausalTransition, draws: int = 2) -> None:
        generator = torch.Generator().manual_seed(1)
        chain, several = built.chain, (draws, built.chain.read_at_once, NUM)
        self.x_t = torch.randn(NUM, *chain.shape, generator=generator)
        self.t = torch.full((NUM,), 0.5 if chain.history == "last" else 0.0)
        self.following = torch.randn(*several[1:], *chain.shape, generator=generator)
        self.y = torch.randn(*several, *chain.shape, generator=generator)
        self.s = torch.rand(*several, chain.num_tokens, generator=generator)
        self.condition = Condition(torch.arange(NUM) % CLASSES)

    def velocities(self, built: CausalTransition, **changes: Tensor) -> Tensor:
        """Of the tokens, [M, B, K N, P]: in the order in which they are drawn."""
        given: dict[str, Any] = {**vars(self), **changes}
        question = NextStates(given["following"], given["y"], given["s"])
        found = built.chain.tokens(built(given["x_t"], self.t, self.condition, question))
        return found.movedim(1, 2).flatten(2, 3)


@histories
@shapes
@torch.no_grad()
def test_a_token_sees_no_token_that_is_drawn_with_it_or_after_it(history: str, shape: tuple[int, ...]) -> None:
    built = network(history, shape)
    given, chain = Given(built), built.chain
    before = given.velocities(built)
    for place in range(before.shape[2]):
        tokens = chain.tokens(given.following).movedim(0, 1).flatten(1, 2).clone()
        tokens[:, place] += 1.0
        changed = chain.states(tokens.unflatten(1, (-1, chain.num_tokens)).movedim(1, 0))
        after = given.velocities(built, following=changed)
        assert torch.equal(after[:, :, : place + 1], before[:, :, : place + 1])
        moved = (after != before).flatten(3).any(3)
        assert bool(moved[:, :, place + 1 :].all())


@histories
@torch.no_grad()
def test_a_draw_of_the_head_is_a_matter_of_its_token_alone(history: str) -> None:
    built = network(history)
    given = Given(built)
    before = given.velocities(built)
    y, s = given.y.clone(), given.s.clone()
    y[1, 0, :, 1], s[1, 0, :, 1] = 3.0, 0.123
    moved = (given.velocities(built, y=y, s=s) != before).any(3)
    expected = torch.zeros_like(moved)
    expected[1, :, 1] = True
    assert torch.equal(moved, expected)


def test_with_one_transition_both_histories_see_the_same() -> None:
    """What each velocity depends on, by the gradient: the last and all states are one state here."""
    seen = []
    for history in ("last", "full"):
        built = network(history, (4,), transitions=1)
        given = Given(built, draws=1)
        given.t = torch.zeros(NUM)
        x_t, following = given.x_t.requires_grad_(), given.following.requires_grad_()
        velocities = given.velocities(built)[0, 0, :, 0]
        slopes = [torch.autograd.grad(one, (x_t, following), retain_graph=True) for one in velocities]
        seen.append(torch.stack([torch.cat([of_x_t[0], of_next[0, 0]]) != 0 for of_x_t, of_next in slopes]))
    past, drawn = torch.ones(4, 4, dtype=torch.bool), torch.ones(4, 4, dtype=torch.bool).tril(-1)
    assert torch.equal(seen[0], torch.cat([past, drawn], dim=1))
    assert torch.equal(seen[0], seen[1])


@histories
@shapes
@torch.no_grad()
def test_kept_keys_and_values_give_what_a_whole_pass_gives(history: str, shape: tuple[int, ...]) -> None:
    built = network(history, shape)
    given, chain = Given(built, draws=1), built.chain
    whole = given.velocities(built)[0]
    tokens = chain.tokens(given.following).movedim(0, 1).flatten(1, 2)
    y = chain.tokens(given.y[0]).movedim(0, 1).flatten(1, 2)
    s = given.s[0].movedim(0, 1).flatten(1, 2)
    past, read = Past(), chain.tokens(given.x_t)
    for place in range(whole.shape[1]):
        features = built(read, given.t, given.condition, NextToken(past))
        velocity = built(y[:, place], s[:, place], given.condition, OfToken(features))
        torch.testing.assert_close(velocity, whole[:, place], rtol=1e-5, atol=1e-5)
        read = tokens[:, place : place + 1]
    assert past.length == (1 + chain.read_at_once) * chain.num_tokens


@torch.no_grad()
def test_without_time_input_the_time_is_of_no_effect() -> None:
    for history, differs in (("last", True), ("full", False)):
        built = network(history)
        given = Given(built)
        before = given.velocities(built)
        given.t = torch.full((NUM,), 0.25)
        assert (not torch.equal(given.velocities(built), before)) == differs


def test_patches_are_those_of_other_transformers_and_come_together_again() -> None:
    chain = network("last", (2, 4, 6)).chain
    images = torch.randn(5, 2, 4, 6)
    assert torch.equal(chain.tokens(images), PatchGrid(2, 3, 2).patches(images))
    assert torch.equal(chain.states(chain.tokens(images)), images)
    vectors = network("last").chain
    assert torch.equal(vectors.states(vectors.tokens(images[0, 0, :, :3])), images[0, 0, :, :3])


def test_a_prediction_at_a_state_is_refused() -> None:
    with pytest.raises(ValueError, match="question: a causal_transition network draws tokens and predicts nothing"):
        network("full")(torch.zeros(1, 3), torch.zeros(1), Condition())
