"""Which collectives of a formula trace run beside computation."""

from typing import Any

from moe.collective_trace import CollectiveRecord
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.experiment.forecast.spec import trace_spec
from trainer.experiment.forecast.trace import formula


def issued(engine: dict[str, Any], *, work: bool = False, steps: tuple[int, ...] = (1,)) -> list[CollectiveRecord]:
    """What rank 0 of two issues under an engine."""
    config = RunConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "model": {"kind": "dit", "hidden": 16, "num_layers": 2, "num_heads": 4},
            "optim": {"steps": 4, "global_batch": 8, "micro_batch": 2},
            "engine": engine,
        }
    )
    spec = trace_spec(config, plan_layout(config, 2), ranks_per_node=2, steps=steps, work=work)
    return [record for record in formula(spec)[1] if record.rank == 0]


def test_gatherings_of_zero_3_run_until_a_module_needs_them():
    records = issued({"zero_stage": 3, "bucket_elements": 900}, steps=(1, 2))
    ends = {step: max(record.seq for record in records if record.step == step) + 1 for step in (1, 2)}
    gathers = [record for record in records if record.op == "all_gather"]
    assert {record.asynchronous for record in gathers} == {True}
    assert {record.asynchronous for record in records if record.op != "all_gather"} == {False}
    assert all(record.seq < (record.wait_seq or 0) <= ends[record.step] for record in gathers)
    assert any((record.wait_seq or 0) > record.seq + 1 for record in gathers), "some are fetched ahead"


def test_nothing_is_computed_before_the_first_parameters_are_gathered():
    records = issued({"zero_stage": 3, "bucket_elements": 900}, work=True)
    assert (records[0].op, records[0].flops) == ("all_gather", 0)
    assert sum(record.flops or 0 for record in records) == sum(r.flops or 0 for r in issued({}, work=True))


def test_other_engines_wait_for_each_collective():
    for engine in ({"zero_stage": 1}, {"zero_stage": 2}, {"kind": "fsdp"}):
        assert not any(record.asynchronous for record in issued(engine))
