"""Experts on several ranks: training learns what a dense network learns, while replicas come, go and are resumed."""

import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.multiprocessing import ProcessExitedException

from moe.dispatch.messages import Visits
from moe.placement.placement import Placement
from moe.replica import Slots, served_choices
from tests.ranks import run_ranks
from tests.selected import selected
from tests.trainer.runs import assert_equal_folders
from tests.trainer.training.migration.migrated import EXPERTS, LAYERS, Run, configuration

TWO_RANKS = [[[5, 0, 2, 3, 4, 1], [6, 4, 7, 1, 0, 2]], [[0, 1, 2, 3, 7, 6], [7, 6, 5, 4, 3, 0]]]
FEWER = [[[0, 1, 2, 3, 6], [4, 5, 6, 7, 0]], [[7, 1, 2, 3, 5], [4, 5, 6, 0, 7]]]
OTHER_HOMES = [[[4, 5, 0, 3, 2, 1], [6, 7, 1, 2, 0, 4]], [[7, 6, 1, 2, 0, 3], [4, 5, 3, 0, 6, 7]]]
"""The same holders as in TWO_RANKS, other homes."""
DIVISIONS = {
    "ZeRO 0, home": {"zero_stage": 0, "dispatch": "home"},
    "ZeRO 1, copies, least loaded": {"zero_stage": 1, "dispatch": "copies", "replicas": "least_loaded"},
    "ZeRO 2, home, least loaded": {"zero_stage": 2, "dispatch": "home", "replicas": "least_loaded"},
    "ZeRO 2, copies": {"zero_stage": 2, "dispatch": "copies"},
}
SLOW = {"ZeRO 2, copies", 1}
"""Divisions and stages of which the suite has each value elsewhere in this file."""
MICRO_BATCH, STEPS, KILLED_AT = 4, 4, 2


def marked(values: Iterable[Any]) -> list[Any]:
    return [pytest.param(value, marks=pytest.mark.slow if value in SLOW else ()) for value in values]


def slots(rows: list[list[list[int]]]) -> np.ndarray:
    return np.array(rows).reshape(LAYERS, -1)


def place(folder: Path) -> Path:
    """Writes the placement of the runs."""
    made = Placement.contiguous(LAYERS, EXPERTS, 1, 2)
    Placement.model_validate({**made.model_dump(), "rank_experts": TWO_RANKS}).write(folder / "placement.json")
    return folder / "placement.json"


def trained(world_size: int, **settings: Any) -> dict[str, Any]:
    run = Run(configuration(micro_batch=MICRO_BATCH, **settings), world_size)
    losses = [run.step(step) for step in range(1, STEPS + 1)]
    return {"losses": losses, "weights": {shard.name: shard.tensor.clone() for shard in run.engine.shards()}}


def one_rank(_rank: int, world_size: int) -> dict[str, Any]:
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(expert_model_parallel_size=1)
    return trained(world_size, expert_parallel=1)


def several_ranks(_rank: int, world_size: int, root: str, divisions: list[str], stages: list[int]) -> dict[str, Any]:
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(expert_model_parallel_size=2)
    placement = place(Path(root))
    found: dict[str, Any] = {name: trained(world_size, placement=placement, **DIVISIONS[name]) for name in divisions}
    if world_size == 4:
        return found
    found["changed"] = {stage: changed(world_size, stage) for stage in stages}
    found["other homes"] = other_homes(world_size, placement)
    found["live"] = living(world_size, placement)
    found["observed"] = observed(world_size, placement)
    found["resumed"] = resumed(world_size, Path(root), placement)
    return found


def changed(world_size: int, zero_stage: int) -> dict[str, Any]:
    """A run to which replicas are added, then others, then none, while homes move; and the run without."""
    straight, moved = (Run(configuration(zero_stage=zero_stage), world_size) for _ in range(2))
    placements = {1: slots(TWO_RANKS), 2: slots(FEWER), 3: np.tile(np.arange(EXPERTS), (LAYERS, 1))}
    found: dict[str, Any] = {"straight": [], "moved": [], "states": []}
    for step in range(1, STEPS + 1):
        found["straight"].append(straight.step(step))
        found["moved"].append(moved.step(step))
        if step in placements:
            before = moved.experts()
            assert moved.place(placements[step]) is None
            found["states"].append((before, moved.experts(), moved.engine.slot_to_expert()))
    return found


