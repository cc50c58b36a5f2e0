"""What a computed trace says of computation: the arithmetic of a step, where it happens, and what has no formula."""

from pathlib import Path

import pytest

from trainer.config.file import load_config
from trainer.config.rules.plan import plan_layout
from trainer.experiment.forecast.spec import trace_spec
from trainer.experiment.forecast.trace import formula
from trainer.model.flops import training_flops

DIT, GPT = Path("configs/runs/dit_moe_64.yaml"), Path("configs/runs/gpt_moe.yaml")
SMALL = ["model.hidden=32", "model.num_heads=4", "moe.expert_hidden=64", "moe.num_experts=8", "parallel.expert=4"]


def traced(path: Path, overrides: list[str], world_size: int):
    config = load_config(path, overrides)
    layout = plan_layout(config, world_size, ranks_per_node=4)
    header, records = formula(trace_spec(config, layout, ranks_per_node=4, work=True))
    return config, layout, header, [record for record in records if record.rank == 1]


@pytest.mark.parametrize("batch", [64, 128])
def test_a_rank_computes_the_arithmetic_of_its_examples(batch):
    overrides = [*SMALL, f"optim.global_batch={batch}", "optim.micro_batch=16"]
    config, layout, header, records = traced(DIT, overrides, 4)
    assert header.version == 4
    examples = layout.micro_batch * layout.accumulation
    assert sum(record.flops or 0 for record in records) == (training_flops(config) or 0) * examples > 0
    assert all(record.memory_bytes is not None for record in records)
    assert all(sum(flops * count for _, flops, count in record.products or ()) == record.flops for record in records)


def test_experts_compute_between_the_way_there_and_back_and_the_rest_around():
    config, layout, _, records = traced(DIT, SMALL, 4)
    assert config.moe is not None
    visits = layout.micro_batch * 256 * config.moe.top_k
    of_experts = 2 * visits * 2 * config.model.hidden * config.moe.expert_hidden
    block = [record for record in records if (record.phase, record.layer, record.op) == ("forward", 0, "all_to_all")]
    back = [record for record in records if (record.phase, record.layer, record.op) == ("backward", 0, "all_to_all")]
    assert (block[-2].flops, block[-1].flops) == (0, of_experts)
    assert back[-1].flops == 2 * of_experts


def test_the_update_moves_optimiser_states_and_no_sums_wait_for_it():
    _, _, _, records = traced(DIT, SMALL, 4)
    update = [record for record in records if record.phase == "optimizer"]
    busy = [record.op for record in update if record.memory_bytes]
    assert busy == ["all_gather"]


def test_language_models_compute_as_their_formula_says():
    config, layout, _, records = traced(GPT, ["optim.global_batch=16"], 4)
    whole = (training_flops(config) or 0) * layout.micro_batch * layout.accumulation
    assert sum(record.flops or 0 for record in records) == whole > 0


def test_traces_that_do_not_say_work_are_as_they_were():
    config = load_config(DIT, SMALL)
    layout = plan_layout(config, 4, ranks_per_node=4)
    header, records = formula(trace_spec(config, layout, ranks_per_node=4))
    assert header.version == 1
    assert not any("flops" in record.to_json() for record in records)
