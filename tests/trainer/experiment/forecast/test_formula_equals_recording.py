"""The formula against what the real engine issues: operation, group and bytes of every record, in order."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from moe.collective_trace import CollectiveRecord, TraceHeader, rank_path, read
from tests.each import rows
from tests.ranks import run_ranks
from trainer.config.run import RunConfig
from trainer.experiment.forecast.trace import formula
from trainer.flow import Condition, path
from trainer.flow.coupling import Pairs
from trainer.flow.question import WithProjection
from trainer.trace.merge import merge

HIDDEN, LAYERS, EXPERTS, EXPERT_HIDDEN = 16, 2, 4, 24

Case = tuple[dict[str, Any], int, dict[str, Any] | None, str]
"""Settings of the engine section, accumulation, settings of the moe section (None: dense), kind of model."""

COHERENT = ("gpt, coherent, every rank", "gpt, coherent, computed twice", "gpt, coherent, 300 words")
RATES = {"blocks": 2.0, "experts": 0.5, "blocks.1.feed_forward": 0.5, "bias": 2.0, "qkv": 10.0}
"""Some parameters keep the rate of the run; two keys give one rate, and one rate is that of few parameters."""

TABLE = """
2 slow | ZeRO 1 | dit | 1 | {} | {}
2 slow | ZeRO 0 | dit | 1 | {zero_stage: 0} | {}
2 slow | ZeRO 2, accumulation | dit | 2 | {zero_stage: 2} | {}
2 slow | ZeRO 1, bf16, accumulation | dit | 2 | {precision: bf16} | {}
2 slow | ZeRO 1, small buckets | dit | 1 | {bucket_elements: 1000} | {}
2 slow | ZeRO 3, bf16 | dit | 1 | {zero_stage: 3, precision: bf16} | null
2 | copies, top-1 | dit | 1 | {} | {dispatch: copies, top_k: 1}
2 slow | copies, every rank | dit | 1 | {precision: bf16} | {dispatch: copies, top_k: 3}
2 slow | capped | dit | 1 | {} | {dispatch: capped, router: {kind: top_k, capacity_factor: 1.25}}
2 slow | capped, bf16, accumulation | dit | 2 | {precision: bf16}
| {dispatch: capped, router: {kind: top_k, capacity_factor: 1.25}, top_k: 3}
2 | capped, computed twice | dit | 1 | {activation_checkpointing: true, zero_stage: 2}
| {dispatch: capped, router: {kind: sparse_ot}}
2 | gpt, capped | gpt | 1 | {} | {dispatch: capped, router: {kind: base}, top_k: 1}
2 slow | home, replicas | dit | 2 | {zero_stage: 2} | {placement: FILE}
2 | home, least loaded replicas, computed twice | dit | 1 | {activation_checkpointing: true, precision: bf16}
| {placement: FILE, replicas: least_loaded}
2 slow | copies, replicas, every rank | dit | 1 | {} | {placement: FILE, dispatch: copies, top_k: 4}
2 slow | copies, least loaded replicas, top-1 | dit | 1 | {}
| {placement: FILE, dispatch: copies, replicas: least_loaded, top_k: 1}
2 | replicas, global potentials | dit | 1 | {}
| {placement: FILE, dispatch: copies, replicas: least_loaded, top_k: 4, router: {kind: sparse_ot, potentials: global}}
2 slow | global potentials | dit | 1 | {} | {router: {kind: sparse_ot, potentials: global}}
2 slow | copies, every rank, Monge gap | dit with its Monge gap | 1 | {} | {dispatch: copies, top_k: 4}
2 | FSDP2, Monge gap | dit with its Monge gap | 1 | {kind: fsdp} | null
2 slow | ZeRO 3, Monge gap | dit with its Monge gap | 1 | {zero_stage: 3, bucket_elements: 900} | null
2 slow | copies, computed twice | dit | 2 | {activation_checkpointing: true} | {dispatch: copies, top_k: 3}
2 slow | gpt, copies, computed twice | gpt | 1 | {activation_checkpointing: true} | {dispatch: copies, top_k: 3}
2 | gpt, coherent, 300 words | gpt, 300 words | 1 | {} | {dispatch: coherent, top_k: 1}
2 | ZeRO 3 | dit | 1 | {zero_stage: 3} | null
2 | ZeRO 3, small buckets, maps | dit told of maps | 1 | {zero_stage: 3, bucket_elements: 900} | null
2 | ZeRO 3, small buckets, bf16, accumulation | gpt | 2 | {zero_stage: 3, bucket_elements: 900, precision: bf16} | null
2 | copies, every rank, letters | dit of letters | 1 | {} | {dispatch: copies, top_k: 4}
2 | ZeRO 1, segments | blockwise | 1 | {} | null
2 slow | ZeRO 2, aligned segments, accumulation | blockwise, aligned | 2 | {zero_stage: 2} | null
2 slow | ZeRO 3, segments | blockwise | 1 | {zero_stage: 3, bucket_elements: 900} | null
2 | ZeRO 3, aligned segments | blockwise, aligned | 1 | {zero_stage: 3, bucket_elements: 900} | null
2 | ZeRO 1, transitions | transition_dit | 1 | {} | {dispatch: copies, top_k: 3}
2 | ZeRO 2, causal transitions, accumulation | causal_transition, last | 2 | {zero_stage: 2} | null
2 slow | ZeRO 3, causal transitions | causal_transition, last | 1 | {zero_stage: 3, bucket_elements: 900} | null
2 slow | ZeRO 3, causal transitions of all states | causal_transition, full | 1 | {zero_stage: 3, bucket_elements: 900}
| null
2 | FSDP2, causal transitions of all states | causal_transition, full | 1 | {kind: fsdp} | null
2 slow | ZeRO 3, transitions | transition_dit | 1 | {zero_stage: 3, bucket_elements: 900} | null
2 slow | ZeRO 3, transitions, computed twice | transition_mlp | 1
| {zero_stage: 3, bucket_elements: 900, activation_checkpointing: true} | null
2 slow | FSDP2, transitions | transition_dit | 2 | {kind: fsdp} | null
2 | ZeRO 1, captions | encoded_dit | 1 | {} | {dispatch: copies, top_k: 3}
2 slow | ZeRO 3, captions | encoded_dit | 1 | {zero_stage: 3, bucket_elements: 900} | null
2 slow | FSDP2, captions | encoded_dit | 2 | {kind: fsdp} | null
2 slow | FSDP2, segments | blockwise | 1 | {kind: fsdp} | null
2 slow | FSDP2, aligned segments | blockwise, aligned | 1 | {kind: fsdp} | null
2 slow | ZeRO 0, adapters | dit, adapted | 1 | {zero_stage: 0} | null
2 slow | ZeRO 1, adapters, bf16 | dit, adapted at its ends | 1 | {precision: bf16} | null
2 | ZeRO 2, adapters | dit, adapted | 2 | {zero_stage: 2} | null
2 slow | ZeRO 3, adapters | dit, adapted | 1 | {zero_stage: 3, bucket_elements: 900} | null
2 slow | ZeRO 3, adapters at the ends, computed twice | dit, adapted at its ends | 1
| {zero_stage: 3, bucket_elements: 900, activation_checkpointing: true} | null
2 | FSDP2, adapters | dit, adapted | 1 | {kind: fsdp} | null
2 slow | ZeRO 2, routed adapters | dit, routed | 1 | {zero_stage: 2} | null
2 | ZeRO 3, routed adapters | dit, routed | 1 | {zero_stage: 3, bucket_elements: 900} | null
2 slow | ZeRO 3, routed adapters, few tokens | mlp, routed | 2 | {zero_stage: 3, bucket_elements: 300} | null
2 slow | ZeRO 3, smaller buckets, adapters | dit, adapted | 1 | {zero_stage: 3, bucket_elements: 200} | null
2 slow | ZeRO 3, small buckets, biases and a tied embedding | gpt, biased | 1 | {zero_stage: 3, bucket_elements: 900}
| null
2 slow | ZeRO 3, one segment | blockwise, one | 1 | {zero_stage: 3, bucket_elements: 900} | null
2 slow | FSDP2, routed adapters | dit, routed | 1 | {kind: fsdp} | null
2 slow | FSDP2, adapters, bf16, accumulation | dit, adapted | 2 | {kind: fsdp, precision: bf16} | null
2 slow | FSDP2, adapters at the ends, computed twice | dit, adapted at its ends | 1
| {kind: fsdp, activation_checkpointing: true} | null
2 slow | ZeRO 1, labels in states | dit, symmetric | 1 | {} | {dispatch: copies, top_k: 3}
2 | ZeRO 1, rates | dit, rates | 1 | {} | {}
2 slow | ZeRO 0, rates | dit, rates | 1 | {zero_stage: 0} | {}
2 slow | ZeRO 1, bf16, rates | dit, rates | 2 | {precision: bf16} | null
2 slow | ZeRO 2, rates, accumulation | dit, rates | 2 | {zero_stage: 2} | {}
2 slow | ZeRO 3, rates | dit, rates | 1 | {zero_stage: 3, bucket_elements: 900} | null
2 slow | FSDP2, rates | dit, rates | 1 | {kind: fsdp} | null
4 slow | ZeRO 1 | dit | 1 | {} | {}
4 slow | ZeRO 1, small buckets | dit | 1 | {bucket_elements: 700} | {}
4 slow | ZeRO 2, bf16 | dit | 1 | {zero_stage: 2, precision: bf16} | {}
4 slow | ZeRO 0 | dit | 2 | {zero_stage: 0} | {}
4 slow | ZeRO 3, small buckets, accumulation | dit | 2 | {zero_stage: 3, bucket_elements: 900} | null
4 slow | FSDP2, bf16, accumulation | dit | 2 | {kind: fsdp, precision: bf16} | null
4 slow | FSDP2, maps | dit told of maps | 1 | {kind: fsdp} | null
4 slow | FSDP2, computed twice | dit | 1 | {kind: fsdp, activation_checkpointing: true} | null
4 slow | FSDP2, blocks kept | gpt | 2 | {kind: fsdp, reshard_after_forward: false} | null
4 slow | ZeRO 3, computed twice | dit | 1 | {zero_stage: 3, bucket_elements: 900, activation_checkpointing: true} | null
4 slow | capped, four ranks | dit | 1 | {} | {dispatch: capped, router: {kind: top_k, capacity_factor: 1.25}, ranks: 4}
4 slow | gpt, copies, every rank | gpt | 2 | {} | {dispatch: copies, top_k: 3}
4 slow | hierarchical, top-1 | dit | 1 | {} | {dispatch: hierarchical, top_k: 1, ranks: 4}
4 slow | hierarchical, every node | gpt | 2 | {precision: bf16} | {dispatch: hierarchical, top_k: 3, ranks: 4}
4 slow | hierarchical, computed twice | dit | 1 | {activation_checkpointing: true}
| {dispatch: hierarchical, top_k: 4, ranks: 4}
4 slow | hierarchical, one node | dit | 1 | {} | {dispatch: hierarchical, top_k: 3}
4 slow | gpt, coherent, computed twice | gpt | 1 | {activation_checkpointing: true} | {dispatch: coherent, top_k: 3}
4 slow | gpt, coherent, every rank | gpt | 2 | {precision: bf16} | {dispatch: coherent, top_k: 3}
"""
"""Ranks, name, kind of model, accumulation, engine and moe sections. Those of four ranks are slow, and those of two
whose parts stand in other cases of two. FILE has two ranks of three slots, each with a replica."""
CASES: dict[int, dict[str, Case]] = {2: {}, 4: {}}
SLOW: set[tuple[int, str]] = set()
for _ranks, _name, _kind, *_sections in rows(TABLE.replace("FILE", "tests/files/replicas.json")):
    _accumulation, _engine, _moe = map(yaml.safe_load, _sections)
    CASES[int(_ranks[0])][_name] = _engine, _accumulation, _moe, _kind
    if _ranks.endswith("slow"):
        SLOW.add((int(_ranks[0]), _name))


def steps_of(config: RunConfig) -> tuple[int, int]:
    """Those that are recorded: the first, but for ZeRO 3, which learns the order of its parameters in the first two."""
    return (3, 4) if config.engine.kind == "deepspeed" and config.engine.zero_stage == 3 else (1, 2)


def cases_of(world_size: int, *, rare: bool) -> dict[str, Case]:
    """The cases of a number of ranks that are recorded together."""
    return {name: case for name, case in CASES[world_size].items() if ((world_size, name) in SLOW) == rare}


def params(part: str = "") -> list[Any]:
    """Each case with this part in its name."""
    return [
        pytest.param(world_size, name, marks=pytest.mark.slow if (world_size, name) in SLOW else ())
        for world_size, cases in CASES.items()
        for name in cases
        if part in name
    ]


Recorded = tuple[TraceHeader, list[CollectiveRecord], bool]


def configuration(world_size: int, case: Case) -> RunConfig:
    engine, accumulation, moe, kind = case
    window = {"context": 12} if kind.startswith("gpt") else {}
    adds = moe is not None and moe.get("dispatch") in ("copies", "hierarchical")
    dropout = 0.0 if adds else 0.1  # without it a block ends with a sum
    model = {"dropout": dropout, **window} if kind.startswith("gpt") else {}
    if kind == "gpt, 300 words":
        model["vocabulary"] = 300
    if kind == "gpt, biased":
        model |= {"norm": "layer", "bias": True, "tied": True}
    layers: dict[str, Any] = {"num_layers": LAYERS}
    if "adapted" in kind:
        ends = {"on": ["embed_patches", "unembed_patches"]} if kind.endswith("ends") else {}
        layers["adapters"] = {"kind": "low_rank", "base": "unused", "rank": 2, **ends}
    if "routed" in kind:
        layers["adapters"] = {"kind": "routed", "base": "unused", "rank": 2, "modules": 2, "heads": 2}
    heads = {} if "mlp" in kind else {"num_heads": 4}
    segments = 1 if kind == "blockwise, one" else 3
    if kind.startswith("blockwise"):
        features = (
            {"trunk_layers": LAYERS, "teacher_features": 8} if kind == "blockwise, aligned" else {"trunk_layers": 0}
        )
        layers = {"segments": segments, "segment_layers": LAYERS, **features}
    if kind.startswith("causal_transition"):
        layers |= {"history": kind.rpartition(" ")[2], "head": {"hidden": 8}}
    settings: dict[str, Any] = {
        "run": {"dir": "unused"},
        "model": {"kind": re.split("[ ,]", kind)[0], "hidden": HIDDEN, **heads, **layers, **model},
        "optim": {"steps": 4, "global_batch": 3 * world_size * accumulation, "micro_batch": 3},
        "engine": engine,
    }
    if kind.endswith("rates"):
        settings["optim"]["rates"] = RATES
    if moe is not None:
        moe = dict(moe)
        settings["parallel"] = {"expert": moe.pop("ranks", 2)}
        settings["moe"] = {"num_experts": EXPERTS, "top_k": 2, "expert_hidden": EXPERT_HIDDEN, **moe}
        settings["trace"] = {"ranks_per_node": 2}
    if kind.startswith("causal_transition"):
        settings["sample"] = {"sampler": {"kind": "causal_transition"}}
    if kind == "dit told of maps":
        settings["flow"] = {"context": {"kind": "semantic_map"}}
    if kind == "dit, symmetric":
        settings["flow"] = {"coupling": {"kind": "symmetric"}}
        settings["model"]["label_dropout"] = 0.0
        settings["sample"] = {"guidance": 1.0}
    if kind == "dit with its Monge gap":
        settings["flow"] = {"objective": {"monge_gap": {"weight": 0.1}}}
    if kind == "dit of letters":
        settings["data"] = {"kind": "sequences", "path": "unused", "held_out": 1, "alphabet": "ACGU", "length": 6}
        settings["model"]["patch_size"] = 1
        settings["sample"] = {"kind": "sequences"}
        settings["flow"] = {
            "path": {"kind": "gumbel_softmax"},
            "target": {"kind": "token"},
            "objective": {"kind": "cross_entropy"},
        }
    if kind == "encoded_dit":
        captions = {"path": "unused", "width": 5, "digest": "0"}
        together = {"objective": {"contrastive": 0}}  # a micro batch is too small to tell captions apart
        settings["flow"] = {"coupling": {"kind": "encoded"}, "captions": captions, **together}
    if kind.startswith("blockwise"):
        within = {"kind": "euler", "steps": 2}
        settings["sample"] = {"sampler": {"kind": "segmented", "segments": segments, "within": within}}
    if kind == "blockwise, aligned":
        settings["flow"] = {"objective": {"kind": "aligned", "teacher": "unused"}}
    if kind.startswith("gpt"):
        settings["data"] = {"kind": "python_source", **window}
    return RunConfig.model_validate(settings)


def record_cases(rank: int, world_size: int, folder: str, rare: bool) -> None:
    """Trains a few steps of each case and leaves its recording in a folder of its own."""
    from trainer.config.rules.plan import plan_layout
    from trainer.distributed.groups import divide_ranks, unite_ranks

    os.environ["LOCAL_RANK"] = str(rank)
    for index, case in enumerate(cases_of(world_size, rare=rare).values()):
        config = configuration(world_size, case)
        layout = plan_layout(config, world_size)
        divide_ranks(2 if config.moe is None else layout.expert_parallel, 1, layout.relay_ranks)
        record_run(Path(folder) / str(index), config, world_size)
        unite_ranks()


def record_run(folder: Path, config: RunConfig, world_size: int) -> None:
    import torch
    import torch.distributed as dist
    from megatron.core import parallel_state

    from trainer.config.rules.plan import plan_layout
    from trainer.distributed.engine import build_engine
    from trainer.model.build import build_model
    from trainer.model.network import frozen_tensors, put_frozen
    from trainer.trace.context import phase
    from trainer.trace.recorder import Recorder

    layout, steps = plan_layout(config, world_size), steps_of(config)
    routers: Any = parallel_state.get_tensor_and_data_parallel_group(with_context_parallel=True)
    model = build_model(config, layout)
    for name, frozen in [*frozen_tensors(model)]:
        dtype = torch.bfloat16 if config.engine.precision == "bf16" else torch.float32
        put_frozen(model, name, torch.full(frozen.shape, 0.01, dtype=dtype))
    engine = build_engine(model, config, layout, torch.device("cpu"))
    recorder = Recorder(
        rank_path(folder, dist.get_rank()),
        steps=steps,
        ranks_per_node=2,
        group_names={**engine.group_names, routers.group_name: "data"},
        blocks=list(engine.module.get_submodule("blocks").children()),
    )
    generator = torch.Generator().manual_seed(dist.get_rank())
    for step in range(1, steps[-1] + 1):
        for micro in range(layout.accumulation):
            with recorder.step(step, micro):
                with phase("forward"):
                    loss = some_loss(config, engine.model, layout.micro_batch, generator)
                with phase("backward"):
                    engine.backward(loss)
                if micro == layout.accumulation - 1:
                    with phase("optimizer"):
                        engine.step(1e-3, lambda _: None)
    recorder.write()
    dist.barrier()


def some_loss(config: RunConfig, model: Any, micro_batch: int, generator: Any) -> Any:
    import torch

    if config.model.kind == "gpt":
        tokens_BN = torch.randint(256, (micro_batch, config.data.shape[0] - 1), generator=generator)
        return model(tokens_BN, tokens_BN).mean()
    x_t = torch.randn(micro_batch, *config.state_shape, generator=generator)
    told = config.context_shape and torch.randn(micro_batch, *config.context_shape, generator=generator)
    tasks = torch.zeros(micro_batch, dtype=torch.int64)
    t, condition = torch.rand(micro_batch, generator=generator), Condition(context=told, task=tasks)
    if config.caption_width:
        label, caption = torch.arange(micro_batch) % 2, torch.randn(micro_batch, config.caption_width)
        condition = Condition(label, caption=caption, task=tasks)
    if config.flow is not None and config.flow.objective.kind == "aligned":
        predicted, projected = model(x_t, t, condition, WithProjection())
        return (predicted - x_t).square().mean() + projected.square().mean()
    if config.flow is not None:
        from trainer.task import FlowTask

        objective, drawn = FlowTask(config).objective, Pairs(x_t, x_t)
        keys = torch.randint(2**40, (micro_batch,), generator=generator)
        sample = path.Linear().sample(drawn, t, generator=generator)._replace(keys=keys)
        return objective.loss(model, sample, condition).mean()
    return (model(x_t, t, condition) - x_t).square().mean()


@cache
def computed(world_size: int, name: str) -> tuple[TraceHeader, list[CollectiveRecord]]:
    from trainer.config.rules.plan import plan_layout
    from trainer.experiment.forecast.spec import trace_spec

    config = configuration(world_size, CASES[world_size][name])
    layout = plan_layout(config, world_size)
    header, records = formula(trace_spec(config, layout, ranks_per_node=2, steps=steps_of(config)))
    return header, list(records)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, str], Recorded]:
    """Every case, recorded with those of its kind when one is first asked for."""

    @cache
    def recorded(world_size: int, rare: bool) -> dict[str, Recorded]:
        folder, names = tmp_path_factory.mktemp(f"ranks_{world_size}"), cases_of(world_size, rare=rare)
        run_ranks(record_cases, world_size, str(folder), rare)
        steady = [merge(folder / str(index), world_size) for index in range(len(names))]
        return {
            name: (*read(folder / str(index) / "collectives.jsonl"), steady[index]) for index, name in enumerate(names)
        }

    return lambda world_size, name: recorded(world_size, (world_size, name) in SLOW)[name]


def without_sizes(records: Sequence[CollectiveRecord]) -> Iterator[tuple[object, ...]]:
    """What every rank issued, without what only the tokens decide.

    That is the sizes of all-to-alls and the rows of the fullest rank whose keys and values coherent dispatch gathers.
    """
    for record in records:
        is_rows = record.group.startswith("expert") and record.layer is not None and "float" in record.dtype
        sizes = () if is_rows else (record.bytes_in, record.bytes_out)
        place = record.rank, record.step, record.micro, record.phase, record.layer
        yield *place, record.op, record.group, record.dtype, *sizes


@pytest.mark.parametrize(("world_size", "name"), params())
def test_formula_and_recording_issue_the_same_collectives(
    recordings: Callable[[int, str], Recorded], world_size: int, name: str
) -> None:
    header, recorded, steady = recordings(world_size, name)
    computed_header, records = computed(world_size, name)
    assert steady or name in COHERENT, "sizes that tokens decide"
    assert header.groups == computed_header.groups
    assert list(without_sizes(recorded)) == list(without_sizes(records))
    assert all_to_all_totals(recorded) == all_to_all_totals(records), "bytes of each exchange over its group"


@pytest.mark.parametrize(("world_size", "name"), params("capped"))
def test_capped_dispatch_sends_the_same_to_the_last_split(
    recordings: Callable[[int, str], Recorded], world_size: int, name: str
) -> None:
    _, recorded, _ = recordings(world_size, name)
    _, records = computed(world_size, name)
    found = [
        [
            (
                r.rank,
                r.step,
                r.micro,
                r.phase,
                r.layer,
                r.op,
                r.dtype,
                r.bytes_in,
                r.bytes_out,
                r.in_splits,
                r.out_splits,
            )
            for r in trace
            if r.group.startswith("expert") and r.layer is not None
        ]
        for trace in (recorded, records)
    ]
    assert found[0] == found[1]
    assert {op for *_, op, _, _, _, _, _ in found[0]} == {"all_to_all"}


@pytest.mark.parametrize(("world_size", "name"), params("replicas"))
def test_weights_of_replicas_are_the_same_to_the_last_split(
    recordings: Callable[[int, str], Recorded], world_size: int, name: str
) -> None:
    _, recorded, _ = recordings(world_size, name)
    _, records = computed(world_size, name)
    found = [list(of_replicas(trace)) for trace in (recorded, records)]
    assert found[0] == found[1]
    precision = CASES[world_size][name][0].get("precision", "fp32")
    expert_bytes = 2 * HIDDEN * EXPERT_HIDDEN * (2 if precision == "bf16" else 4)
    assert {splits for *_, splits in found[0]} == {(0, expert_bytes), (expert_bytes, 0)}


def of_replicas(records: Sequence[CollectiveRecord]) -> Iterator[tuple[object, ...]]:
    """The exchanges of weights and of their gradients: between the way out and the way home."""
    layers: dict[tuple[object, ...], list[CollectiveRecord]] = {}
    for record in records:
        if record.op == "all_to_all" and record.layer is not None and "int" not in record.dtype:
            layers.setdefault((record.rank, record.step, record.micro, record.phase, record.layer), []).append(record)
    for key, exchanges in layers.items():
        assert len(exchanges) % 3 == 0
        yield from ((*key, record.dtype, record.in_splits) for record in exchanges[1::3])


def test_a_run_of_the_residual_network_alone_has_no_formula() -> None:
    from trainer.config.rules.plan import plan_layout
    from trainer.experiment.forecast.spec import trace_spec

    config = configuration(2, ({}, 1, None, "blockwise, aligned"))
    settings = config.model_dump()
    settings["flow"]["objective"] = {"kind": "feature_residual"}
    settings["model"] |= {"residual_layers": 1, "init_from": "unused", "init_new": ["residual"]}
    config = RunConfig.model_validate(settings)
    with pytest.raises(ValueError, match=r"^flow\.objective\.kind: feature_residual .*; record"):
        trace_spec(config, plan_layout(config, 2), ranks_per_node=2)


def all_to_all_totals(records: Sequence[CollectiveRecord]) -> dict[tuple[object, ...], int]:
    """Bytes of each exchange over all its members: those of the k-th all-to-all of a group in a step.

    The parts of an expert-parallel group count together: which of them a token passes through is up to its experts.
    """
    totals: dict[tuple[object, ...], int] = {}
    for rank in sorted({record.rank for record in records}):
        exchanges = [record for record in records if record.rank == rank and record.op == "all_to_all"]
        for index, record in enumerate(exchanges):
            group = re.sub(r"^(expert_rail|expert_node)_\d+$", r"\1", record.group)
            key = (group, index, record.step, record.phase, record.layer)
            totals[key] = totals.get(key, 0) + record.bytes_in
    return totals
