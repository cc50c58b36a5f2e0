"""Sweep files: every cell is checked before anything runs, and what makes a cell another one is known."""

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import netsim.sweep.driver
from netsim.__main__ import main
from netsim.foundation.refusal import Refusal
from netsim.sweep.sweep_file import SweepConfig, identify, read_sweep
from tests.each import each, rows
from tests.netsim.sweeps import ALL_TO_ALL, SCENARIO, Here, written

MALFORMED = r"""
{format: flowfabric.sweep/2} | format:
{grids: {}} | grids: is not a known key
{scenario: null} | scenario:
{scenario: no/such.yaml} | no/such.yaml: file: cannot be read
{grid: {}} | nothing varies
{grid: {topology.spines: []}} | grid.topology.spines:
{grid: {topology.spines: 4}} | grid.topology.spines:
{grid: {topology spines: [1]}} | grid
{grid: {topology.spins: [1, 2]}} | cell topology.spins=1: topology.spins: is not a known key
{grid: {topology.spines: [2, 0]}} | cell topology.spines=0: topology.spines:
{grid: {packet.payload: [1KB, 1000]}} | cell packet.payload=1000: packet.payload:
{grid: {packet.payload: [1KB, 1000B]}} | cell packet.payload=1000B: is the same scenario
{cells: [{topology.spines: 2}]} | 'topology.spines' is both in grid and in cells
{grid: {seeds.7: [1, 2]}} | cell seeds.7=1: seeds.7: no entry 7
{grid: {engine.kind: [simpy]}} | cell engine.kind=simpy:
{grid: {workload: [{kind: collective, op: all_to_all, bytes_per_rank: 64KB}, {kind: trace, path: no.jsonl}]}}
| cell workload={kind: trace, path: no.jsonl}: no.jsonl:
"""


JOBS = {"cells": [{"jobs": None}, {"workload": None, "jobs": [{"workload": ALL_TO_ALL, "ranks": [9, 0]}]}]}
MANY = {"grid": {"seeds.0": [*range(400)], "seeds.1": [*range(400)]}}
WRONG = [*((yaml.safe_load(changes), expected) for changes, expected in rows(MALFORMED)), (MANY, "160000 cells")]


@each("changes, expected", [*WRONG, (JOBS, "cell workload=null, jobs=[{")])
def test_wrong_sweeps_are_one_line_before_anything_runs(changes, expected, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(netsim.sweep.driver, "Processes", Here)
    path, out = written(tmp_path, **changes), tmp_path / "out"
    assert main(["sweep", str(path), "--out", str(out), "--jobs", "1"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("netsim sweep: ")
    assert expected in error
    assert not list(out.glob("cells/*"))
    assert not list(out.glob("unfinished/*"))


@each(
    "arguments, expected",
    [
        (["--jobs", "0"], "--jobs"),
        (["--jobs", "2", "--executor", "tcp://x:1"], "not allowed with"),
        (["--executor", "tcp://127.0.0.1:9"], "no scheduler answers at tcp://127.0.0.1:9"),
        (["--executor", "nowhere://"], "no scheduler answers at nowhere://"),
        (["--prometheus-port", "99999"], "--prometheus-port"),
        (["--prometheus-port", "-1"], "--prometheus-port"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, expected, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(netsim.sweep.driver, "_CONNECT_S", 0.5)
    assert main(["sweep", str(written(tmp_path)), "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert expected in error


def test_a_list_is_no_sweep(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text("[1, 2]\n")
    with pytest.raises(Refusal, match="document: is a list"):
        read_sweep(path)


def test_without_dask_the_remedy_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    command = ["sweep", str(written(tmp_path)), "--out", str(tmp_path / "out"), "--executor", "tcp://x:1"]
    assert main(command) == 2
    assert "pip install 'flowfabric[cluster]'" in capsys.readouterr().err


def test_other_contents_of_a_file_make_another_cell(tmp_path):
    flows = tmp_path / "splits.csv"
    flows.write_text("0,1\n1,0\n")
    splits = {"kind": "collective", "op": "all_to_all", "splits": {"kind": "matrix", "path": str(flows)}}
    path = written(tmp_path, scenario=SCENARIO | {"workload": splits})
    keys = [cell.key for cell in read_sweep(path).cells]
    assert [cell.key for cell in read_sweep(path).cells] == keys
    flows.write_text("0,2\n1,0\n")
    assert not set(keys) & {cell.key for cell in read_sweep(path).cells}


def test_files_of_a_scenario_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("")
    Path("traces").mkdir()
    for name in ("run.0.et", "run.1.et", "other.0.et"):
        Path("traces", name).write_text(name)

    class Named:
        def resolved(self) -> dict[str, Any]:
            return {
                "workload": {"path": "traces/run", "groups": "absent.json"},
                "transports": ["ecmp", {"class": "mine:T"}],
            }

    found: Any = Named()
    assert [one.path for one in identify(found).inputs] == ["mine.py", "traces/run.0.et", "traces/run.1.et"]


def test_example_sweeps_are_right():
    cells = {path.stem: len(read_sweep(path).cells) for path in Path("configs/sweeps").glob("*.yaml")}
    assert cells == {"spines": 9, "closed_loop": 4, "spraying_map": 108}


@each(
    "shown, expected",
    [
        ({"across": "seeds"}, "map.across: seeds does not vary; name one of topology.spines, nic.scheduling"),
        ({"down": "topology.spines"}, "map.down: topology.spines is map.across already"),
        ({"groups": {"one": ["ecmp"]}}, "map.groups: "),
        ({"groups": {"one": ["ecmp"], "two": []}}, "map.groups.two: "),
        (
            {"groups": {"one": ["ecmp"], "two": ["drill"]}},
            "map.groups.two: no scenario has a transport drill; name some",
        ),
    ],
)
def test_maps_that_cannot_be_drawn_are_refused(shown, expected, tmp_path):
    grid = {"topology.spines": [2, 4], "nic.scheduling": ["round_robin", "sequential"]}
    groups = {"one path": ["ecmp"], "spraying": ["spray_random"]}
    right = {"across": "topology.spines", "down": "nic.scheduling", "groups": groups}
    assert read_sweep(written(tmp_path, grid=grid, map=right)).map is not None
    with pytest.raises(Refusal) as error:
        read_sweep(written(tmp_path, grid=grid, map=right | shown))
    assert expected in str(error.value)


def test_values_may_have_short_names():
    """The name is what tables and messages show; the scenario gets the value."""
    cells = read_sweep(Path("configs/sweeps/closed_loop.yaml")).cells
    assert [cell.name for cell in cells[:2]] == [
        "workload.op=direct all-to-all, recovery=go-back-N",
        "workload.op=direct all-to-all, recovery=selective",
    ]
    assert cells[0].overrides == {"workload.op": "direct all-to-all", "recovery": "go-back-N"}
    assert [cell.scenario.recovery.kind for cell in cells] == ["go_back_n", "selective"] * 2


def test_schema_is_the_one_that_is_kept_and_takes_the_example():
    schema = json.loads(Path("configs/schemas/sweep.schema.json").read_text())
    assert schema == SweepConfig.schema()
    for path in Path("configs/sweeps").glob("*.yaml"):
        jsonschema.validate(yaml.safe_load(path.read_text()), schema)
    for changes in ({"grid": {"topology.spines": []}}, {"grids": {}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"format": "flowfabric.sweep/1", "scenario": "x.yaml"} | changes, schema)
