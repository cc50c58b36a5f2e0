"""The scenario file: what is read, what is refused and how, and that the schema says the same."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from netsim import simulate
from netsim.__main__ import main
from netsim.foundation.refusal import Refusal
from netsim.simulation.prepare import prepare
from netsim.simulation.scenario import Scenario, read_scenario
from tests.each import each

SCHEMA = json.loads(Path("configs/schemas/scenario.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
GOLDEN = Path("tests/files/scenario.yaml")
SCENARIOS = [*sorted(Path("configs/scenarios").glob("*.yaml")), GOLDEN]
SMALL = """\
format: flowfabric.scenario/1
topology: {kind: leaf_spine, leaves: 2, spines: 2, hosts_per_leaf: 2}
workload: {kind: collective, op: all_to_all, bytes_per_rank: 16KB}
transports: [ecmp, ethereal]
seeds: [0]
"""


def compare(text: str, folder: Path, *overrides: str) -> tuple[int, Path]:
    """`compare` on a scenario of this text."""
    path = folder / "scenario.yaml"
    path.write_text(text)
    return main(["compare", str(path), *overrides, "--out", str(folder / "out"), "--jobs", "1"]), path


@each("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenarios_of_the_project_are_read_and_satisfy_the_schema(path):
    read = read_scenario(path)
    VALIDATOR.validate(yaml.safe_load(path.read_text()))
    VALIDATOR.validate(read.resolved())
    assert read_scenario(read.resolved()) == read


def test_the_schema_is_the_readers_own():
    """After a change, `make schemas` writes it again."""
    VALIDATOR.check_schema(SCHEMA)
    assert Scenario.schema() == SCHEMA


@each(
    "text, problem",
    [
        ("", "document: is empty"),
        ("- 1\n", "document: is a list"),
        ("seeds: [0\n", "is not YAML"),
        ("\x00", "is not YAML"),
        (
            "format: flowfabric.scenario/1\n",
            "topology: is missing (also missing: transports, seeds); add it",
        ),
        ("!!python/object/apply:os.system ['true']\n", "is not YAML"),
    ],
)
def test_refuses_files_that_are_no_scenarios(text, problem, tmp_path, capsys):
    status, path = compare(text, tmp_path)
    error = capsys.readouterr().err
    assert status == 2
    assert error.count("\n") == 1
    assert str(path) in error
    assert problem in error


def test_a_missing_file_and_a_binary_one(tmp_path, capsys):
    assert main(["compare", str(tmp_path / "none.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert "none.yaml: file: cannot be read (No such file or directory); " in capsys.readouterr().err
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert main(["compare", str(binary), "--out", str(tmp_path / "out")]) == 2
    assert "binary.yaml: file: is not UTF-8 text; " in capsys.readouterr().err


def test_overrides_reach_sections_that_are_absent_and_entries_of_lists():
    content = yaml.safe_load(SMALL)
    read = read_scenario(content, ["packet.payload=1KiB", "transports.1=spray_random", "nic.destinations=rotated"])
    assert read.packet.payload == 1024
    assert [transport.name for transport in read.transports] == ["ecmp", "spray_random"]
    assert read.nic.destinations == "rotated"
    assert content == yaml.safe_load(SMALL)


def test_python_gets_the_same_error():
    content: dict[str, Any] = yaml.safe_load(SMALL) | {"seeds": [0.5]}
    with pytest.raises(ValueError, match=r"scenario: seeds\.0: ") as raised:
        simulate(content)
    assert isinstance(raised.value, Refusal)
    assert raised.value.field == "seeds.0"


def test_ranks_sit_where_the_grammar_says():
    read = read_scenario(GOLDEN)
    assert prepare(read, "golden").scene.hosts == [3, 3, 2, 2, 1, 1, 0, 0]
    plain = read_scenario(yaml.safe_load(SMALL), ["topology.ranks_per_host=2"])
    topology = prepare(plain, "small").scene.topology
    assert prepare(plain, "small").scene.hosts == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [topology.leaf(host) for host in range(4)] == [0, 0, 1, 1]
