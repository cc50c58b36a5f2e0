"""Training passes that choose as evaluation passes did: the same bits, gradients, counts; what is no replay differs."""

from typing import Any

import pytest
import torch
from torch import Tensor

from moe.config import SparseOTRouterConfig, TopKRouterConfig
from moe.repetition import passes
from moe.router.replay import Routes, record, replay
from tests.each import each
from tests.moe.router.routers import WIDTH, build_router, skewed_tokens
from tests.moe.router.test_contract import VARIANTS, same, state, top_ks

TOKENS = 120
CASES = [(name, top_k) for name in VARIANTS for top_k in top_ks(name)]
each_kind = each("name, top_k", CASES)


def trained(name: str, top_k: int) -> Any:
    """A router that has learned whatever it learns from a few micro batches."""
    router = build_router(VARIANTS[name], top_k=top_k, std=1.0)
    for seed in range(3):
        router(skewed_tokens(TOKENS, 10 + seed))
        router.update_bias()
    return router


def recorded(
    router: Any, *batches: Tensor, padding: Tensor | None = None
) -> tuple[Routes, list[tuple[Tensor, Tensor]]]:
    router.eval()
    with record(router) as routes:
        outputs = [router(tokens, padding) for tokens in batches]
    router.train()
    return routes, outputs


def follows(router: Any, tokens: Tensor, expected: tuple[Tensor, Tensor], padding: Tensor | None = None) -> Tensor:
    probs, chosen = router(tokens, padding)
    assert torch.equal(probs, expected[0])
    assert torch.equal(chosen, expected[1])
    assert torch.equal(router.report()["expert_tokens"], expected[1].sum(dim=0))
    return probs


@each_kind
@each("padded", [False, True])
def test_a_replayed_pass_has_the_bits_of_the_evaluation_pass(name: str, top_k: int, padded: bool) -> None:
    router = trained(name, top_k)
    padding = torch.arange(TOKENS)[:, None] % 5 == 0 if padded else None
    batches = skewed_tokens(TOKENS, 1), skewed_tokens(TOKENS, 2)
    routes, outputs = recorded(router, *batches, padding=padding)
    replay(router, routes)
    for tokens, expected in zip(batches, outputs, strict=True):
        follows(router, tokens, expected, padding)
    router.update_bias()  # what routers learn besides their weights moves on
    replay(router, routes)
    follows(router, batches[0], outputs[0], padding)
    replay(router, None)
    with record(router) as nothing:
        router(batches[0])
    assert nothing.by_router == [[]]


@each_kind
def test_the_gradient_is_the_one_of_the_evaluation_pass(name: str, top_k: int) -> None:
    """But for what balances the gate, which training adds."""
    config = VARIANTS[name]
    if getattr(config, "aux_loss", 0) or config.z_loss:
        config = config.model_copy(update={"z_loss": 0.0, **({"aux_loss": 0.0} if hasattr(config, "aux_loss") else {})})
    router = build_router(config, top_k=top_k, std=1.0)
    tokens = skewed_tokens(TOKENS, 1)
    values = torch.randn(TOKENS, router.num_experts, generator=torch.Generator().manual_seed(5))
    routes, [(probs, _)] = recorded(router, tokens)
    (expected,) = torch.autograd.grad((probs * values).sum(), router.weight)
    replay(router, routes)
    (found,) = torch.autograd.grad((router(tokens)[0] * values).sum(), router.weight)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    if not (name == "sparse_ot, plan" and top_k == 1):
        assert float(found.abs().max()) > 0


@each("name", ["sinkhorn", "base", "sparse_ot", "sparse_ot, plan", "top_k, bias"])
def test_without_replay_a_training_pass_is_another(name: str) -> None:
    router, tokens = trained(name, 1), skewed_tokens(TOKENS, 1)
    _, [(probs, chosen)] = recorded(router, tokens)
    if name == "top_k, bias":  # it routes alike until its bias moves
        router(tokens)
        router.update_bias()
    again = router(tokens)
    assert not torch.equal(again[0], probs)
    assert not torch.equal(again[1], chosen)


