"""Context-coherent layers against a dense mixture on one process, and what they send against the routing.

Shape suffixes: T tokens of a home rank, A tokens of all ranks, D width, E experts, K experts a token visits.
"""

import functools
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from moe.collective_trace import read
from moe.config import MoEConfig, TopKRouterConfig
from tests.each import each
from tests.moe.expert_values import expert_values
from tests.ranks import run_ranks

TOKENS, WIDTH, HIDDEN, EXPERTS, LAYERS = 13, 12, 20, 8, 3
WORLD_SIZES = (2, 4)
CASES: dict[str, dict[str, Any]] = {
    "top-1": {"top_k": 1},
    "top-1, balancing loss": {"top_k": 1, "aux_loss": 0.3},
    "top-2": {"top_k": 2},
    "top-3 sigmoid, balancing loss": {"top_k": 3, "score": "sigmoid", "aux_loss": 0.3},
    "all on one expert": {"top_k": 1, "pull": 30.0},
}


def tokens_of(rank: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 + rank)
    tokens_TD = torch.randn(TOKENS, WIDTH, dtype=torch.float64, generator=generator)
    tokens_TD[:, 0] = 3.0
    return tokens_TD


def slots(layer: int) -> np.ndarray:
    return np.random.default_rng(layer).permutation(EXPERTS)


def normalise(rows: Tensor) -> Tensor:
    return rows / rows.square().mean(dim=-1, keepdim=True).sqrt()


def configuration(top_k: int = 1, pull: float = 0.0, **router: Any) -> MoEConfig:
    assert pull >= 0
    settings = {"aux_loss": 0.0, **router}
    return MoEConfig(
        num_experts=EXPERTS, top_k=top_k, expert_hidden=HIDDEN, router=TopKRouterConfig(**settings), dispatch="coherent"
    )


def build(world_size: int, config: MoEConfig, pull: float, dtype: torch.dtype = torch.float64) -> list[Any]:
    """A stack of coherent layers; a pull above 0 draws all tokens to expert 5."""
    from moe.coherent_layer import CoherentMoELayer
    from moe.layer import transformer_config

    megatron = transformer_config(
        config, hidden=WIDTH, num_layers=LAYERS, num_heads=1, expert_parallel=world_size, dtype=dtype
    )
    layers = [CoherentMoELayer(config, megatron, layer, 7, slots(layer)) for layer in range(LAYERS)]
    with torch.no_grad():
        for layer in layers:
            layer.router.weight.mul_(20.0)
            layer.router.weight[5, 0] += pull
    return layers


def through(layers: list[Any], tokens_TD: Tensor) -> Tensor:
    from moe.dispatch.residency import Residency, return_home

    rows, residency = tokens_TD, Residency.home(len(tokens_TD), layers[0].ep_group, tokens_TD.device)
    for layer in layers:
        rows, fed, residency = layer(rows, residency, normalise)
        rows = rows + fed
    return return_home(rows, residency)


def run_cases(rank: int, world_size: int) -> dict[str, dict[str, Any]]:
    """Every case on one rank of an expert-parallel group of all ranks."""
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(expert_model_parallel_size=world_size)
    return {name: run_stack(rank, world_size, case) for name, case in CASES.items()}


def run_stack(rank: int, world_size: int, case: dict[str, Any]) -> dict[str, Any]:
    """Forward and backward on one rank, the mean over its own tokens as its loss; then forward alone."""
    from trainer.trace.context import phase
    from trainer.trace.recorder import Recorder

    layers = build(world_size, configuration(**case), case.get("pull", 0.0))
    tokens_TD = tokens_of(rank).requires_grad_()
    with TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder) / "trace.jsonl", steps=[1, 2], ranks_per_node=1, blocks=layers)
        with recorder.step(1):
            output_TD = through(layers, tokens_TD)
            with phase("backward"):
                output_TD.sin().mean().backward()
        with recorder.step(2), torch.no_grad():
            alone_TD = through(layers, tokens_TD)
        recorder.write()
        records = read(recorder.path)[1] if recorder.path.exists() else []
    averaged = []
    for layer in layers:
        gradient = layer.router.weight.grad
        dist.all_reduce(gradient)
        averaged.append((layer.router.weight.detach(), gradient / world_size))
    return {
        "output": output_TD.detach(),
        "alone": alone_TD,
        "input_gradient": tokens_TD.grad,
        "routers": averaged,
        "experts": [
            {
                expert: {name: (value, gradient / world_size) for name, (value, gradient) in matrices.items()}
                for expert, matrices in expert_values(layer).items()
            }
            for layer in layers
        ],
        "records": records,
    }


