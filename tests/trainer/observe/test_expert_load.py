import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.ranks import run_ranks
from trainer.observe.expert_load import PERCENTILES, ExpertLoad
from trainer.observe.metrics import MetricsFile, read_metrics

LAYERS, EXPERTS, PASSES, STEPS = 3, 8, 2, 3


class ScriptedRouter(nn.Module):
    """Reports what it is told to."""

    reports: Mapping[str, Tensor]

    def forward(self, report: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        self.reports = report
        tokens_E = report["expert_tokens"]
        map_TE = torch.arange(int(tokens_E.max()))[:, None] < tokens_E  # as many tokens choose each expert
        return map_TE.double(), map_TE

    def report(self) -> Mapping[str, Tensor]:
        return self.reports


class ScriptedExperts(nn.Module):
    """Computes nothing for as many rows as it is told."""

    def forward(self, _rows: None, _tokens_per_slot: Tensor) -> None:
        return None


def computed(rank: int, step: int, layer: int) -> int:
    """Rows of a micro batch on a rank."""
    return 7 + 5 * rank * (layer + 1) + step


class Layer(nn.Module):
    """Experts that live nowhere but in the counts; see HoldsExperts."""

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer, self.router, self.experts = layer, ScriptedRouter(), ScriptedExperts()
        self.ep_group = dist.group.WORLD
        self.slot_to_expert = np.arange(EXPERTS)[::-1].copy()
        self.local_experts, self.served = [], None

    def expert_stacks(self) -> dict[str, nn.Parameter]:
        return {}


def scripted(rank: int, step: int, micro: int, layer: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1000 * rank + 100 * step + 10 * micro + layer)
    tokens = torch.randint(0, 50, [EXPERTS], generator=generator)
    dropped = torch.randint(0, 9, [], generator=generator)
    report = {"expert_tokens": tokens, "dropped_choices": dropped, "due_choices": tokens.sum() + dropped}
    report["entropy"] = torch.rand([], generator=generator)
    return {**report, "residual": torch.rand([], generator=generator)} if layer == 1 else report


def observed(rank: int, _world_size: int) -> list[dict[str, Any]]:
    """What the class says after every step, and how many all-reduces it took."""
    sent, real = [], dist.all_reduce

    def all_reduce(tensor: Tensor, *arguments: Any, **keywords: Any) -> Any:
        sent.append(tensor.numel())
        return real(tensor, *arguments, **keywords)

    dist.all_reduce = all_reduce
    layers = [Layer(2 * layer) for layer in range(LAYERS)]
    network = nn.ModuleList(layers)
    load = ExpertLoad(network, 1)
    results = []
    for step in range(STEPS):
        load.start()
        for micro in range(PASSES):
            for layer, module in enumerate(layers):
                module.router(scripted(rank, step, micro, layer))
                module.experts(None, torch.tensor([computed(rank, step, layer), 0]))
        network.eval()
        layers[0].router(scripted(rank, 99, 0, 0))  # an evaluation counts nowhere
        network.train()
        sent.clear()
        if step != 1:  # a step that is not logged counts in the totals
            figures = load.reduced()
            results.append({"figures": figures, "tokens": load.tokens(), "dropped": load.dropped(), "sent": list(sent)})
    return results


@pytest.fixture(scope="module")
def ranks() -> list[list[dict[str, Any]]]:
    return run_ranks(observed, 2)


def everything(step: int, layer: int) -> Iterator[dict[str, Tensor]]:
    for rank in range(2):
        for micro in range(PASSES):
            yield scripted(rank, step, micro, layer)


def test_figures_are_those_of_all_ranks_and_micro_batches(ranks: list[list[dict[str, Any]]]) -> None:
    for results in ranks:
        for result, step in zip(results, (0, 2), strict=True):
            figures = result["figures"]
            loads = [
                np.sum([report["expert_tokens"].numpy() for report in everything(step, layer)], axis=0)
                for layer in range(LAYERS)
            ]
            loads = [load / load.mean() for load in loads]
            rows = np.array([[computed(rank, step, layer) for rank in range(2)] for layer in range(LAYERS)])
            ratios = rows.max(axis=1) / rows.mean(axis=1)
            assert figures["rank_load_max_over_mean"] == pytest.approx(ratios.mean())
            assert figures["expert_load_max_over_mean"] == pytest.approx(np.mean([load.max() for load in loads]))
            for layer, load in enumerate(loads):
                for name, share in PERCENTILES.items():
                    expected = np.percentile(load, 100 * share)
                    assert figures[f"expert_load.layer_{2 * layer}.{name}"] == pytest.approx(expected)
            reports = [report for layer in range(LAYERS) for report in everything(step, layer)]
            due = np.array([report["due_choices"].item() for report in reports])
            entropy = np.array([report["entropy"].item() for report in reports])
            dropped = sum(report["dropped_choices"].item() for report in reports)
            assert figures["dropped_fraction"] == pytest.approx(dropped / due.sum())
            assert figures["router_entropy"] == pytest.approx((due * entropy).sum() / due.sum())
            residuals = [report["residual"].item() for report in everything(step, 1)]
            assert figures["router_residual"] == pytest.approx(np.mean(residuals))


def test_choices_of_the_experts_on_the_other_node_are_counted(ranks: list[list[dict[str, Any]]]) -> None:
    """The slots are reversed: rank 0 holds the upper half of the experts."""
    away = total = 0
    for rank, elsewhere in ((0, slice(0, EXPERTS // 2)), (1, slice(EXPERTS // 2, EXPERTS))):
        for layer in range(LAYERS):
            for micro in range(PASSES):
                tokens = scripted(rank, 0, micro, layer)["expert_tokens"]
                away, total = away + int(tokens[elsewhere].sum()), total + int(tokens.sum())
    assert ranks[0][0]["figures"]["crossnode_token_fraction"] == pytest.approx(away / total)


def test_totals_cover_every_step_whether_it_is_logged_or_not(ranks: list[list[dict[str, Any]]]) -> None:
    for results in ranks:
        for result, steps in zip(results, (1, 3), strict=True):
            for layer in range(LAYERS):
                counted = sum(report["expert_tokens"] for step in range(steps) for report in everything(step, layer))
                assert torch.equal(result["tokens"][layer], torch.as_tensor(counted))
            dropped = sum(
                report["dropped_choices"].item()
                for step in range(steps)
                for layer in range(LAYERS)
                for report in everything(step, layer)
            )
            assert result["dropped"] == dropped


def test_one_all_reduce_carries_it_all(ranks: list[list[dict[str, Any]]]) -> None:
    assert all(len(result["sent"]) == 1 for results in ranks for result in results)


def test_the_names_fit_the_metrics_file(ranks: list[list[dict[str, Any]]], tmp_path: Path) -> None:
    figures = ranks[0][0]["figures"]
    sink = MetricsFile(tmp_path / "metrics.jsonl")
    sink.write(1, figures)
    sink.close()
    assert read_metrics(tmp_path / "metrics.jsonl")[0].values == figures
    schema = json.loads(Path("configs/schemas/metrics.schema.json").read_text())
    jsonschema.validate(json.loads((tmp_path / "metrics.jsonl").read_text()), schema)


def test_a_dense_network_has_nothing_to_say() -> None:
    load = ExpertLoad(nn.Linear(2, 2), 1)
    load.start()
    assert load.reduced() == {}
    assert load.tokens().shape == (0, 0)
    assert load.dropped() == 0
