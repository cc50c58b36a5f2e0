"""Saving, resuming in other processes and re-placing, for every engine setting."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from moe.placement.placement import Placement
from tests.ranks import run_ranks
from tests.trainer.runs import assert_equal_folders
from trainer.checkpoint.storage import SavedState
from trainer.config.run import RunConfig
from trainer.flow import Condition

EXPERTS, LAYERS, STEPS, SAVED_AT = 8, 2, 3, 2
RATES = {"experts": 0.5, "blocks.1": 3.0, "bias": 2.0}
CASES: dict[int, dict[str, dict[str, Any]]] = {
    2: {
        "ZeRO 0": {"engine": {"zero_stage": 0}},
        "ZeRO 1": {"engine": {"zero_stage": 1}},
        "ZeRO 2": {"engine": {"zero_stage": 2}},
        "ZeRO 1, bf16": {"engine": {"zero_stage": 1, "precision": "bf16"}},
        "ZeRO 2, bf16": {"engine": {"zero_stage": 2, "precision": "bf16"}},
        "ZeRO 1, accumulation": {"engine": {"zero_stage": 1}, "micro_batch": 2},
        "dense, ZeRO 1": {"engine": {"zero_stage": 1}, "moe": None},
        "dense, ZeRO 3": {"engine": {"zero_stage": 3}, "moe": None},
        "dense, FSDP": {"engine": {"kind": "fsdp"}, "moe": None, "micro_batch": 2},
        "dense, FSDP, bf16": {"engine": {"kind": "fsdp", "precision": "bf16"}, "moe": None},
    },
    4: {
        "ZeRO 1": {"engine": {"zero_stage": 1}},
        "ZeRO 2": {"engine": {"zero_stage": 2}},
        "ZeRO 2, rates": {"engine": {"zero_stage": 2}, "rates": RATES},
        "dense, ZeRO 3, rates": {"engine": {"zero_stage": 3}, "moe": None, "rates": RATES},
        "dense, FSDP, rates": {"engine": {"kind": "fsdp"}, "moe": None, "rates": RATES},
    },
}
SLOW = {"ZeRO 2", "ZeRO 1, bf16", "ZeRO 1, accumulation", "dense, FSDP, bf16"}
"""Two ranks have accumulation under FSDP, and bf16 under ZeRO 2, besides."""
FLAT = [
    pytest.param(world_size, name, marks=pytest.mark.slow if world_size == 4 or name in SLOW else ())
    for world_size, cases in CASES.items()
    for name in cases
]
Runs = Callable[[int, str], tuple[Path, list[dict[str, Any]]]]


def configuration(
    folder: Path,
    engine: dict[str, Any],
    moe: Any = True,
    micro_batch: int | None = None,
    rates: dict[str, float] | None = None,
) -> RunConfig:
    experts = {"num_experts": EXPERTS, "top_k": 2, "expert_hidden": 24}
    optim = {"steps": STEPS, "global_batch": 16, "micro_batch": micro_batch, "lr": 1e-2, "clip_norm": 0.5}
    return RunConfig.model_validate(
        {
            "run": {"dir": folder},
            "model": {"hidden": 16, "num_layers": LAYERS, "num_heads": 4, "dropout": 0.1},
            "moe": experts if moe else None,
            "optim": {**optim, "rates": rates or {}},
            "engine": engine,
            "parallel": {"expert": 2 if moe else 1},
        }
    )


def permuted_placement(path: Path) -> Path:
    generator = np.random.default_rng(5)
    layers = tuple(
        tuple(tuple(int(e) for e in half) for half in generator.permutation(EXPERTS).reshape(2, -1))
        for _ in range(LAYERS)
    )
    contiguous = Placement.contiguous(LAYERS, EXPERTS, 2, 1)
    contiguous.model_copy(update={"rank_experts": layers}).write(path)
    return path


def run_cases(_rank: int, world_size: int, root: str, names: list[str], run_case: Any) -> dict[str, Any]:
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(expert_model_parallel_size=2)
    folders = {name: Path(root) / str(list(CASES[world_size]).index(name)) for name in names}
    return {
        name: run_case(folder, configuration(folder, **CASES[world_size][name]), world_size)
        for name, folder in folders.items()
    }


def begin(folder: Path, config: RunConfig, world_size: int) -> dict[str, Any]:
    """The straight run, saved half-way too."""
    return {"straight": train(config, world_size, range(1, STEPS + 1), save=folder / "straight")}


def go_on(folder: Path, config: RunConfig, world_size: int) -> dict[str, Any]:
    """The run taken up half-way; and taken up under another placement."""
    rest, saved = range(SAVED_AT + 1, STEPS + 1), folder / "straight"
    results = {"resumed": train(config, world_size, rest, load=saved, save=folder / "resumed")}
    if config.moe is not None:
        placement = permuted_placement(folder / "placement.json")
        moved = config.model_copy(update={"moe": config.moe.model_copy(update={"placement": placement})})
        results["moved"] = train(moved, world_size, rest, load=saved, save=folder / "moved")
    return results


def train(config: RunConfig, world_size: int, steps: range, *, save: Path, load: Path | None = None) -> dict[str, Any]:
    """The loop's own arithmetic without its surroundings."""
    import torch.distributed as dist

    from moe.seeds import derive_seed
    from trainer.checkpoint.directory import step_folder
    from trainer.checkpoint.resuming import load_checkpoint
    from trainer.checkpoint.saving import Checkpointer
    from trainer.config.rules.plan import plan_layout
    from trainer.distributed.engine import build_engine
    from trainer.distributed.engine.ema import MovingAverage
    from trainer.model.build import build_model

    layout = plan_layout(config, world_size)
    engine = build_engine(build_model(config, layout), config, layout, torch.device("cpu"))
    average = MovingAverage(engine, 0.9)
    if load is not None:
        load_checkpoint(step_folder(load, steps[0] - 1), config, layout, engine, average)
    losses, norms = [], []
    for step in steps:
        for local in range(layout.accumulation):
            micro = dist.get_rank() * layout.accumulation + local
            generator = torch.Generator().manual_seed(derive_seed("data", step, micro))
            torch.manual_seed(derive_seed("dropout", step, micro))
            x_t = torch.randn(layout.micro_batch, *config.data.shape, generator=generator)
            t = torch.rand(layout.micro_batch, generator=generator)
            loss = (engine.model(x_t, t, Condition(torch.arange(layout.micro_batch) % 10)) - x_t).square().mean()
            engine.backward(loss)
            losses.append(float(loss))
        norms.append(engine.step(1e-2, lambda _: None).norm)
        average.update(step)
        if step in (SAVED_AT, STEPS):
            Checkpointer(save, config, layout, engine, average).save(step)
    return {"losses": losses, "norms": norms}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Folder and figures of a case; those of one number of ranks that are slow, or not, are trained together."""

    @cache
    def trained(world_size: int, slow: bool) -> tuple[Path, list[dict[str, Any]]]:
        folder = tmp_path_factory.mktemp(f"ranks_{world_size}")
        names = [name for name in CASES[world_size] if (name in SLOW) == slow]
        parts = [run_ranks(run_cases, world_size, str(folder), names, part) for part in (begin, go_on)]
        return folder, [{case: first[case] | then[case] for case in first} for first, then in zip(*parts, strict=True)]

    def found(world_size: int, case: str) -> tuple[Path, list[dict[str, Any]]]:
        folder, ranks = trained(world_size, case in SLOW)
        return folder / str(list(CASES[world_size]).index(case)), [rank[case] for rank in ranks]

    return found


def saved(runs: Runs, world_size: int, case: str, which: str) -> Path:
    return runs(world_size, case)[0] / which / f"step_{STEPS:08d}"


@pytest.mark.parametrize(("world_size", "case"), FLAT)
def test_a_resumed_run_is_the_same_run(runs: Runs, world_size: int, case: str) -> None:
    straight, resumed = (saved(runs, world_size, case, which) for which in ("straight", "resumed"))
    assert_equal_folders(straight, resumed)
    for rank in runs(world_size, case)[1]:
        assert rank["straight"]["losses"][-len(rank["resumed"]["losses"]) :] == rank["resumed"]["losses"]


@pytest.mark.parametrize(("world_size", "case"), [case for case in FLAT if "dense" not in str(case.values[1])])
def test_a_moved_expert_does_not_change_the_run(runs: Runs, world_size: int, case: str) -> None:
    for rank in runs(world_size, case)[1]:
        expected = rank["straight"]["losses"][-len(rank["moved"]["losses"]) :]
        np.testing.assert_allclose(rank["moved"]["losses"], expected, rtol=1e-6, atol=1e-6)
    straight, moved = (load_file(saved(runs, world_size, case, w) / "ema.safetensors") for w in ("straight", "moved"))
    assert straight.keys() == moved.keys()
    for name, value in straight.items():
        torch.testing.assert_close(moved[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("world_size", "case"), FLAT)
def test_every_value_is_written_once(runs: Runs, world_size: int, case: str) -> None:
    folder = saved(runs, world_size, case, "straight") / "state"
    average = load_file(folder.parent / "ema.safetensors")
    kinds = ("weight", "exp_avg", "exp_avg_sq", "ema")
    files = [load_file(file) for file in folder.glob("rank_*.safetensors")]
    assert len(files) == world_size
    written = [name for file in files for name in file]
    assert len(written) == len(set(written))
    assert {name.rpartition("[")[0] for name in written} == {f"{name}:{','.join(kinds)}" for name in average}
    elements = sum(tensor.numel() for file in files for tensor in file.values())
    assert elements == len(kinds) * sum(tensor.numel() for tensor in average.values())
    for name, saved_tensor in SavedState(folder).of_kind("ema").items():
        assert torch.equal(saved_tensor.values(), average[name])
    weights = SavedState(folder).of_kind("weight")
    assert {name: torch.Size(of_name.shape) for name, of_name in weights.items()} == {
        name: tensor.shape for name, tensor in average.items()
    }


def test_without_zero_the_norm_is_that_of_zero(runs: Runs) -> None:
    for one, other in zip(runs(2, "ZeRO 0")[1], runs(2, "ZeRO 1")[1], strict=True):
        np.testing.assert_allclose(one["straight"]["norms"], other["straight"]["norms"], rtol=1e-4)
        np.testing.assert_allclose(one["straight"]["losses"], other["straight"]["losses"], rtol=1e-5)
        assert min(one["straight"]["norms"]) > 0.5, "the gradient was never clipped"


def test_parameters_are_whole_under_zero_3(runs: Runs) -> None:
    sharded = load_file(saved(runs, 2, "dense, ZeRO 3", "straight") / "ema.safetensors")
    plain = load_file(saved(runs, 2, "dense, ZeRO 1", "straight") / "ema.safetensors")
    assert sharded.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(sharded[name], value, rtol=1e-4, atol=1e-5)