def other_homes(world_size: int, placement: Path) -> dict[str, Any]:
    """A run whose experts change their homes among their holders, and one whose experts do not."""
    config = configuration(placement=placement, replicas="least_loaded", dispatch="copies")
    straight, moved = (Run(config, world_size) for _ in range(2))
    found: dict[str, Any] = {"straight": [], "moved": []}
    for step in range(1, STEPS + 1):
        found["straight"].append(straight.step(step))
        found["moved"].append(moved.step(step))
        if step == KILLED_AT:
            assert moved.place(slots(OTHER_HOMES)) is None
    found["map"] = moved.engine.slot_to_expert()
    return found


def living(world_size: int, placement: Path) -> dict[str, Any]:
    """A run with replicas that moves experts itself, and one whose experts stay."""
    settings: Any = {"placement": placement, "replicas": "least_loaded"}
    live: Any = {"every": 1, "regret": 0.001, "horizon": 1_000_000}
    moving = Run(configuration(migration=live, **settings), world_size, leaning=True)
    staying = Run(configuration(**settings), world_size, leaning=True)
    losses = {
        name: [run.step(step) for step in range(1, STEPS + 1)]
        for name, run in (("moving", moving), ("staying", staying))
    }
    assert moving.migration is not None
    return {"losses": losses, "version": moving.migration.version, "map": moving.engine.slot_to_expert()}


def observed(world_size: int, placement: Path) -> dict[str, Any]:
    """Figures of a step in de-duplicated dispatch, each rank a node, and what every layer's routers chose in it."""
    from moe.layer import PlacedMoELayer
    from trainer.observe.expert_load import ExpertLoad

    run = Run(configuration(dispatch="copies", placement=placement, replicas="least_loaded"), world_size)
    load = ExpertLoad(run.engine.module, 1, "copies")
    maps: list[torch.Tensor] = []
    for layer in run.engine.module.modules():
        if isinstance(layer, PlacedMoELayer):
            router: Any = layer.router
            router.register_forward_hook(lambda *call: maps.append(call[-1][1].clone()))
    load.start()
    run.step(1)
    return {"figures": load.reduced(), "maps": maps}


def dying(rank: int, world_size: int, root: str) -> None:
    """Saves a checkpoint and is killed in the step after it."""
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(expert_model_parallel_size=2)
    run = Run(survivor(place(Path(root)), Path(root)), world_size)
    for step in range(1, KILLED_AT + 1):
        run.step(step)
    run.save(Path(root) / "killed", KILLED_AT)
    run.step(KILLED_AT + 1)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    torch.distributed.barrier()


def survivor(placement: Path, root: Path) -> Any:
    return configuration(
        placement=placement, replicas="least_loaded", precision="bf16", zero_stage=2, folder=root / "run"
    )


def resumed(world_size: int, root: Path, placement: Path) -> dict[str, Any]:
    """The killed run taken up again, and the same run without the kill."""
    config = survivor(placement, root)
    run = Run(config, world_size, resumes=root / "killed" / f"step_{KILLED_AT:08d}")
    found = {"resumed": [run.step(step) for step in range(KILLED_AT + 1, STEPS + 1)]}
    run.save(root / "resumed", STEPS)
    straight = Run(config, world_size)
    found["straight"] = [straight.step(step) for step in range(1, STEPS + 1)][KILLED_AT:]
    straight.save(root / "straight", STEPS)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replicas")
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        run_ranks(dying, 2, str(folder))
    return folder


@pytest.fixture(scope="module")
def ranks(request: pytest.FixtureRequest, folder: Path) -> list[dict[str, Any]]:
    return run_ranks(several_ranks, 2, str(folder), selected(request, "division"), selected(request, "stage"))


@pytest.fixture(scope="module")
def dense() -> dict[str, Any]:
    return run_ranks(one_rank, 1)[0]


def assert_learned_the_same(results: list[dict[str, Any]], dense: dict[str, Any]) -> None:
    losses = np.mean([result["losses"] for result in results], axis=0)
    np.testing.assert_allclose(losses, dense["losses"], rtol=1e-6)
    held = {name: weight for result in results for name, weight in result["weights"].items()}
    assert held.keys() == dense["weights"].keys()
    for name, weight in held.items():
        # AdamW moves a weight whose gradient is nothing but rounding as far as any other, here 0.01 a step at most.
        torch.testing.assert_close(weight, dense["weights"][name], rtol=1e-5, atol=1e-4, msg=name)


@pytest.mark.parametrize("division", marked(DIVISIONS))
def test_replicas_learn_what_a_dense_network_learns(
    ranks: list[dict[str, Any]], dense: dict[str, Any], division: str
) -> None:
    assert_learned_the_same([result[division] for result in ranks], dense)


