"""A policy of digits on two ranks: with every engine the ratio is exactly 1 before anything was learned."""

from pathlib import Path

import pytest

from tests.trainer.runs import timeless, torchrun
from tests.trainer.untrained import untrained_run

MODEL = {"kind": "dit", "hidden": 16, "num_layers": 1, "num_heads": 2}
SIZES = "steps: 4, group: 4, updates: 2"


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine",
    [
        "{kind: deepspeed, zero_stage: 0}",
        "{kind: deepspeed, zero_stage: 1, precision: bf16}",
        "{kind: deepspeed, zero_stage: 3}",
        "{kind: fsdp, precision: bf16}",
    ],
)
@pytest.mark.parametrize("rollout", ["full_sde, branches: 1", "branch, branches: 2, groups: seed"])
def test_ratios_are_one_at_the_first_step_of_a_cycle(engine: str, rollout: str, tmp_path: Path) -> None:
    base = untrained_run(tmp_path / "base", {"model": MODEL, "data": {"kind": "digits"}})
    config = tmp_path / "policy.yaml"
    config.write_text(
        f"run: {{dir: {tmp_path / 'policy'}}}\n"
        f"task: {{kind: grpo, base: {base}, reward: {{kind: ink}}, rollout: {rollout}, {SIZES}}}\n"
        "optim: {steps: 4, global_batch: 4, micro_batch: 1, lr: 1.0e-2, warmup_steps: 0}\n"
        f"engine: {engine}\n"
        "checkpoint: {every: 4}\nevaluate: {every: null}\nobserve: {log_every: 1}\n"
    )
    result = torchrun("-m", "trainer", "train", str(config))
    assert result.returncode == 0, result.stderr
    metrics = [values for _, values in timeless(tmp_path / "policy" / "metrics.jsonl")]
    deviations = [values["ratio_deviation"] for values in metrics]
    assert deviations[0] == deviations[2] == 0.0, deviations
    assert min(deviations[1], deviations[3]) > 0, "the second step of a cycle has other weights than drew"
    assert [values["reward_calls"] for values in metrics] == [metrics[0]["reward_calls"] * n for n in (1, 1, 2, 2)]
    assert metrics[-1]["path_kl"] > 0
