"""A run on two nodes outlives a cut cable and a killed rank; `python -m tests.faults` does many more."""

import subprocess
from pathlib import Path

import pytest

from tests.faults.campaign import Plan, disturbed, undisturbed
from tests.multinode.namespaces import fabric, obstacle

WHY_NOT = obstacle()

pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")


def test_a_cut_cable_and_a_killed_rank_change_nothing(tmp_path: Path) -> None:
    reference = undisturbed(tmp_path / "undisturbed", world_size=2, zero_stage=1)
    plan = Plan(nodes=2, zero_stage=1, faults=((8, "link cut"), (23, "rank killed")), seed="elastic")
    outcome = disturbed(plan, reference, tmp_path / "run")
    assert outcome.complaints == [], (tmp_path / "run.log").read_text()[-5000:]
    assert len(outcome.told) == 2
    assert 23 // 5 * 5 in [after for after, _ in outcome.begins]


def test_a_cut_cable_has_no_carrier() -> None:
    with fabric(1, 1, 2, 1000) as made:

        def carrier() -> str:
            shown = made.start(1, ["cat", "/sys/class/net/e0/carrier"], stdout=subprocess.PIPE)
            return shown.communicate(timeout=10)[0].strip()

        before = carrier()
        made.cut(1)
        cut = carrier()
        made.mend(1)
        assert (before, cut, carrier()) == ("1", "0", "1")
