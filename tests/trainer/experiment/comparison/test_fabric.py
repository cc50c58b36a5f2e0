"""Calls of a network on a fabric: bytes against the records of the formula, times against whole simulations."""

import json
from pathlib import Path
from typing import Any

import pytest

from netsim.foundation.refusal import Refusal
from trainer.config.run import RunConfig
from trainer.experiment.comparison import measurement as priced
from trainer.experiment.comparison.measurement import CallPrices, calls_on
from trainer.experiment.comparison.results import CallTraffic, Fabric, SampleCost
from trainer.experiment.forecast.trace import formula

EXPERTS = {"num_experts": 6, "top_k": 2, "expert_hidden": 8}
SCENARIO = """
format: flowfabric.scenario/1
topology: {kind: leaf_spine, leaves: 2, spines: 1, hosts_per_leaf: 1}
workload: {kind: collective, op: all_to_all, bytes_per_rank: 1KB}
transports: [ecmp, ideal]
seeds: [0]
"""


def config(**sections: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "data": {"kind": "digits"},
            "model": {"hidden": 16, "num_layers": 2, "num_heads": 2},
            "optim": {"steps": 1, "global_batch": 4},
            **sections,
        }
    )


def fabric_of(folder: Path, ranks: int) -> Fabric:
    (folder / "scenario.yaml").write_text(SCENARIO)
    return Fabric(str(folder / "scenario.yaml"), ranks=ranks, examples=3, teraflops=2.0)


@pytest.fixture
def simulations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The traces that netsim is asked about, in whose place every call takes 7 us by `one` and 5 us by `other`."""
    asked: list[str] = []

    def simulate(trace: Path, scenario: Path, out: Path, *options: str) -> str:
        del scenario, options
        asked.append(trace.read_text())
        out.mkdir()
        times = {"one": 7000.0, "other": 5000.0}
        runs = [{"transport": name, "completion_ns": time, "bound_ns": 1.0} for name, time in times.items()]
        (out / "results.json").write_text(json.dumps({"format": "flowfabric.results/1", "runs": runs}))
        return ""

    monkeypatch.setattr(priced, "simulate", simulate)
    return asked


@pytest.mark.parametrize("dispatch", ["home", "copies"])
def test_bytes_are_those_of_the_records(dispatch: str, tmp_path: Path, simulations: list[str]) -> None:
    fabric, run = fabric_of(tmp_path, ranks=4), config(moe={**EXPERTS, "dispatch": dispatch})
    header, records = formula(calls_on(run, fabric))
    assert {len(ranks) for name, ranks in header.groups.items() if name.startswith("expert")} == {2}, (
        "6 experts, 4 ranks"
    )
    sent = 0
    for record in records:
        ranks = header.groups[record.group]
        if record.op == "all_gather":  # how many tokens go where
            sent += record.bytes_in * (len(ranks) - 1)
        else:
            assert record.in_splits is not None
            sent += sum(record.in_splits) - record.in_splits[ranks.index(record.rank)]
    traffic = CallPrices(fabric).of(run)
    assert traffic.sent_bytes * 4 * 3 == pytest.approx(sent)
    assert traffic.network_us == {"one": 7.0, "other": 5.0}
    assert len(simulations) == 1


def test_a_training_run_of_another_division_sends_the_same(tmp_path: Path, simulations: list[str]) -> None:
    prices = CallPrices(fabric_of(tmp_path, ranks=4))
    one, other = (prices.of(config(moe=EXPERTS, **more)) for more in ({}, {"parallel": {"expert": 3}}))
    assert one == other
    assert len(simulations) == 1, "what sends the same is simulated once"


@pytest.mark.parametrize(("moe", "ranks"), [(None, 4), (EXPERTS, 1), (EXPERTS, 5)])
def test_networks_that_are_whole_on_every_rank_send_nothing(
    moe: Any, ranks: int, tmp_path: Path, simulations: list[str]
) -> None:
    assert CallPrices(fabric_of(tmp_path, ranks)).of(config(moe=moe)) == CallTraffic(0.0, {})
    assert simulations == []


def test_a_base_may_lack_the_flow_of_its_network(tmp_path: Path, simulations: list[str]) -> None:
    model = {"kind": "transition_dit", "hidden": 16, "num_layers": 2, "num_heads": 2}
    prices = CallPrices(fabric_of(tmp_path, ranks=4))
    assert prices.of(config(model=model, moe=EXPERTS)) == prices.of(config(moe=EXPERTS)), "the head sends nothing"
    assert len(simulations) == 1


def test_experts_on_nodes_of_several_ranks_send_through_one_of_them(tmp_path: Path, simulations: list[str]) -> None:
    fabric, run = fabric_of(tmp_path, ranks=6), config(moe={**EXPERTS, "dispatch": "hierarchical"})
    scenario = Path(fabric.scenario)
    scenario.write_text(SCENARIO.replace("hosts_per_leaf: 1", "hosts_per_leaf: 2, ranks_per_host: 3"))
    assert CallPrices(fabric).of(run).sent_bytes > 0
    assert '"ranks_per_node":3' in simulations[0]
    scenario.unlink()
    with pytest.raises(Refusal, match="does not exist; name a scenario of netsim with --fabric"):
        CallPrices(fabric).of(run)


def test_a_sample_costs_all_its_calls() -> None:
    fabric = Fabric("", ranks=4, examples=3, teraflops=2.0)
    cost = SampleCost.of(4, {"network": 4, "head": 20}, 1_000_000, CallTraffic(10.0, {"one": 7.0}), fabric)
    assert cost.sent_bytes == 40
    assert cost.network_us == {"one": 28}
    assert cost.compute_us == pytest.approx(3e6 * 2 / 2e12 * 1e6)
    assert cost.total_us("one") == pytest.approx(28 + 3.0)
    assert cost.total_us(None) == cost.compute_us
    unknown = SampleCost.of(1, {"network": 1}, None, CallTraffic(10.0, {"one": 7.0}), fabric)
    assert unknown.total_us("one") is None


@pytest.mark.slow
def test_one_call_as_often_as_the_network_is_called_is_all_calls(tmp_path: Path) -> None:
    run = config(moe={**EXPERTS, "num_experts": 2})
    prices = CallPrices(fabric_of(tmp_path, ranks=2))
    one, three = (prices.times_us(calls_on(run, prices.fabric, calls)) for calls in (1, 3))
    assert one.keys() == {"ecmp", "ideal"}
    for transport, time in one.items():
        assert time > 0
        assert three[transport] == pytest.approx(3 * time)


@pytest.mark.slow
def test_a_fabric_that_is_too_small_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^--fabric: .*scenario\.yaml.*\n?") as refused:
        CallPrices(fabric_of(tmp_path, ranks=6)).of(config(moe=EXPERTS))
    assert "\n" not in str(refused.value)