def dense_stack(
    tokens_AD: Tensor, routers: list[Tensor], experts: list[list[dict[str, Tensor]]], case: dict[str, Any]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Every expert on every token; the gate is zero outside the top k.

    Returns:
        The output, the sum of the balancing losses, and each layer's choices [A, K], best first.
    """
    balance, chosen = tokens_AD.new_zeros(()), []
    for router_ED, layer in zip(routers, experts, strict=True):
        normal_AD = normalise(tokens_AD)
        logits_AE = normal_AD @ router_ED.T
        scores_AE = logits_AE.softmax(dim=1) if case.get("score") is None else logits_AE.sigmoid()
        gates_AK, experts_AK = scores_AE.topk(case["top_k"], dim=1)
        shares_AE = scores_AE / scores_AE.sum(dim=1, keepdim=True)
        if case.get("score") and case["top_k"] > 1:
            gates_AK = gates_AK / gates_AK.sum(dim=1, keepdim=True)
        gates_AE = torch.zeros_like(scores_AE).scatter(1, experts_AK, gates_AK)
        outputs = [
            functional.gelu(normal_AD @ expert["linear_fc1.weight"].T) @ expert["linear_fc2.weight"].T
            for expert in layer
        ]
        tokens_AD = tokens_AD + (gates_AE[:, :, None] * torch.stack(outputs, dim=1)).sum(dim=1)
        frequency_E = torch.bincount(experts_AK.flatten(), minlength=EXPERTS) / experts_AK.numel()
        balance = balance + case.get("aux_loss", 0.0) * EXPERTS * (frequency_E * shares_AE.mean(dim=0)).sum()
        chosen.append(experts_AK)
    return tokens_AD, balance, chosen


@pytest.fixture(scope="module")
def results() -> dict[int, list[dict[str, dict[str, Any]]]]:
    return {world_size: run_ranks(run_cases, world_size) for world_size in WORLD_SIZES}


def reference(ranks: list[dict[str, Any]], case: dict[str, Any]) -> dict[str, Any]:
    """The dense stack with the weights of the ranks, and its gradients."""
    experts = []
    for layer in range(LAYERS):
        merged = {expert: values for result in ranks for expert, values in result["experts"][layer].items()}
        assert sorted(merged) == list(range(EXPERTS))
        experts.append(
            [
                {name: value.clone().requires_grad_() for name, (value, _) in merged[expert].items()}
                for expert in range(EXPERTS)
            ]
        )
    routers = [weight.clone().requires_grad_() for weight, _ in ranks[0]["routers"]]
    tokens_AD = torch.cat([tokens_of(rank) for rank in range(len(ranks))]).requires_grad_()
    output_AD, balance, chosen = dense_stack(tokens_AD, routers, experts, case)
    (output_AD.sin().mean(dim=1).mean() + balance).backward()
    return {"experts": experts, "routers": routers, "tokens": tokens_AD, "output": output_AD, "chosen": chosen}


# Megatron's softmax is one of float32.
close = functools.partial(torch.testing.assert_close, rtol=2e-6, atol=2e-7)


@each("world_size, case", product(WORLD_SIZES, CASES))
def test_a_stack_and_its_gradients_equal_one_process_on_the_whole_batch(
    results: dict[int, list[dict[str, Any]]], world_size: int, case: str
) -> None:
    ranks = [result[case] for result in results[world_size]]
    expected = reference(ranks, CASES[case])
    close(torch.cat([result["output"] for result in ranks]), expected["output"])
    close(torch.cat([result["alone"] for result in ranks]), expected["output"])
    inputs = torch.cat([result["input_gradient"] for result in ranks])
    close(inputs / world_size, expected["tokens"].grad)
    for layer in range(LAYERS):
        for result in ranks:
            close(result["routers"][layer][1], expected["routers"][layer].grad)
            for expert, values in result["experts"][layer].items():
                for name, (_, gradient) in values.items():
                    dense = expected["experts"][layer][expert][name].grad
                    close(gradient, torch.zeros_like(gradient) if dense is None else dense)


def test_all_tokens_can_end_on_one_rank(results: dict[int, list[dict[str, Any]]]) -> None:
    ranks = [result["all on one expert"] for result in results[4]]
    for layer in range(LAYERS):
        busy = int(np.flatnonzero(slots(layer) == 5)[0]) // (EXPERTS // 4)
        sent = [next(r for r in result["records"] if r.layer == layer and r.op == "all_to_all") for result in ranks]
        assert all(sum(record.out_splits or ()) == 0 for rank, record in enumerate(sent) if rank != busy)


def moves(chosen: list[Tensor], world_size: int) -> list[tuple[list[list[int]], list[list[int]], list[int]]]:
    """Who sends how many rows to whom, followed token by token.

    Returns:
        For each layer, rows from rank to rank on the way to the experts, from rank to rank on the way to the anchors,
        and tokens on each rank before the layer.
    """
    place = [token // TOKENS for token in range(TOKENS * world_size)]
    found = []
    for layer, experts_AK in enumerate(chosen):
        rank_of = {int(expert): slot // (EXPERTS // world_size) for slot, expert in enumerate(slots(layer))}
        there = [[0] * world_size for _ in range(world_size)]
        back = [[0] * world_size for _ in range(world_size)]
        before = [place.count(rank) for rank in range(world_size)]
        for token, experts in enumerate(experts_AK.tolist()):
            ranks = [rank_of[expert] for expert in experts]
            for rank in set(ranks):
                there[place[token]][rank] += 1
                if rank != ranks[0]:
                    back[rank][ranks[0]] += 1
            place[token] = ranks[0]
        found.append((there, back, before))
    return found


@each("world_size, case", product(WORLD_SIZES, ["top-1", "top-2"]))
def test_what_is_sent_follows_from_the_routing(
    results: dict[int, list[dict[str, Any]]], world_size: int, case: str
) -> None:
    ranks = [result[case] for result in results[world_size]]
    top_k = CASES[case]["top_k"]
    row, label, gate = WIDTH * 8, 8, 8
    counts = 8 * (2 * world_size + EXPERTS)
    followed = moves(reference(ranks, CASES[case])["chosen"], world_size)
    for rank, result in enumerate(ranks):
        expected: list[tuple[Any, ...]] = []
        for layer, (there, back, _) in enumerate(followed):
            forward = row + top_k * gate + (1 + top_k) * label
            expected.append(("forward", layer, "all_gather", counts, None))
            expected.append(("forward", layer, "all_to_all", forward * sum(there[rank]), scaled(there[rank], forward)))
            if top_k > 1:
                expected.append(("forward", layer, "all_to_all", row * sum(back[rank]), scaled(back[rank], row)))
        recorded = [(r.phase, r.layer, r.op, r.bytes_in, r.in_splits) for r in result["records"] if r.step == 1]
        home = 2
        assert recorded[: len(expected)] == expected
        assert [entry[2] for entry in recorded[len(expected) : len(expected) + home]] == ["all_gather", "all_to_all"]
        backward = recorded[len(expected) + home + 1 :]
        mirrored = []
        for layer, (there, back, _) in reversed(list(enumerate(followed))):
            arrived = [sent[rank] for sent in there]
            if top_k > 1:
                returned = [sent[rank] for sent in back]
                mirrored.append(("backward", layer, "all_to_all", row * sum(returned), scaled(returned, row)))
            size = row + top_k * gate
            mirrored.append(("backward", layer, "all_to_all", size * sum(arrived), scaled(arrived, size)))
        assert backward == mirrored


@each("world_size, case", product(WORLD_SIZES, ["top-1", "top-2"]))
def test_without_gradients_a_few_rows_need_no_message_about_sizes(
    results: dict[int, list[dict[str, Any]]], world_size: int, case: str
) -> None:
    ranks = [result[case] for result in results[world_size]]
    top_k = CASES[case]["top_k"]
    followed = moves(reference(ranks, CASES[case])["chosen"], world_size)
    row = WIDTH * 8 + top_k * 8 + (1 + top_k) * 8
    for rank, result in enumerate(ranks):
        recorded = [r for r in result["records"] if r.step == 2]
        assert [r.op for r in recorded] == ["all_to_all"] * (LAYERS * min(top_k, 2)) + ["all_gather", "all_to_all"]
        first_of_layer = [next(r for r in recorded if r.layer == layer) for layer in range(LAYERS)]
        for record, (_, _, before) in zip(first_of_layer, followed, strict=True):
            assert record.in_splits == tuple([row * before[rank]] * world_size)
            assert record.out_splits == tuple(row * tokens for tokens in before)


def scaled(rows: list[int], size: int) -> tuple[int, ...]:
    return tuple(number * size for number in rows)
