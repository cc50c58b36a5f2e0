"""What the trace verb writes of a drawing, and the bytes that it tells."""

import inspect
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from moe.collective_trace import CollectiveRecord, TraceHeader, read
from moe.price.traffic import Traffic
from netsim import simulate
from tests.each import each
from tests.trainer.commands import DIGITS, GPT, contents, refused
from trainer.__main__ import main
from trainer.config.file import load_config
from trainer.config.rules.plan import plan_sampling
from trainer.config.run import RunConfig
from trainer.experiment.forecast.sampling import sampling_bytes, sampling_spec
from trainer.experiment.forecast.trace import TraceSpec, formula
from trainer.flow.sampler import Dopri5, Euler, Field, Heun, OwnSampler, Sampler, Segmented, Trajectory

DIT_64 = "configs/runs/dit_moe_64.yaml"
TOY = "configs/runs/toy.yaml"


class Leap(Sampler):
    """A sampler of a user's that does not say how often it calls the network."""

    def sample(self, field: Field, x_init: Tensor, times: Tensor, *, keys: Tensor | None = None) -> Trajectory:
        """See `Sampler.sample`."""
        raise NotImplementedError


def spec(path: str, world_size: int, *overrides: str, ranks_per_node: int = 2, **changes: Any) -> TraceSpec:
    config = load_config(path, overrides)
    layout = plan_sampling(config, world_size, ranks_per_node=ranks_per_node)
    settings: dict[str, Any] = {"sampler": 3, "guidance": 1.0, "examples": 5, **changes}
    return sampling_spec(config, layout, ranks_per_node=ranks_per_node, **settings)


def written(one: TraceSpec) -> tuple[TraceHeader, list[CollectiveRecord]]:
    header, records = formula(one)
    return header, list(records)


@each(
    ("sampler", "calls"),
    [(Euler(steps=5), 5), (Heun(steps=5), 10), (Segmented(segments=2, within=Heun(steps=2)), 8), (7, 7)],
)
def test_each_call_of_the_network_is_a_micro_step(sampler: Any, calls: int) -> None:
    """They are alike, and the samples of all ranks are collected after the last one."""
    _, records = written(spec(DIGITS, 2, sampler=sampler))
    own = [record for record in records if record.rank == 0]
    assert [record.seq for record in own] == list(range(len(own)))
    by_call = [
        [(record.layer, record.op, record.bytes_in, record.in_splits) for record in own[:-1] if record.micro == call]
        for call in range(calls)
    ]
    assert by_call == [by_call[0]] * calls
    assert len(own) == calls * len(by_call[0]) + 1
    last = own[-1]
    assert (last.micro, last.layer, last.op, last.group) == (calls - 1, None, "all_gather", "data")
    assert (last.bytes_in, last.bytes_out) == (5 * 64 * 4, 2 * 5 * 64 * 4)


def test_guidance_doubles_the_rows_of_a_call() -> None:
    rows: dict[float, int] = {}
    for guidance in (0.0, 1.0, 0.5, 1.5):
        _, records = written(spec(DIGITS, 2, guidance=guidance))
        rows[guidance] = sum(record.bytes_in for record in records if record.op == "all_to_all")
    assert rows[0.0] == rows[1.0]
    assert rows[0.5] == rows[1.5] == 2 * rows[1.0]


def test_a_dense_network_sends_only_what_was_drawn() -> None:
    _, records = written(spec(TOY, 3))
    assert [(record.op, record.group, record.bytes_in) for record in records] == [("all_gather", "data", 40)] * 3


@each(
    ("world_size", "overrides"),
    [
        (4, ()),
        (4, ("moe.dispatch=copies", "parallel.expert=4", "moe.top_k=3")),
        (8, ("moe.dispatch=hierarchical", "parallel.expert=8")),
        (4, ("moe.placement=tests/files/replicas.json", "moe.num_experts=4", "model.num_layers=2")),
        (6, ("parallel.expert=2",)),
    ],
)
def test_bytes_are_those_of_the_trace_over_the_experts_and_of_the_collection(
    world_size: int, overrides: tuple[str, ...]
) -> None:
    one = spec(DIGITS, world_size, *overrides)
    header, records = written(one)
    sent, measured = sampling_bytes(one), Traffic.of(header, records, 2)
    sample = 5 * 64 * 4
    assert sent.call.sum() == measured.rank_bytes / 3
    assert sent.whole.sum() == measured.rank_bytes + world_size * (world_size - 1) * sample