def test_replicas_learn_the_same_where_experts_have_copies_too(dense: dict[str, Any], tmp_path: Path) -> None:
    division = "ZeRO 1, copies, least loaded"
    results = run_ranks(several_ranks, 4, str(tmp_path), [division], [])
    assert_learned_the_same([result[division] for result in results], dense)


@pytest.mark.parametrize("stage", marked([0, 1, 2]))
def test_replicas_that_come_and_go_change_nothing_but_the_rounding(ranks: list[dict[str, Any]], stage: int) -> None:
    results = [result["changed"][stage] for result in ranks]
    for result in results:
        assert result["moved"][0] == result["straight"][0]
        np.testing.assert_allclose(result["moved"], result["straight"], rtol=1e-6)
    for index in range(3):
        before, after = (
            {name: state for result in results for name, state in result["states"][index][when].items()}
            for when in (0, 1)
        )
        assert len(before) == LAYERS * EXPERTS * 2 * 5
        assert before == after, "weights, moments and averages of the homes only change places"
    maps = [results[0]["states"][index][2] for index in range(3)]
    assert [of_layers.shape[1] for of_layers in maps] == [12, 10, 8]
    for rows, of_layers in zip((TWO_RANKS, FEWER), maps, strict=False):
        for layer in range(LAYERS):
            wanted = Slots.of(np.ravel(rows[layer]), EXPERTS, 2).experts.reshape(-1)
            np.testing.assert_array_equal(of_layers[layer], wanted)


def test_another_home_among_the_same_holders_changes_nothing(ranks: list[dict[str, Any]]) -> None:
    for result in (rank["other homes"] for rank in ranks):
        assert result["moved"] == result["straight"]
        for layer in range(LAYERS):
            here, there = (Slots.of(np.ravel(rows[layer]), EXPERTS, 2) for rows in (TWO_RANKS, OTHER_HOMES))
            np.testing.assert_array_equal(here.holders, there.holders)
            assert (here.home_ranks != there.home_ranks).any()
            np.testing.assert_array_equal(result["map"][layer], there.experts.reshape(-1))


def test_live_migration_moves_experts_that_have_no_replicas(ranks: list[dict[str, Any]]) -> None:
    for result in (rank["live"] for rank in ranks):
        assert result["version"] > 0
        np.testing.assert_allclose(result["losses"]["moving"], result["losses"]["staying"], rtol=1e-5)
        moved = 0
        for layer in range(LAYERS):
            before, after = (
                Slots.of(of_layer, EXPERTS, 2) for of_layer in (np.ravel(TWO_RANKS[layer]), result["map"][layer])
            )
            several = before.holders.sum(axis=1) > 1
            np.testing.assert_array_equal(before.replicas, after.replicas)
            np.testing.assert_array_equal(before.home_ranks[several], after.home_ranks[several])
            moved += (before.home_ranks != after.home_ranks).sum()
        assert moved > 0


def test_figures_of_loads_and_crossings_follow_the_replicas_that_served(ranks: list[dict[str, Any]]) -> None:
    results = [rank["observed"] for rank in ranks]
    ratios, crossing, choices = [], 0, 0
    for layer in range(LAYERS):
        slots = Slots.of(np.ravel(TWO_RANKS[layer]), EXPERTS, 2)
        chosen = [
            (rank, result["maps"][layer].nonzero()[:, 1].view(-1, 2).numpy()) for rank, result in enumerate(results)
        ]
        visits = Visits.of_slots(served_choices(chosen, slots, "least_loaded", layer), 2)
        ratios.append(visits.choices.sum(axis=0).max() / visits.choices.sum(axis=0).mean())
        crossing += visits.tokens.sum() - np.trace(visits.tokens)
        choices += visits.choices.sum()
    for result in results:
        assert result["figures"]["rank_load_max_over_mean"] == pytest.approx(np.mean(ratios))
        assert result["figures"]["crossnode_token_fraction"] == pytest.approx(crossing / choices)


def test_a_killed_run_with_replicas_goes_on_as_if_it_had_not_been(folder: Path, ranks: list[dict[str, Any]]) -> None:
    for result in (rank["resumed"] for rank in ranks):
        assert result["resumed"] == result["straight"]
    final = f"step_{STEPS:08d}"
    assert_equal_folders(folder / "straight" / final, folder / "resumed" / final)
    saved = Placement.read(folder / "straight" / final / "placement.json")
    assert saved.has_replicas
    np.testing.assert_array_equal(np.sort(saved.rank_experts, axis=2), np.sort(TWO_RANKS, axis=2))
