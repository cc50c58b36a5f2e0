"""Laws of policies under the real loop: ratio 1 where a cycle begins, and two ranks draw and learn as one."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import trainer.task.policy.grpo
from tests.ranks import run_ranks
from tests.trainer.training.on_ranks import train
from trainer.checkpoint.pretrained import pinned
from trainer.config.file import validated
from trainer.config.run import RunConfig
from trainer.flow import Condition
from trainer.flow.reward import Reward

pytestmark = pytest.mark.slow

STEPS, UPDATES, GROUP, PROMPTS = 4, 2, 4, 8
FAST = {"warmup_steps": 0, "ema_decay": 0.5}
NETWORK = {"kind": "dit", "hidden": 32, "num_heads": 4, "num_layers": 2, "label_dropout": 0.0}
EXPERTS: dict[str, Any] = {"num_experts": 4, "top_k": 2, "expert_hidden": 32, "router": {"kind": "sparse_ot"}}
CASES: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]] = {
    "dense, ZeRO 1": (None, {"zero_stage": 1}),
    "dense, ZeRO 2": (None, {"zero_stage": 2, "activation_checkpointing": True}),
    "dense, ZeRO 3": (None, {"zero_stage": 3}),
    "dense, FSDP2": (None, {"kind": "fsdp", "activation_checkpointing": True}),
    "experts, ZeRO 1": (EXPERTS, {"zero_stage": 1}),
    "experts, no replay": (EXPERTS, {"zero_stage": 1}),
    "experts, recomputed": (EXPERTS, {"zero_stage": 1, "activation_checkpointing": True}),
    "experts, capped": ({**EXPERTS, "dispatch": "capped"}, {"zero_stage": 2}),
}
NO_REPLAY = "experts, no replay"
ALONE = ("dense, ZeRO 1", "experts, ZeRO 1")
SEEN: list[Tensor] = []


class Seen(Reward):
    """How bright an image is on the side that its class names; keeps what it sees."""

    def __call__(self, examples: Tensor, condition: Condition, /) -> Tensor:
        """See `Reward`."""
        assert condition.label is not None
        SEEN.append(examples.detach().clone())
        left, right = (half.flatten(1).mean(1) for half in examples.chunk(2, dim=3))
        return torch.where(condition.label % 2 == 0, left - right, right - left)


class Found(NamedTuple):
    """What a run left.

    Args:
        figures: of the steps.
        seen: [N, C, H, W] examples that the reward was asked about in the first cycle.
        weights: averages in the end.
    """

    figures: list[dict[str, float]]
    seen: Tensor
    weights: dict[str, Tensor]


def document(folder: Path, moe: dict[str, Any] | None, ranks: int, **sections: Any) -> dict[str, Any]:
    return {
        "run": {"dir": str(folder)},
        "data": {"kind": "digits", "held_out": 1500},
        "model": NETWORK,
        "moe": moe,
        "optim": {"steps": STEPS, "global_batch": PROMPTS, "micro_batch": 2, "lr": 1e-3, **FAST},
        "parallel": {"expert": ranks if moe else 1},
        "checkpoint": {"every": STEPS},
        "observe": {"log_every": 1, "tensorboard": False},
        "evaluate": {"every": None},
        "sample": {"kind": "images", "every": None, "guidance": 1.0},
        **sections,
    }


def base_of(folder: Path, moe: dict[str, Any] | None) -> RunConfig:
    """A run of a flow, whose router has learned potentials."""
    learned = {"steps": 20, "global_batch": 32, "micro_batch": 32, "lr": 1e-2, **FAST}
    sections = document(folder / f"base {'of experts' if moe else ''}", moe, 1, optim=learned)
    return validated(folder, {**sections, "checkpoint": {"every": 20}})


def policy_of(folder: Path, case: str, ranks: int) -> RunConfig:
    moe, engine = CASES[case]
    task = {
        "kind": "grpo",
        "base": str(base_of(folder, moe).run.dir),
        "reward": {"class": f"{__name__}:Seen"},
        "steps": 4,
        "group": GROUP,
        "updates": UPDATES,
        "kl": 0.0 if moe else 0.01,
    }
    return pinned(validated(folder, document(folder / f"{case} on {ranks}", moe, ranks, task=task, engine=engine)))


def run_bases(rank: int, world_size: int, folder: str) -> None:
    for moe in (None, EXPERTS):
        train(rank, world_size, base_of(Path(folder), moe), None)


def run_cases(rank: int, world_size: int, folder: str, cases: tuple[str, ...]) -> dict[str, Found]:
    found = {}
    for case in cases:
        SEEN.clear()
        run = policy_of(Path(folder), case, world_size)
        forgets = patch.object(trainer.task.policy.grpo, "replayed", lambda *_: None)
        with forgets if case == NO_REPLAY else nullcontext():
            figures = train(rank, world_size, run, None)
        num = UPDATES * PROMPTS * GROUP // world_size
        weights = load_file(run.run.dir / "checkpoints" / f"step_{STEPS:08d}" / "ema.safetensors")
        found[case] = Found(figures, torch.cat(SEEN)[:num], weights)
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[dict[str, Found]]]:
    folder = tmp_path_factory.mktemp("runs")
    run_ranks(run_bases, 1, str(folder))
    return cache(lambda ranks: run_ranks(run_cases, ranks, str(folder), ALONE if ranks == 1 else tuple(CASES)))


@pytest.mark.parametrize("case", ALONE)
def test_the_ratio_is_1_on_one_rank(results: Any, case: str) -> None:
    begins_at_1(results(1), case)


@pytest.mark.parametrize("case", [case for case in CASES if case != NO_REPLAY])
def test_the_ratio_is_1_on_two_ranks(results: Any, case: str) -> None:
    begins_at_1(results(2), case)


def begins_at_1(found: list[dict[str, Found]], case: str) -> None:
    """Whether the ratio is exactly 1 in the first step of every cycle, and not in the others."""
    for of_rank in found:
        deviations = [values["ratio_deviation"] for values in of_rank[case].figures]
        assert deviations[::UPDATES] == [0.0] * (STEPS // UPDATES)
        assert min(deviations[1::UPDATES]) > 0, "the weights have moved since"


def test_without_replay_of_the_experts_it_is_not(results: Any) -> None:
    for of_rank in results(2):
        assert min(values["ratio_deviation"] for values in of_rank[NO_REPLAY].figures) > 1e-5


@pytest.mark.parametrize("case", ALONE)
def test_two_ranks_draw_and_learn_as_one(results: Any, case: str) -> None:
    (alone,), both = results(1), results(2)
    one, two = alone[case].seen, torch.cat([of_rank[case].seen for of_rank in both])
    assert one.shape == two.shape
    distances = torch.cdist(one.flatten(1), two.flatten(1), p=torch.inf)
    nearest = distances.min(1)
    assert sorted(nearest.indices.tolist()) == [*range(len(one))]
    print(f"{case}: rollouts differ by {float(nearest.values.max()):.1e}", end=", ")
    assert float(nearest.values.max()) <= 1e-6
    apart = max(float((value - both[0][case].weights[name]).abs().max()) for name, value in alone[case].weights.items())
    print(f"weights by {apart:.1e}")
    assert apart <= 1e-5
