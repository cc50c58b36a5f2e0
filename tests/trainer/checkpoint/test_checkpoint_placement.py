"""Where the experts of a resuming run are."""

from pathlib import Path

import numpy as np
import pytest

from moe.placement.placement import Placement
from tests.trainer.checkpoint.test_checkpoint import EXPERTS, LAYERS, configuration, permuted_placement
from trainer.config.run import RunConfig

MIGRATION = {"every": 1}


def with_placement(folder: Path, placement: Path, *, migrates: bool) -> RunConfig:
    config = configuration(folder, {"zero_stage": 1})
    document = config.model_dump()
    document["moe"] |= {"placement": placement, "migration": MIGRATION if migrates else None}
    return RunConfig.model_validate(document)


def test_a_run_that_migrates_resumes_with_the_placement_of_its_checkpoint(tmp_path: Path) -> None:
    from trainer.checkpoint.contents import resumed_layout
    from trainer.config.rules.plan import plan_layout

    configured, saved = permuted_placement(tmp_path / "configured.json"), tmp_path / "placement.json"
    Placement.contiguous(LAYERS, EXPERTS, 1, 2).write(saved)
    for migrates, expected in ((True, saved), (False, configured)):
        config = with_placement(tmp_path, configured, migrates=migrates)
        layout = resumed_layout(config, plan_layout(config, 2), tmp_path)
        assert layout.placement == Placement.read(expected)


def test_a_checkpoint_without_a_fitting_placement_is_refused_where_experts_migrate(tmp_path: Path) -> None:
    from netsim.foundation.refusal import Refusal
    from trainer.checkpoint.contents import resumed_layout
    from trainer.config.rules.plan import plan_layout

    config = with_placement(tmp_path, permuted_placement(tmp_path / "configured.json"), migrates=True)
    layout = plan_layout(config, 2)
    with pytest.raises(Refusal, match=r"placement\.json: file: cannot be read"):
        resumed_layout(config, layout, tmp_path)
    for field, sizes in (("num_layers", (3, EXPERTS)), ("num_experts", (LAYERS, 16))):
        Placement.contiguous(*sizes, 1, 2).write(tmp_path / "placement.json")
        with pytest.raises(Refusal, match=rf"placement\.json: {field}: is \d+ but the run has \d+; "):
            resumed_layout(config, layout, tmp_path)
    Placement.contiguous(LAYERS, EXPERTS, 1, 4).write(tmp_path / "placement.json")
    assert resumed_layout(config, layout, tmp_path) == layout, "other ranks share the experts: they start as configured"


def test_a_placement_that_migration_changed_claims_nothing(tmp_path: Path) -> None:
    from trainer.checkpoint.contents import placement_now

    start = Placement.read(permuted_placement(tmp_path / "placement.json"))
    start = start.model_copy(update={"trace_sha256": "0" * 64})
    slots = np.stack([start.slot_to_expert(layer) for layer in range(LAYERS)])
    assert placement_now(start, slots, version=0) == start
    slots[1, [0, 7]] = slots[1, [7, 0]]
    now = placement_now(start, slots, version=3)
    assert (now.solver.name, now.objective, now.trace_sha256) == ("live migration 3", None, None)
    np.testing.assert_array_equal([now.slot_to_expert(layer) for layer in range(LAYERS)], slots)
    now.write(tmp_path / "now.json")
    assert Placement.read(tmp_path / "now.json") == now
