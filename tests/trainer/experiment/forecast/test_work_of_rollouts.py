"""What a computed trace says of computation in rollouts, against what torch counts while a task collects."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.each import each
from trainer.config.file import resolve
from trainer.config.layout import Layout
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.config.task import GRPOConfig
from trainer.data import Batch
from trainer.experiment.forecast.spec import trace_spec
from trainer.experiment.forecast.training import TrainingStep
from trainer.experiment.forecast.work import Work
from trainer.model.build import build_model
from trainer.model.flops import training_flops
from trainer.sampling.trained import Reference
from trainer.task.policy.grpo import GRPOTask
from trainer.training.task import TrainedNetworks

PROMPTS = 2
OWN = "tests.trainer.task.test_adjoint_matching:Sloping"
DIT = {"model": {"hidden": 16, "num_layers": 2, "num_heads": 2}}
MLP = {"model": {"kind": "mlp", "hidden": 32}, "data": {"kind": "toy", "name": "eight_gaussians"}}
TASKS: dict[str, dict[str, Any]] = {
    "full noise": {"kl": 0.0},
    "branches": {"kl": 0.0, "rollout": "branch", "branches": 2},
    "its base": {"kl": 0.1},
    "several updates": {"kl": 0.0, "updates": 2},
}


class Frozen(Reference):
    """A network in the place of another run."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = network

    def model(self, device: torch.device) -> torch.nn.Module:  # type: ignore[override]  # noqa: ARG002
        return self.network


def configured(network: dict[str, Any], **task: Any) -> RunConfig:
    reward = {"kind": "ink"} if network is DIT else {"kind": "distance", "target": [1.0, 0.0]}
    document = {
        "run": {"dir": "unused"},
        "optim": {"steps": 2, "global_batch": PROMPTS},
        "task": {"kind": "grpo", "reward": reward, "steps": 3, "group": 4, **task},
        **network,
    }
    return RunConfig.model_validate(resolve(document).document)


def planned(config: RunConfig) -> Layout:
    """The layout of one rank; what the run goes on from is of no effect here."""
    with patch("trainer.config.rules.tasks._of_base"):
        return plan_layout(config, 1)


def computed(config: RunConfig) -> tuple[int, int]:
    """Operations of the rollouts of a cycle and of all losses of a step, of one rank by formula."""
    spec = trace_spec(config, planned(config), ranks_per_node=1, work=True)
    step = spec.program
    assert isinstance(step, TrainingStep)
    assert step.collecting is not None
    rollouts = sum(event.flops for event in step.collecting.events(step.engine) if isinstance(event, Work))
    whole = sum(operation.flops or 0 for operation in step.operations())
    return rollouts, whole - rollouts


@each(
    ("network", "name"),
    [(DIT, "branches"), (DIT, "its base"), (MLP, "full noise"), (MLP, "branches"), (MLP, "several updates")],
)
def test_rollouts_compute_what_torch_counts_while_a_task_collects(network: dict[str, Any], name: str) -> None:
    config = configured(network, **TASKS[name])
    assert isinstance(config.task, GRPOConfig)
    layout = planned(config)
    model, task = build_model(config, layout), GRPOTask(config)
    task.reference = Frozen(build_model(config, layout))
    batches = [Batch(torch.zeros(PROMPTS, *config.state_shape), None, torch.arange(PROMPTS))] * config.task.cycle
    generators = [torch.Generator().manual_seed(number) for number in range(config.task.cycle)]
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        task.collect(task.draw(batches, generators), TrainedNetworks(model))
    rollouts, losses = computed(config)
    assert rollouts == counter.get_total_flops() > 0
    (learned,) = (call for call in config.task.calls if call.phase == "learn")
    assert losses == config.task.passes * PROMPTS * learned.rows * (training_flops(config) or 0)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (
            {"reward": {"class": "tests.trainer.task.test_adjoint_matching:Sloping"}},
            "--work: a reward that is a network, or of your own, has no",
        ),
        (
            {"kind": "adjoint_matching", "base": "unused"},
            "--work: the gradients that adjoint_matching takes in rollouts",
        ),
    ],
)
def test_what_no_formula_counts_is_refused_in_one_line(task: dict[str, Any], said: str, tmp_path: Path) -> None:
    from trainer.experiment.forecast.unknown import without_work

    document = configured(DIT).model_dump(by_alias=True)
    kept = {} if "kind" in task else document["task"]
    given = kept | task | ({"reward": {"kind": "ink"}} if "kind" in task else {})
    config = RunConfig.model_validate(document | {"task": given, "run": {"dir": tmp_path}})
    assert f"--work: {without_work(config)}".startswith(said)
