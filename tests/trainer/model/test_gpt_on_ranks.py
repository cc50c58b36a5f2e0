"""The language model on several ranks against one process, and what it sends."""

import functools
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from moe.collective_trace import read
from tests.ranks import run_ranks
from tests.trainer.model.language_models import LENGTH, SIZES, mixture, window

BATCH = 4
RANKS = 2


def on_a_rank(rank: int, world_size: int) -> dict[tuple[str, int, float], dict[str, Any]]:
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(expert_model_parallel_size=world_size)
    modes = ("home", "coherent") if world_size > 1 else ("home",)
    return {
        (mode, top_k, dropout): trained(rank, world_size, mode, top_k, dropout)
        for mode in modes
        for top_k in (1, 2)
        for dropout in ((0.0, 0.4) if world_size > 1 else (0.0,))
    }


def trained(rank: int, world_size: int, mode: str, top_k: int, dropout: float) -> dict[str, Any]:
    """Losses, logits and gradients averaged over the ranks, and what was sent."""
    from trainer.distributed.groups import group_names
    from trainer.model.parallel.state import named_parameters
    from trainer.trace.context import phase
    from trainer.trace.recorder import Recorder

    model = mixture(mode, top_k, world_size, dropout=dropout)
    tokens_BN, targets_BN = window(batch=BATCH)
    share = BATCH // world_size
    own = slice(rank * share, (rank + 1) * share)
    torch.manual_seed(10 + rank)
    with TemporaryDirectory() as folder:
        recorder = Recorder(
            Path(folder) / "trace.jsonl",
            steps=[1],
            ranks_per_node=1,
            group_names=group_names(),
            blocks=list(model.blocks),
        )
        with recorder.step(1):
            losses = model(tokens_BN[own], targets_BN[own])
            with phase("backward"):
                losses.mean().backward()
        recorder.write()
        records = read(recorder.path)[1] if recorder.path.exists() else []
    gradients = {}
    for named in named_parameters(model):
        gradient = named.parameter.grad
        assert gradient is not None
        if named.stack is None:
            dist.all_reduce(gradient)
            gradients[named.name] = gradient / world_size
        else:
            gradients |= zip(named.stack.names, gradient / world_size, strict=True)
    model.eval()
    with torch.no_grad():
        logits = model(tokens_BN[own])
    return {"losses": losses.detach(), "logits": logits, "gradients": gradients, "records": records}


@pytest.fixture(scope="module")
def results() -> dict[int, list[dict[tuple[str, int, float], dict[str, Any]]]]:
    return {world_size: run_ranks(on_a_rank, world_size) for world_size in (1, RANKS)}


# Megatron's softmax is one of float32.
close = functools.partial(torch.testing.assert_close, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("mode", ["home", "coherent"])
def test_ranks_learn_what_one_process_learns_from_the_whole_batch(
    results: dict[int, Any], top_k: int, mode: str
) -> None:
    alone = results[1][0]["home", top_k, 0.0]
    ranks = [result[mode, top_k, 0.0] for result in results[RANKS]]
    for name in ("losses", "logits"):
        close(torch.cat([result[name] for result in ranks]), alone[name])
    merged: dict[str, list[Tensor]] = {}
    for result in ranks:
        for name, gradient in result["gradients"].items():
            merged.setdefault(name, []).append(gradient)
    assert set(merged) == set(alone["gradients"])
    for name, expected in alone["gradients"].items():
        for gradient in merged[name]:
            close(gradient, expected)


@pytest.mark.parametrize("top_k", [1, 2])
def test_dropout_does_not_depend_on_where_a_token_is(results: dict[int, Any], top_k: int) -> None:
    for result in results[RANKS]:
        home, coherent = (result[mode, top_k, 0.4] for mode in ("home", "coherent"))
        assert not torch.allclose(home["losses"], result["home", top_k, 0.0]["losses"], atol=1e-3)
        close(coherent["losses"], home["losses"])
        for name, gradient in home["gradients"].items():
            close(coherent["gradients"][name], gradient)


def sent(result: dict[str, Any], phase: str) -> list[tuple[int | None, str, str]]:
    return [(r.layer, r.op, r.dtype) for r in result["records"] if r.phase == phase and r.group == "expert"]


def test_one_all_to_all_of_tokens_a_layer_instead_of_two(results: dict[int, Any]) -> None:
    """And what comes in its place, in order: counts, keys and values; at the end targets and losses."""
    layers = range(SIZES["num_layers"])
    for result in results[RANKS]:
        coherent, home = result["coherent", 1, 0.0], result["home", 1, 0.0]
        forward: list[tuple[int | None, str, str]] = []
        for layer in layers:
            forward += [(layer, "all_gather", "float64")] * (layer > 0)
            forward += [(layer, "all_gather", "int64"), (layer, "all_to_all", "float64")]
        forward += [(None, "all_gather", "uint8"), (None, "reduce_scatter", "float64")]
        assert sent(coherent, "forward") == forward
        backward: list[tuple[int | None, str, str]] = [(None, "all_gather", "float64")]
        for layer in reversed(layers):
            backward += [(layer, "all_to_all", "float64")]
            backward += [(layer, "reduce_scatter", "float64")] * (layer > 0)
        assert sent(coherent, "backward") == backward
        for layer in layers:
            at_home = [op for at, op, dtype in sent(home, "forward") if at == layer and "float" in dtype]
            assert at_home == ["all_to_all", "all_to_all"]


def test_keys_and_values_are_padded_to_the_fullest_rank(results: dict[int, Any]) -> None:
    """The fullest rank follows from what arrived in the layer before."""
    ranks = [result["coherent", 1, 0.0]["records"] for result in results[RANKS]]
    token = SIZES["hidden"] * 8 + 8 + 2 * 8
    pair = 2 * SIZES["num_kv_heads"] * (SIZES["hidden"] // SIZES["num_heads"]) * 8

    def one(records: list[Any], phase: str, layer: int, op: str, dtype: str = "float64") -> Any:
        return next(r for r in records if (r.phase, r.layer, r.op, r.dtype) == (phase, layer, op, dtype))

    for layer in range(1, SIZES["num_layers"]):
        arrived = [one(records, "forward", layer - 1, "all_to_all").bytes_out for records in ranks]
        assert all(size % token == 0 for size in arrived)
        assert sum(arrived) == token * BATCH * LENGTH
        most = max(arrived) // token
        for records in ranks:
            gathered = one(records, "forward", layer, "all_gather")
            assert (gathered.bytes_in, gathered.bytes_out) == ((pair + 8) * most, (pair + 8) * most * RANKS)
            scattered = one(records, "backward", layer, "reduce_scatter")
            assert (scattered.bytes_in, scattered.bytes_out) == (pair * most * RANKS, pair * most)
