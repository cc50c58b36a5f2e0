"""Experts that move during a run: nothing but their place changes, and a move that fails changes nothing."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.multiprocessing import ProcessExitedException

from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Placement
from moe.routing_trace import RoutingHeader, RoutingTrace
from tests.ranks import run_ranks
from tests.trainer.runs import assert_equal_folders
from tests.trainer.training.migration.migrated import EXPERTS, LAYERS, Run, configuration, losses, shuffled
from trainer.flow import UNCONDITIONAL

KILLED_AT, SAVED_AT, STEPS = 1, 9, 12
LIVE: dict[str, Any] = {"every": 2, "first": 3, "regret": 0.02, "horizon": 1_000_000, "most_moves": 2}


def moved_and_straight(world_size: int, **settings: Any) -> dict[str, Any]:
    """A run whose experts are moved twice, and the same run without; and one in which only the map was switched."""
    config = configuration(**settings)
    placements = {1: shuffled(3), 2: shuffled(5)}
    straight, moved, mislabelled = (Run(config, world_size) for _ in range(3))
    found: dict[str, Any] = {"straight": [], "moved": [], "mislabelled": []}
    for step in range(1, 4):
        for name, run in (("straight", straight), ("moved", moved), ("mislabelled", mislabelled)):
            found[name].append(run.step(step))
        if step in placements:
            assert moved.place(placements[step]) is None
            mislabelled.engine.place(placements[step])
    found["experts"] = {"straight": straight.experts(), "moved": moved.experts()}
    found["map"] = moved.engine.slot_to_expert()
    return found


def two_ranks(rank: int, world_size: int, root: str) -> dict[str, Any]:
    """Everything that two ranks can show."""
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(expert_model_parallel_size=2)
    return {
        "moved": moved_and_straight(world_size, zero_stage=2, precision="bf16"),
        "failed": failing(rank, world_size),
        "disagreeing": disagreeing(rank, world_size),
        "live": living(world_size, Path(root)),
        "survivor": surviving(world_size, Path(root) / "killed"),
        "windows": windows(world_size),
        "coherent": coherent_window(world_size),
    }


def failing(rank: int, world_size: int) -> dict[str, Any]:
    """Moves that go wrong on one rank, each followed by a step."""
    from trainer.training.migration import live

    def no_memory(*_: Any) -> torch.Tensor:
        raise RuntimeError("no memory")

    config = configuration()
    run = Run(config, world_size)
    found: dict[str, Any] = {"losses": [], "refusals": [], "unchanged": []}
    checksum, buffer = live.checksum, live._Shards.buffer
    for step, fault in enumerate(("none", "flipped bit", "no memory"), start=1):
        found["losses"].append(run.step(step))
        if fault == "none":
            continue
        before, slots = run.experts(), run.engine.slot_to_expert()
        if rank == 1 and fault == "flipped bit":
            live.checksum = lambda words: checksum(torch.cat([words[:-1], words[-1:] ^ 1]))
        if rank == 0 and fault == "no memory":
            live._Shards.buffer = no_memory  # pyright: ignore[reportAttributeAccessIssue]
        found["refusals"].append(run.place(shuffled(step)))
        live.checksum, live._Shards.buffer = checksum, buffer
        found["unchanged"].append(before == run.experts() and np.array_equal(slots, run.engine.slot_to_expert()))
    found["losses"].append(run.step(4))
    found["straight"] = losses(config, world_size, {}, steps=4)
    return found


def disagreeing(rank: int, world_size: int) -> dict[str, Any]:
    """Ranks of which one has another plan, or has lost what it knew."""
    from moe.migration.plan import MigrationPlan

    run = Run(configuration(migration={"every": 1, "horizon": 1_000_000}), world_size)
    migration: Any = run.migration
    migration._trigger.look = lambda *_: MigrationPlan(shuffled(rank), (), 1.0, 1.0)
    run.step(1)
    map_after = run.engine.slot_to_expert()
    state = {**migration.state(), "version": 7}
    migration.load(state if rank == 0 else None)
    known_by_one = migration.version
    migration.load(state)
    return {"map": map_after, "known by one": known_by_one, "known by all": migration.version}


def living(world_size: int, root: Path) -> dict[str, Any]:
    """A run that moves its experts itself: straight, resumed, and as one whose experts stay."""
    found: dict[str, Any] = {"losses": {}, "figures": [], "placed": []}
    config = configuration(migration=LIVE, folder=root / "run")
    run = Run(config, world_size, leaning=True)
    found["losses"]["live"] = []
    for step in range(1, STEPS + 1):
        found["losses"]["live"].append(run.step(step))
        assert run.migration is not None
        figures = run.migration.figures()
        found["placed"].append(figures.pop("time.placement_success_s", None))
        found["figures"].append(figures)
        if step == SAVED_AT:
            saved = run.save(root / "straight", step)
    run.save(root / "straight", STEPS)

    resumed = Run(config, world_size, resumes=saved, leaning=True)
    rest = range(SAVED_AT + 1, STEPS + 1)
    found["losses"]["resumed"] = [resumed.step(step) for step in rest]
    resumed.save(root / "resumed", STEPS)

    staying = configuration(folder=root / "run")
    run = Run(staying, world_size, leaning=True)
    found["losses"]["staying"] = [run.step(step) for step in range(1, STEPS + 1)]
    back = Run(staying, world_size, resumes=saved, leaning=True)
    found["map without migration"] = back.engine.slot_to_expert()
    found["losses"]["back"] = [back.step(step) for step in rest]
    return found


def dying(rank: int, world_size: int, root: str) -> None:
    """Saves a checkpoint, and dies on rank 1 when experts have arrived and are not yet in place."""
    from megatron.core import parallel_state

    from trainer.training.migration import live

    parallel_state.initialize_model_parallel(expert_model_parallel_size=2)
    run = Run(configuration(), world_size)
    for step in range(1, KILLED_AT + 1):
        run.step(step)
    run.save(Path(root), KILLED_AT)
    exchange = live._exchange

    def exchange_and_die(*arguments: Any) -> None:
        exchange(*arguments)
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    live._exchange = exchange_and_die
    run.place(shuffled(3))


def surviving(world_size: int, root: Path) -> dict[str, Any]:
    """The killed run taken up again, and the same run without the kill."""
    config = configuration()
    run = Run(config, world_size, resumes=root / f"step_{KILLED_AT:08d}")
    resumed = [run.step(step) for step in range(KILLED_AT + 1, KILLED_AT + 3)]
    return {"resumed": resumed, "straight": losses(config, world_size, {}, steps=KILLED_AT + 2)[KILLED_AT:]}


def windows(world_size: int) -> dict[str, Any]:
    """What the windows counted in two steps, and what the routers did in them."""
    from megatron.core import parallel_state

    from moe.layer import PlacedMoELayer
    from trainer.training.migration.window import SetWindow, SourceWindow

    run = Run(configuration(micro_batch=4), world_size)
    group: Any = parallel_state.get_expert_model_parallel_group()
    layers = [layer for layer in run.engine.module.modules() if isinstance(layer, PlacedMoELayer)]
    sources, sets = SourceWindow(layers, group), SetWindow(layers, group)
    maps: list[torch.Tensor] = []
    for layer in layers:
        router: Any = layer.router
        router.register_forward_hook(lambda *call: maps.append(call[-1][1].clone()))
    for step in (1, 2):
        run.step(step)
        sources.steps += 1
        sets.steps += 1
    chosen = list(maps)
    with run.average.in_place():
        run.engine.module(torch.randn(4, 1, 8, 8), torch.rand(4), UNCONDITIONAL)
    return {"maps": chosen, "sources": sources.reduced(), "sets": sets.reduced()}


def coherent_window(world_size: int) -> dict[str, Any]:
    """Transitions counted in coherent dispatch, and what each token chose in the same network with tokens at home."""
    from megatron.core import parallel_state

    from trainer.config.rules.plan import plan_layout
    from trainer.config.run import RunConfig
    from trainer.model.build import build_model
    from trainer.training.migration.window import TransitionWindow

    group: Any = parallel_state.get_expert_model_parallel_group()
    tokens = torch.randint(256, (3, 9), generator=torch.Generator().manual_seed(7 + torch.distributed.get_rank()))
    anchors: list[torch.Tensor] = []
    found: dict[str, Any] = {}
    for dispatch in ("home", "coherent"):
        config = RunConfig.model_validate(
            {
                "run": {"dir": "unused"},
                "model": {"kind": "gpt", "hidden": 16, "num_layers": 4, "num_heads": 2, "context": 8},
                "data": {"context": 8},
                "moe": {"num_experts": EXPERTS, "top_k": 2, "expert_hidden": 8, "dispatch": dispatch},
                "optim": {"steps": 1, "global_batch": 6},
                "parallel": {"expert": 2},
            }
        )
        model = build_model(config, plan_layout(config, world_size))
        layers: Any = [block.feed_forward for block in model.blocks]
        for index, layer in enumerate(layers):
            torch.nn.init.normal_(layer.router.weight, generator=torch.Generator().manual_seed(index))
            layer.place(np.random.default_rng(index).permutation(EXPERTS))
        if dispatch == "home":
            for layer in layers:
                layer.router.register_forward_hook(lambda *call: anchors.append(call[-1][0].argmax(dim=1)))
        else:
            window = TransitionWindow(layers, group)
        model(tokens[:, :-1], tokens[:, 1:])
    found["anchors"] = torch.stack(anchors, dim=1)
    window.steps = 1
    found["counted"], found["steps"] = window.reduced()
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("migration")
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        run_ranks(dying, 2, str(folder / "killed"))
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return run_ranks(two_ranks, 2, str(folder))


def four_ranks(_rank: int, world_size: int) -> dict[str, Any]:
    """Two copies of every expert, whose moments are divided between the ranks that hold them."""
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(expert_model_parallel_size=2)
    return moved_and_straight(world_size, zero_stage=1, micro_batch=2)


def assert_only_places_changed(ranks: list[dict[str, Any]], expert_parallel: int) -> None:
    for result in ranks:
        assert result["moved"] == result["straight"]
        assert result["mislabelled"] != result["straight"], "the losses must tell when an expert is another"
        np.testing.assert_array_equal(result["map"], shuffled(5))
    for first in range(0, len(ranks), expert_parallel):
        group = [result["experts"] for result in ranks[first : first + expert_parallel]]
        held = [{name: state for experts in group for name, state in experts[run].items()} for run in group[0]]
        assert len(held[0]) == LAYERS * EXPERTS * 2 * 5
        assert held[0] == held[1]
    slots_per_rank = EXPERTS // expert_parallel
    for rank, result in enumerate(ranks):
        first = rank % expert_parallel * slots_per_rank
        expected = {
            f"blocks.{layer}.feed_forward.experts.{expert}."
            for layer in range(LAYERS)
            for expert in shuffled(5)[layer, first : first + slots_per_rank]
        }
        assert {name[: name.index("linear")] for name, _ in result["experts"]["moved"]} == expected


def test_two_migrations_change_places_and_nothing_else_in_bf16_under_zero_2(ranks: list[dict[str, Any]]) -> None:
    assert_only_places_changed([result["moved"] for result in ranks], 2)


def test_two_migrations_change_places_and_nothing_else_where_experts_have_copies() -> None:
    assert_only_places_changed(run_ranks(four_ranks, 4), 2)


def test_a_move_that_fails_on_one_rank_changes_nothing_on_any(ranks: list[dict[str, Any]]) -> None:
    for result in (rank["failed"] for rank in ranks):
        assert result["refusals"] == [
            "an expert's checksum changed on the way",
            "a rank has no memory for the spare buffers",
        ]
        assert result["unchanged"] == [True, True]
        assert result["losses"] == result["straight"]


def test_ranks_that_disagree_on_the_plan_move_nothing(ranks: list[dict[str, Any]]) -> None:
    for result in (rank["disagreeing"] for rank in ranks):
        np.testing.assert_array_equal(result["map"], [range(EXPERTS)] * LAYERS)


def test_what_one_rank_has_lost_none_takes_up(ranks: list[dict[str, Any]]) -> None:
    for result in (rank["disagreeing"] for rank in ranks):
        assert result["known by one"] == 0
        assert result["known by all"] == 7


def test_a_rank_that_dies_in_a_move_leaves_the_checkpoint_and_the_old_map(
    folder: Path, ranks: list[dict[str, Any]]
) -> None:
    saved = Placement.read(folder / "killed" / f"step_{KILLED_AT:08d}" / "placement.json")
    np.testing.assert_array_equal([saved.slot_to_expert(layer) for layer in range(LAYERS)], [range(EXPERTS)] * LAYERS)
    for result in (rank["survivor"] for rank in ranks):
        assert result["resumed"] == result["straight"]


def test_drifted_traffic_moves_experts_and_not_the_losses(ranks: list[dict[str, Any]]) -> None:
    for result in (rank["live"] for rank in ranks):
        assert result["losses"]["live"] == result["losses"]["staying"]
        figures = result["figures"]
        assert "migration_regret" not in figures[2], "no look before step 3"
        # The look after step 4 plans and the one after 6 moves, as often as the budget of two experts demands.
        assert [f["migration_version"] for f in figures] == [0.0] * 5 + [1.0] * 4 + [2.0] * 3
        assert [f["migration_moved_experts"] for f in figures] == [0.0] * 5 + [2.0] * 4 + [4.0] * 3
        assert result["placed"][:5] == [None] * 5
        assert len(set(result["placed"][5:9])) == 1
        assert result["placed"][5] < result["placed"][9] == result["placed"][11]
        assert figures[5]["migration_regret"] > figures[7]["migration_regret"] > figures[11]["migration_regret"]
    assert ranks[0]["live"]["figures"] == ranks[1]["live"]["figures"]


def test_a_resumed_run_migrates_as_the_straight_one(folder: Path, ranks: list[dict[str, Any]]) -> None:
    for result in (rank["live"] for rank in ranks):
        assert result["losses"]["resumed"] == result["losses"]["live"][SAVED_AT:]
    final = f"step_{STEPS:08d}"
    assert_equal_folders(folder / "straight" / final, folder / "resumed" / final)
    for rank in range(2):
        one, other = (
            torch.load(folder / run / final / "ranks" / f"rank_{rank:05d}.pt")["migration"]
            for run in ("straight", "resumed")
        )
        assert str(one) == str(other)
    saved = Placement.read(folder / "straight" / final / "placement.json")
    assert saved.solver.name == "live migration 2"
    assert saved.rank_experts != Placement.contiguous(LAYERS, EXPERTS, 1, 2).rank_experts


def test_a_migrated_checkpoint_loads_where_experts_stay(ranks: list[dict[str, Any]]) -> None:
    for result in (rank["live"] for rank in ranks):
        np.testing.assert_array_equal(result["map without migration"], [range(EXPERTS)] * LAYERS)
        assert result["losses"]["back"] == result["losses"]["live"][SAVED_AT:]


def collected(ids: list[np.ndarray]) -> RoutingStatistics:
    """Statistics of the choices [T, L, K] of each rank."""
    header = RoutingHeader(
        num_experts=EXPERTS, num_layers=ids[0].shape[1], top_k=ids[0].shape[2], world_size=len(ids), model="test"
    )
    source = np.repeat(np.arange(len(ids)), [len(of_rank) for of_rank in ids])
    return RoutingStatistics.collect(RoutingTrace(np.concatenate(ids), source, header), len(ids))


def chosen(maps: list[torch.Tensor]) -> np.ndarray:
    """Choices [T, L, 2] of a rank from the maps of each forward pass, layer by layer."""
    layers = [torch.cat(maps[layer::LAYERS]).nonzero()[:, 1].view(-1, 2) for layer in range(LAYERS)]
    return torch.stack(layers, dim=1).numpy()


def test_windows_count_what_the_routers_chose_in_training(ranks: list[dict[str, Any]]) -> None:
    results = [rank["windows"] for rank in ranks]
    expected = collected([chosen(result["maps"]) for result in results])
    last = collected([chosen(result["maps"][-LAYERS:]) for result in results])
    for result in results:
        counted, steps = result["sources"]
        assert steps == 2
        assert counted.num_tokens == expected.num_tokens
        np.testing.assert_array_equal(counted.source_counts, expected.source_counts)
        np.testing.assert_array_equal(counted.loads, expected.loads)
        sampled, steps = result["sets"]
        assert sampled.choice_sets is not None
        assert last.choice_sets is not None
        assert steps == 2 / 4, "one of four micro batches in two steps"
        assert sampled.num_tokens == last.num_tokens
        order = np.lexsort(sampled.choice_sets.rows.T[::-1])
        np.testing.assert_array_equal(sampled.choice_sets.rows[order], last.choice_sets.rows)
        np.testing.assert_array_equal(sampled.choice_sets.tokens[order], last.choice_sets.tokens)
        np.testing.assert_array_equal(sampled.coactivation, last.coactivation)
        np.testing.assert_array_equal(sampled.source_counts, last.source_counts)


def test_transitions_are_counted_while_tokens_move(ranks: list[dict[str, Any]]) -> None:
    results = [rank["coherent"] for rank in ranks]
    expected = collected([result["anchors"][:, :, None].numpy() for result in results])
    for result in results:
        np.testing.assert_array_equal(result["counted"].transitions, expected.transitions)
        assert result["counted"].num_tokens == expected.num_tokens
        assert result["steps"] == 1


def test_no_single_change_leaves_the_checksum() -> None:
    from trainer.training.migration.live import checksum

    words = torch.randint(-(2**31), 2**31, (20,), generator=torch.Generator().manual_seed(0)).int()
    true = checksum(words)
    for place in range(20):
        for bit in range(32):
            changed = words.clone()
            changed[place] ^= torch.tensor(1, dtype=torch.int32) << bit
            assert not torch.equal(checksum(changed), true)
    exchanged = words.clone()
    exchanged[[3, 17]] = words[[17, 3]]
    assert not torch.equal(checksum(exchanged), true)
