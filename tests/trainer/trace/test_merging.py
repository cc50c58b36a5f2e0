"""Traces are merged beside the run, and nothing is lost when it ends early."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe.collective_trace import rank_path, read_header, write
from moe.routing_trace import RoutingTrace
from netsim.foundation.refusal import Refusal
from tests.trainer.trace.test_merge import WORLD, edit, story
from trainer.trace import merge as merging
from trainer.trace.merge import Merging, merge, merge_routing

ROUTING = Path("tests/files/routing.npz")


def recorded(folder: Path, *, fault: bool = False) -> None:
    """What two ranks leave: collectives, and routing of which rank 1 has but a few tokens."""
    headers, programs = edit(1, 4, bytes_in=1204, bytes_out=1204)(story()) if fault else story()
    for rank in range(WORLD):
        write(rank_path(folder, rank), headers[rank], programs[rank])
    for rank, part in enumerate(parts()):
        part.write(merging.routing_path(folder, rank))


def parts() -> list[RoutingTrace]:
    whole = RoutingTrace.read(ROUTING)
    names = [name for name, value in vars(whole).items() if isinstance(value, np.ndarray)]
    cuts = (slice(None, -3), slice(-3, None))
    return [replace(whole, **{name: getattr(whole, name)[cut] for name in names}) for cut in cuts]


def test_what_is_merged_beside_the_run_is_what_is_merged_at_once(tmp_path: Path) -> None:
    recorded(tmp_path / "one")
    recorded(tmp_path / "other")
    begun = Merging(tmp_path / "one", routing=True)
    assert merge(tmp_path / "other", WORLD)
    merge_routing(tmp_path / "other", WORLD)
    begun.finish(stopped=False)
    for name in ("collectives.jsonl", "routing.npz"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_a_refusal_reaches_the_run(tmp_path: Path) -> None:
    recorded(tmp_path, fault=True)
    with pytest.raises(Refusal) as told:
        merge(tmp_path, WORLD)
    with pytest.raises(Refusal) as refusal:
        Merging(tmp_path, routing=False).finish(stopped=False)
    assert str(refusal.value) == str(told.value)


@pytest.mark.parametrize("ended", ["stopped", "killed"])
def test_the_next_start_merges_what_was_left(ended: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(tmp_path)
    (tmp_path / "collectives.jsonl").write_text("of an earlier recording")
    if ended == "stopped":
        monkeypatch.setattr(merging, "PATIENCE_S", 0.0)
        Merging(tmp_path, routing=True).finish(stopped=True)
        monkeypatch.undo()
    else:
        begin = f"from pathlib import Path; from {merging.__name__} import Merging"
        run = f"{begin}; Merging(Path({str(tmp_path)!r}), routing=True); import os; os.kill(os.getpid(), 9)"
        assert subprocess.run([sys.executable, "-c", run]).returncode == -9
    assert not (tmp_path / "collectives.jsonl").exists()
    again = Merging.outstanding(tmp_path, routing=True)
    assert again is not None
    again.finish(stopped=False)
    assert (tmp_path / "collectives.jsonl").exists()
    assert RoutingTrace.read(tmp_path / "routing.npz").num_tokens == RoutingTrace.read(ROUTING).num_tokens
    assert Merging.outstanding(tmp_path, routing=True) is None


def of_later_steps(folder: Path, by: int) -> None:
    """Two ranks record other steps of the same run."""
    headers, programs = story()
    for rank in range(WORLD):
        header = replace(headers[rank], steps=tuple(step + by for step in headers[rank].steps))
        later = [replace(record, step=record.step + by) for record in programs[rank]]
        write(rank_path(folder, rank), header, later)


def test_traces_of_other_steps_are_kept(tmp_path: Path) -> None:
    recorded(tmp_path)
    Merging(tmp_path, routing=True).finish(stopped=False)
    names = ("collectives.jsonl", "routing.npz")
    former = {name: (tmp_path / name).read_bytes() for name in names}
    steps = read_header(tmp_path / "collectives.jsonl").steps
    of_later_steps(tmp_path, by=100)
    again = Merging.outstanding(tmp_path, routing=True)
    assert again is not None, "what is merged holds other steps"
    again.finish(stopped=False)
    kept = tmp_path / f"steps_{steps[0]:08}-{steps[-1]:08}"
    assert {name: (kept / name).read_bytes() for name in names} == former
    assert read_header(tmp_path / "collectives.jsonl").steps == tuple(step + 100 for step in steps)
    Merging(tmp_path, routing=True).finish(stopped=False)
    assert [path.name for path in tmp_path.glob("steps_*")] == [kept.name], "the same steps make room"


def test_nothing_is_begun_where_nothing_was_recorded(tmp_path: Path) -> None:
    assert Merging.outstanding(tmp_path, routing=False) is None


def test_joined_routing_has_the_bytes_of_the_whole(tmp_path: Path) -> None:
    recorded(tmp_path)
    merge_routing(tmp_path, WORLD)
    RoutingTrace.concatenate(parts()).write(tmp_path / "expected.npz")
    assert (tmp_path / "routing.npz").read_bytes() == (tmp_path / "expected.npz").read_bytes()


@pytest.mark.parametrize(
    ("change", "place"),
    [({"header": "another"}, "header: differs from rank 0's"), ({"weights": None, "step": None}, "arrays: must be")],
)
def test_routing_of_two_runs_is_refused(change: dict[str, Any], place: str, tmp_path: Path) -> None:
    recorded(tmp_path)
    part = parts()[1]
    if "header" in change:
        change = {"header": part.header.model_copy(update={"model": "another"})}
    elif all(getattr(part, name) is None for name in change):
        change = {"weights": np.ones(part.expert_ids.shape, np.float32)}
    replace(part, **change).write(merging.routing_path(tmp_path, 1))
    with pytest.raises(Refusal, match=place) as refusal:
        merge_routing(tmp_path, WORLD)
    assert str(merging.routing_path(tmp_path, 1)) in str(refusal.value)
    assert not (tmp_path / "routing.npz").exists()
