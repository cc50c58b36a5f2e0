"""Every network and every engine trains on the pretend device, and waits for it once a step."""

from pathlib import Path
from typing import get_args

import pytest

from tests.pretend.runs import NETWORKS, Case, Ran, run_all
from trainer.config.model import AnyNetworkConfig

ENGINES = {
    "ZeRO 0": {"zero_stage": 0},
    "ZeRO 1": {"zero_stage": 1},
    "ZeRO 2": {"zero_stage": 2},
    "ZeRO 3": {"zero_stage": 3},
    "FSDP2": {"kind": "fsdp"},
}
MIXTURE = {"num_experts": 4, "top_k": 2, "expert_hidden": 32}
CAPPED = {"router": {"kind": "sparse_ot"}}
QUICK = {
    "FSDP2": Case(engine=ENGINES["FSDP2"]),
    "gpt, home, ZeRO 0": Case("gpt", moe=MIXTURE, engine=ENGINES["ZeRO 0"]),
}
CASES = {
    **QUICK,
    **{network: Case(network) for network in NETWORKS},
    **{name: Case(engine=engine) for name, engine in ENGINES.items()},
    **{f"gpt, {name}": Case("gpt", engine=ENGINES[name]) for name in ("ZeRO 3", "FSDP2")},
    "dit of 4 blocks": Case(layers=4),
    "FSDP2 of 4 blocks": Case(layers=4, engine=ENGINES["FSDP2"]),
    "ZeRO 2, bf16": Case(engine={"zero_stage": 2, "precision": "bf16"}),
    "FSDP2, bf16, repeated": Case(engine={"kind": "fsdp", "precision": "bf16", "activation_checkpointing": True}),
    "ZeRO 1, repeated": Case(engine={"activation_checkpointing": True}),
    "matched pairs": Case("mlp", more={"flow": {"coupling": {"kind": "gibbs_weighted"}}}),
    **{
        f"{network}, {dispatch}, {name}": Case(
            network,
            moe=MIXTURE | {"dispatch": dispatch} | (CAPPED if dispatch == "capped" else {}),
            engine=ENGINES[name],
        )
        for network, dispatch, name in [
            ("gpt", "copies", "ZeRO 2"),
            ("gpt", "capped", "ZeRO 1"),
            ("gpt", "coherent", "ZeRO 1"),
            ("dit", "home", "ZeRO 1"),
            ("dit", "copies", "ZeRO 0"),
        ]
    },
}
MOST_WAITS = 2
"""Synchronisations of a step in our own code, whatever the number of layers and micro batches."""
Runs = tuple[list[dict[str, Ran]], list[dict[str, Ran]]]


def both(cases: dict[str, Case], folder: Path) -> Runs:
    """What each rank found on the device and on the CPU."""
    return run_all(cases, "pretend", folder), run_all(cases, "cpu", folder)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return both(QUICK, tmp_path_factory.mktemp("quick"))


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return both(CASES, tmp_path_factory.mktemp("every"))


def test_every_kind_of_network_is_here() -> None:
    kinds = {kind.model_fields["kind"].default for kind in get_args(AnyNetworkConfig) if "kind" in kind.model_fields}
    assert {run["model"]["kind"] for run in NETWORKS.values()} == kinds


def check(case: str, runs: Runs) -> None:
    """A run learns on the device what it learns on the CPU, and waits for it as often as it may."""
    for of_device, of_cpu in zip(*runs, strict=True):
        found, expected = of_device[case], of_cpu[case]
        assert not expected.own
        assert found.first["loss"] == pytest.approx(expected.first["loss"], rel=1e-5)
        assert found.first["grad_norm"] == pytest.approx(expected.first["grad_norm"], rel=1e-4)
        assert found.last["loss"] == pytest.approx(expected.last["loss"], rel=1e-2)
        assert found.last.keys() == expected.last.keys()
        of_layers = () if "capped" in case else ("moe/", "megatron/")
        own = {line: count for line, count in found.own.items() if not line.startswith(of_layers)}
        assert sum(own.values()) <= MOST_WAITS + waits_of_the_method(case), own
        assert not found.staged


def waits_of_the_method(case: str) -> int:
    """What a network asks in each of the two micro batches: how many tokens a rank, or a segment of time, has."""
    return {"gpt, coherent, ZeRO 1": 6, "blockwise": 2, "blockwise_mlp": 2}.get(case, 0)


@pytest.mark.parametrize("case", QUICK)
def test_a_run_on_the_device(quick: Runs, case: str) -> None:
    check(case, quick)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_run_on_the_device(every: Runs, case: str) -> None:
    check(case, every)


@pytest.mark.slow
def test_more_blocks_do_not_wait_more(every: Runs) -> None:
    for of_rank in every[0]:
        for fewer, more in (("dit", "dit of 4 blocks"), ("FSDP2", "FSDP2 of 4 blocks")):
            assert of_rank[fewer].own == of_rank[more].own
            assert of_rank[fewer].libraries == of_rank[more].libraries