def test_new_weights_follow_old_choices() -> None:
    """As the second step of a cycle does."""
    router, tokens = trained("sparse_ot", 2), skewed_tokens(TOKENS, 1)
    routes, [(_, chosen)] = recorded(router, tokens)
    with torch.no_grad():
        router.weight.add_(torch.randn_like(router.weight))
    replay(router, routes)
    probs, again = router(tokens)
    assert torch.equal(again, chosen)
    expected = router.gating(tokens).softmax(-1).flatten(0, 1) * chosen
    torch.testing.assert_close(probs, expected)


@each_kind
def test_a_repetition_follows_its_first_pass_and_is_not_counted(name: str, top_k: int) -> None:
    """Passes are repeated last one first, when others have been made."""
    router = trained(name, top_k)
    batches = skewed_tokens(TOKENS, 1), skewed_tokens(TOKENS, 2)
    routes, outputs = recorded(router, *batches)
    replay(router, routes)
    contexts = [passes() for _ in batches]
    for tokens, expected, (first, _) in zip(batches, outputs, contexts, strict=True):
        with first:
            follows(router, tokens, expected)
    replay(router, None)
    before = state(router)
    for tokens, expected, (_, second) in [*zip(batches, outputs, contexts, strict=True)][::-1]:
        with second:
            follows(router, tokens, expected)
    assert same(before, state(router))


def test_loads_are_those_of_the_choices_that_are_followed() -> None:
    """The bias moves by the demand of the recorded choices, not by that of the new weights."""
    config = TopKRouterConfig(score="sigmoid", bias_rate=0.1, aux_loss=0)
    router, tokens = build_router(config, top_k=2, std=1.0), skewed_tokens(TOKENS, 1)
    routes, [(_, chosen)] = recorded(router, tokens)
    with torch.no_grad():
        router.weight.neg_()
    replay(router, routes)
    router(tokens)
    assert torch.equal(router.demand, chosen.sum(dim=0))
    router.update_bias()
    assert torch.equal(router.expert_bias, 0.1 * (2 * TOKENS - 8 * chosen.sum(dim=0)).sign())


def test_the_potentials_of_a_replayed_pass_are_learned_as_without_replay() -> None:
    tokens, states = skewed_tokens(TOKENS, 1), []
    for with_replay in (False, True):
        router = build_router(SparseOTRouterConfig(), std=1.0)
        routes, _ = recorded(router, tokens)
        replay(router, routes if with_replay else None)
        router(tokens)
        assert float(router.report()["residual"]) >= 0
        router.update_bias()
        states.append(state(router))
    assert same(*states)


def test_the_balancing_loss_is_of_the_choices_that_are_followed() -> None:
    """Switch Transformer, equation 4, by hand; its gradient is scaled by 1 here."""
    router, tokens = build_router(TopKRouterConfig(aux_loss=0.5), top_k=2, std=1.0), skewed_tokens(TOKENS, 1)
    routes, [(_, chosen)] = recorded(router, tokens)
    with torch.no_grad():
        router.weight.copy_(router.weight.flip(0))
    logits = router.gating(tokens).flatten(0, 1)
    shares = chosen.sum(0) / (TOKENS * 2)
    loss = 0.5 * 8 * (logits.softmax(1).mean(0) * shares).sum()
    (expected,) = torch.autograd.grad(loss, router.weight)
    replay(router, routes)
    (found,) = torch.autograd.grad((router(tokens)[0] * 0).sum(), router.weight)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_what_cannot_be_followed_is_told() -> None:
    router, tokens = trained("top_k", 1), skewed_tokens(TOKENS, 1)
    routes, _ = recorded(router, tokens)
    with pytest.raises(ValueError, match=r"^routes: of 0 routers, and the network has 1; record this network$"):
        replay(router, Routes())
    replay(router, routes)
    with pytest.raises(RuntimeError, match=r"^a training pass routes 60 tokens, .* had 120; make both of the same"):
        router(tokens[:60])
    with pytest.raises(RuntimeError, match=r"^a training pass has no recorded evaluation pass to follow"):
        router(tokens)


def test_a_network_without_experts_has_nothing_to_record() -> None:
    network = torch.nn.Linear(WIDTH, WIDTH)
    with record(network) as routes:
        network(torch.zeros(1, WIDTH))
    assert routes.by_router == []
    replay(network, routes)
    replay(network, None)
