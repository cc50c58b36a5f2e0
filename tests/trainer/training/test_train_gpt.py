"""A language model on ranks that share its experts: stopped and resumed, its text, equal losses wherever tokens are."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from tests.forked import command
from tests.ranks import run_ranks
from tests.selected import selected
from tests.trainer.commands import GPT
from tests.trainer.runs import assert_equal_folders, timeless
from trainer import load_config
from trainer.__main__ import main
from trainer.observe.protocol import Sink

SETTINGS = (
    "model={kind: gpt, dropout: 0.1, hidden: 32, num_layers: 2, num_heads: 4, num_kv_heads: 2}",
    "moe.expert_hidden=32",
    "data={context: 32, held_out: 500, max_bytes: 20000}",
    "optim={steps: 4, global_batch: 8, micro_batch: 2}",
    "checkpoint.every=2",
    "evaluate.every=2",
    "sample={every: 2, prompts: ['def ', 'import '], num_tokens: 10}",
    "observe.log_every=1",
    "trace.steps=[2, 3, 4]",
)
SHORT = ("optim.steps=2", "sample.every=null", "trace.steps=[]", "moe.router.aux_loss=0", "moe.top_k=2")
RESUMED = [pytest.param("home", marks=pytest.mark.slow), "coherent"]
"""The suite resumes tokens that go home in test_train."""
DISPATCHES = ("home", "copies", "coherent")


class StoppedError(Exception):
    """The run ends here on every rank."""


def train_all(rank: int, world_size: int, folder: Path, resumed: list[str]) -> None:
    """Trains every case once; those to be resumed a second time, stopped in step 4 and started again."""
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(expert_model_parallel_size=world_size)
    for dispatch in resumed:
        train(rank, folder / dispatch / "straight", f"moe.dispatch={dispatch}")
        train(rank, folder / dispatch / "resumed", f"moe.dispatch={dispatch}", stop=4)
        train(rank, folder / dispatch / "resumed", f"moe.dispatch={dispatch}")
    for dispatch in DISPATCHES:
        train(rank, folder / dispatch / "short", f"moe.dispatch={dispatch}", *SHORT)


def train(rank: int, folder: Path, *overrides: str, stop: int | None = None) -> None:
    import trainer.data
    import trainer.task
    from trainer.checkpoint.intact import newest_intact_collective
    from trainer.config.rules.plan import plan_layout
    from trainer.distributed.groups import Launch
    from trainer.observe.metrics import MetricsFile, truncate_after
    from trainer.training import loop
    from trainer.training.assembly import assembled
    from trainer.training.rank import Training

    taken = loop.take_step

    def stopping(run: Training, step: int) -> Any:
        if step == stop:
            raise StoppedError
        return taken(run, step)

    config = load_config(GPT, (*SETTINGS, *overrides, f"run.dir={folder}"))
    sinks: list[Sink] = []
    if rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        truncate_after(folder / "metrics.jsonl", 2)
        sinks = [MetricsFile(folder / "metrics.jsonl")]
    resumes = newest_intact_collective(folder / "checkpoints", allow_rng_loss=False)
    layout, launch, dataset = plan_layout(config, 2), Launch(rank, rank, 2, 2), trainer.data.build(config.data)
    training = assembled(config, layout, launch, trainer.task.build(config), dataset, sinks, resumes)
    try:
        with patch.object(loop, "take_step", stopping):
            loop.train(training)
        training.trace.finish()
    except StoppedError:
        assert stop is not None
    for sink in sinks:
        sink.close()


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt")
    run_ranks(train_all, 2, folder, selected(request, "resumed"))
    return folder


@pytest.mark.parametrize("resumed", RESUMED)
def test_a_resumed_run_ends_as_the_straight_one(runs: Path, resumed: str) -> None:
    straight, again = runs / resumed / "straight", runs / resumed / "resumed"
    for part in ("checkpoints/step_00000002", "checkpoints/step_00000004", "samples"):
        assert_equal_folders(straight / part, again / part)
    assert timeless(straight / "metrics.jsonl") == timeless(again / "metrics.jsonl")
    assert [step for step, _ in timeless(straight / "metrics.jsonl")] == list(range(1, 5))
    assert (straight / "traces" / "routing.npz").read_bytes() == (again / "traces" / "routing.npz").read_bytes()
    assert len(list((straight / "samples").iterdir())) == 2


def test_ranks_that_share_experts_write_what_one_process_writes(runs: Path, tmp_path: Path) -> None:
    arguments = ["generate", str(runs / "home" / "short"), "--num-bytes", "30", "--temperature", "1.5"]
    result = command(*arguments, "--out", str(tmp_path / "two"), ranks=2)
    assert result.returncode == 0, result.stderr
    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0
    assert len((tmp_path / "one").read_bytes()) == 34
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("dispatch", ["copies", "coherent"])
def test_where_tokens_are_computed_does_not_change_the_losses(runs: Path, dispatch: str) -> None:
    found, expected = (
        [
            [values["loss"], values["grad_norm"], values.get("held_out_loss", 0.0)]
            for _, values in timeless(runs / other / "short" / "metrics.jsonl")
        ]
        for other in (dispatch, "home")
    )
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=0)