def test_sums_over_divided_matrices_are_two_exchanges_of_equal_shares() -> None:
    """Two blocks of two sums; four ranks, two to a node, and groups of four."""
    settings = ("moe=null", "parallel={tensor: 4}", "model={kind: dit, hidden: 32, num_layers: 2, num_heads: 4}")
    sent = sampling_bytes(spec(DIGITS, 4, *settings))
    size = 5 * 16 * 32 * 4
    assert sent.call.tolist() == [4 * 2 * 3 * size // 4] * 4


def test_a_trace_of_many_ranks_is_made_while_it_is_read() -> None:
    """As long as nobody reads it, 512 ranks cost what one call of the network needs."""
    many = spec(DIT_64, 512, "parallel.expert=512", "moe.num_experts=512", sampler=50, ranks_per_node=8)
    header, records = formula(many)
    assert inspect.isgenerator(records)
    assert len(header.groups["data"]) == 512
    assert next(records).bytes_in == 512 * 8


@pytest.mark.parametrize(
    ("sampler", "problem"),
    [
        (Dopri5(), r"^sampler\.kind: dopri5 chooses its steps .*; use euler or heun$"),
        (
            OwnSampler.model_validate({"class": "tests.trainer.trace.test_trace_of_sampling:Leap"}),
            r"^sampler\.class: .*; give .*steps$",
        ),
    ],
)
def test_samplers_whose_calls_nobody_knows_are_refused(sampler: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        spec(DIGITS, 2, sampler=sampler)


def test_the_verb_writes_a_drawing_that_netsim_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = {}
    for steps in (2, 6):
        out = tmp_path / f"{steps}.jsonl"
        sampling = ("--sampling", f"{{kind: euler, steps: {steps}}}", "--examples", "3", "--guidance", "1")
        assert main(["trace", DIGITS, "--world-size", "2", *sampling, "--gap-ns", "1000", "--out", str(out)]) == 0
        shown = capsys.readouterr().out.splitlines()
        assert shown[0].startswith(f"{out}: {steps} calls of the network on 2 ranks, 3 examples on each, guidance 1, ")
        assert shown[1].startswith("a rank sends ")
        header, records = read(out)
        assert (header.source, header.steps) == ("formula", (1,))
        assert {record.gap_ns for record in records} == {1000}
        scenario = {
            "format": "flowfabric.scenario/1",
            "topology": {"kind": "leaf_spine", "leaves": 2, "spines": 1, "hosts_per_leaf": 1, "host_rate": "10Gbps"},
            "workload": {"kind": "trace", "path": str(out)},
            "transports": ["ideal"],
            "seeds": [0],
        }
        times[steps] = simulate(scenario).runs[0].completion_ps
    assert 2 < times[6] / times[2] <= 3


def test_without_a_value_the_runs_own_sampler_draws(tmp_path: Path) -> None:
    config = load_config(DIGITS)
    assert main(["trace", DIGITS, "--world-size", "2", "--sampling", "--out", str(tmp_path / "x.jsonl")]) == 0
    own = spec_of_own(config)
    assert read(tmp_path / "x.jsonl")[1] == written(own)[1]


def spec_of_own(config: RunConfig) -> TraceSpec:
    sample: Any = config.sample
    rows = config.optim.micro_batch or config.optim.global_batch // 2
    layout = plan_sampling(config, 2, ranks_per_node=8)
    settings = {"sampler": sample.sampler, "guidance": sample.guidance, "examples": rows, "ranks_per_node": 8}
    return sampling_spec(config, layout, **settings)


@each(
    ("config", "options", "start"),
    [
        (DIGITS, ("--sampling", "{kind: dopri5}"), f"{DIGITS}: sampler.kind: dopri5 "),
        (DIGITS, ("--sampling", "{kind: euler, steps"), f"{DIGITS}: sample.sampler: its value is not YAML "),
        (DIGITS, ("--sampling", "{kind: euler, steps: 0}"), f"{DIGITS}: sample.sampler.steps: "),
        (DIGITS, ("--sampling", "{kind: leap}"), f"{DIGITS}: sample.sampler"),
        (DIGITS, ("--sampling", "--examples", 0), "--examples: 0 "),
        (DIGITS, ("--sampling", "--guidance", "-1"), "--guidance: -1.0 "),
        (DIGITS, ("--sampling", "--guidance", "nan"), "--guidance: nan "),
        (DIGITS, ("--sampling", "parallel.expert=3"), f"{DIGITS}: parallel.expert: 3 "),
        (DIGITS, ("--examples", 3), "--examples: 3 "),
        (DIGITS, ("--guidance", 1), "--guidance: 1 "),
        (GPT, ("--sampling",), f"{GPT}: model.kind: gpt "),
        ("configs/runs/digits_autoencoder.yaml", ("--sampling",), "configs/runs/digits_autoencoder.yaml: model.kind: "),
    ],
)
def test_drawings_that_no_formula_gives_are_refused(
    config: str, options: tuple[object, ...], start: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        ["trace", config, *options] if "parallel.expert=3" not in options else ["trace", config, options[1], options[0]]
    )
    line = refused(capsys, *words, "--world-size", 2, "--out", tmp_path / "trace.jsonl")
    assert line.startswith(start), line
    assert "; " in line
    assert contents(tmp_path) == {}
