"""A step from a model's shape: held to the trainer's formula record by record, and to the replay of its trace."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import product, takewhile
from pathlib import Path
from typing import Any

import pytest

from moe import collective_trace
from moe.collective_trace import CollectiveRecord
from netsim import simulate
from netsim.workload.device import DEVICES, DeviceConfig
from netsim.workload.model.config import ModelConfig
from netsim.workload.model.workload import Issued, issued
from tests.each import each
from tests.netsim.model_steps import scenario, sizes
from trainer.config.derived import tokens_per_example
from trainer.config.file import load_config
from trainer.config.layout import Layout
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.experiment.forecast.spec import trace_spec
from trainer.experiment.forecast.trace import formula

RUNS = Path("configs/runs")
DIT = ["model.hidden=32", "model.num_heads=4", "optim.global_batch=16"]
DIT_MIXTURE = [*DIT, "moe.expert_hidden=64", "moe.num_experts=8"]
BF16 = "engine.precision=bf16"
FSDP = "engine={kind: fsdp, precision: bf16}"


def case(run: str, ranks: int, *overrides: str) -> Any:
    return pytest.param(run, ranks, list(overrides), id=f"{run}-{ranks}-{len(overrides)}")


CASES = [
    case("gpt_moe", 2),
    case("gpt_moe", 2, "engine.zero_stage=0"),
    case("gpt_moe", 4, BF16, "moe.top_k=3", "optim.micro_batch=2", "engine.activation_checkpointing=true"),
    case("gpt_moe", 4, "parallel.expert=1"),
    case("gpt_moe", 8, BF16, "parallel.expert=4", "engine.bucket_elements=150000", "moe.shared_expert_hidden=48"),
    case("dit_moe_64", 2, *DIT_MIXTURE, "parallel.expert=2", "moe.top_k=2", "optim.micro_batch=4"),
    case("dit_moe_64", 4, *DIT_MIXTURE, "parallel.expert=4", "engine.precision=fp32", "engine.zero_stage=0"),
    case("dit_moe_64", 8, *DIT_MIXTURE, "parallel.expert=4", "engine.bucket_elements=20000"),
    case("gpt_moe", 8, "moe=null", "parallel.expert=1", FSDP, "optim.micro_batch=1"),
    case("gpt_moe", 4, "moe=null", "parallel={tensor: 2}", "model.num_kv_heads=2", BF16, "model.feed_forward=swiglu"),
    case("gpt_moe", 8, "moe=null", "parallel={tensor: 2}", "model.num_kv_heads=4", FSDP),
    case("dit_moe_64", 4, *DIT, "moe=null", "parallel={tensor: 2}", "engine.zero_stage=1"),
    case("dit_moe_64", 8, *DIT, "moe=null", "parallel={tensor: 4}", FSDP),
]


def traced(run: str, ranks: int, overrides: Sequence[str]):
    config = load_config(RUNS / f"{run}.yaml", overrides)
    layout = plan_layout(config, ranks, ranks_per_node=ranks)
    return config, layout, *formula(trace_spec(config, layout, ranks_per_node=ranks, work=True))


def shape_of(config: RunConfig, layout: Layout) -> dict[str, Any]:
    """The section ``workload`` that says the same as a run."""
    model: Any = config.model
    moe, engine = config.moe, config.engine
    example = tokens_per_example(config)
    width = 2 if engine.precision == "bf16" else 4
    shape: dict[str, Any] = {
        "kind": "model",
        "network": model.kind,
        "layers": model.num_layers,
        "hidden": model.hidden,
        "sequence": example,
        "tokens": example * layout.micro_batch,
        "microbatches": layout.accumulation,
        "activation_bytes": width,
        "weight_bytes": width,
        "division": {"data": layout.data_parallel, "expert": layout.expert_parallel, "tensor": layout.tensor_parallel},
        "recompute": engine.activation_checkpointing,
        "overlap": False,
        "sharded": "full" if engine.kind == "fsdp" else "optimizer" if engine.zero_stage else "none",
    }
    if engine.kind != "fsdp":
        shape["bucket_elements"] = engine.bucket_elements
    if moe is not None:
        shape |= {"experts": moe.num_experts, "top_k": moe.top_k, "feed_forward": moe.expert_hidden}
        shape |= {} if moe.shared_expert_hidden is None else {"shared_expert": moe.shared_expert_hidden}
    if model.kind == "gpt":
        shape |= {"heads": model.num_heads, "kv_heads": model.num_kv_heads or model.num_heads}
        shape |= {"vocabulary": model.vocabulary, "gated": moe is None and model.feed_forward == "swiglu"}
        return shape
    channels, classes = config.state_shape[0], config.num_labels
    return shape | {"patch": channels * model.patch_size**2, "classes": classes}


def said(step: Sequence[Issued], places: Mapping[str, int]) -> Iterator[tuple[Any, ...]]:
    """A step as the rank with these places in its groups issues it."""
    for one in step:
        about = one.micro, one.phase, one.layer, one.operation.op, one.group
        whole = one.beside + one.work
        products = Counter[tuple[str, int]]()
        for kind, flops, count in whole.products:
            products[kind, flops] += count
        work = whole.flops, whole.memory_bytes, products
        yield *about, *sizes(one.operation, places[one.group]), *work, one.awaited


def told(records: Sequence[CollectiveRecord]) -> Iterator[tuple[Any, ...]]:
    """Records of a rank but those of groups of one, which send nothing: their work goes to the next record."""
    kept = [record for record in records if not record.size1]
    flops, memory, products = 0, 0, Counter[tuple[str, int]]()
    for record in records:
        flops, memory = flops + (record.flops or 0), memory + (record.memory_bytes or 0)
        products.update({(kind, size): count for kind, size, count in record.products or ()})
        if record.size1:
            continue
        awaited = None if record.wait_seq is None else sum(one.seq < record.wait_seq for one in kept)
        splits = (record.in_splits, record.out_splits) if record.in_splits else (record.bytes_in, record.bytes_out)
        about = record.micro, record.phase, record.layer, record.op
        yield *about, record.group.rstrip("_0123456789"), *splits, flops, memory, products, awaited
        flops, memory, products = 0, 0, Counter[tuple[str, int]]()


@pytest.mark.parametrize(("run", "ranks", "overrides"), CASES)
def test_a_step_is_that_of_the_trainers_formula(run, ranks, overrides):
    config, layout, header, records = traced(run, ranks, overrides)
    shape = ModelConfig.model_validate(shape_of(config, layout))
    step, _ = issued(shape, 0)
    of_rank: dict[int, list[CollectiveRecord]] = {rank: [] for rank in range(ranks)}
    for record in records:
        of_rank[record.rank].append(record)
    for rank, own in of_rank.items():
        groups = [(name, members) for name, members in header.groups.items() if rank in members]
        places = {name.rstrip("_0123456789"): members.index(rank) for name, members in groups}
        assert list(said(step, places)) == list(told(own))


def test_a_large_run_is_that_of_the_trainers_formula():
    """31 billion parameters over 512 ranks: buckets and groups of the optimiser are many."""
    config, layout, _, records = traced("gpt_moe_512", 512, [])
    first = list(takewhile(lambda record: record.rank == 0, records))
    step, _ = issued(ModelConfig.model_validate(shape_of(config, layout)), 0)
    assert list(said(step, defaultdict(int))) == list(told(first))


@each("number, device", product([1, 2, 6], ["h100", "tests/files/measured.csv"]))
def test_a_step_takes_as_long_as_the_replay_of_the_trainers_trace(number, device, tmp_path):
    """But for an update behind the last collective, which no record of a trace tells."""
    config, layout, header, records = traced(*CASES[number].values)
    ranks, trace = header.world_size, tmp_path / "trace.jsonl"
    collective_trace.write(trace, header, records)
    shape = shape_of(config, layout)
    replayed = simulate(scenario({"kind": "trace", "path": str(trace), "device": device}, ranks))
    computed = simulate(scenario(shape | {"device": device}, ranks))
    about = [
        Counter((span.op, span.group, span.ranks, span.phase, span.layer, span.bytes) for span in results.spans)
        for results in (replayed, computed)
    ]
    assert about[0] == about[1]
    products = [{one for one in results.computed if one.kind != "memory"} for results in (replayed, computed)]
    assert products[0] == products[1]
    _, behind = issued(ModelConfig.model_validate(shape), 0)
    settings = DEVICES[device]._asdict() if device in DEVICES else {"table": device}
    update_ps = DeviceConfig.model_validate(settings).compute_ps(behind)
    assert computed.runs[0].completion_ps == replayed.runs[0].completion_ps + update_ps
