"""What is generated from the models: every key has a meaning, files are up to date, configurations fit their schema."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from netsim.__main__ import main as netsim_main
from netsim.foundation.keys import groups
from netsim.foundation.own_class import OwnClass
from netsim.foundation.schema import meanings
from netsim.foundation.settings import sections_in
from netsim.simulation.scenario import Scenario
from netsim.sweep.sweep_file import SweepConfig
from tests.each import each
from tests.reference import CONFIGS, FOLDERS, PAGE, page, schema_text, schemas
from trainer.__main__ import main as trainer_main
from trainer.config.file import load_config
from trainer.config.run import RunConfig
from trainer.experiment.schema import IN_FILES, REQUESTS
from trainer.experiment.stage.reading import KINDS

MADE = schemas()
ROOT = Path(__file__).parents[1]


class _Yaml12(yaml.SafeLoader):
    """Reads 1e-3 as a number, as editors do; PyYAML keeps to YAML 1.1, where it is text."""


_Yaml12.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"), list("-+.0123456789")
)


def _sections(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    if model in seen or issubclass(model, OwnClass):
        return
    seen.add(model)
    yield model
    for field in model.model_fields.values():
        for section in sections_in(field.annotation):
            yield from _sections(section, seen)


@each(
    "model",
    [RunConfig, *REQUESTS.values(), *IN_FILES.values(), Scenario, SweepConfig],
    ids=lambda model: model.__name__,
)
def test_every_key_has_a_meaning(model: type[BaseModel]) -> None:
    without = [
        f"{section.__module__}.{section.__name__}.{name}"
        for section in _sections(model, set())
        for name in section.model_fields
        if name != "kind" and len(meanings(section).get(name, "")) < 3
    ]
    assert without == [], "write a line under the field, or its entry under Args"


def test_a_meaning_is_the_text_under_a_field_or_its_entry_of_the_nearest_class() -> None:
    class Base(BaseModel):
        """A base.

        Args:
            one: of the base,
                on two lines.
            two: of the base.
        """

        one: int = 1
        two: int = 2
        three: int = 3

    assert meanings(Base) == {"one": "Of the base, on two lines.", "two": "Of the base."}
    assert meanings(type(load_config(CONFIGS / "runs" / "toy.yaml").optim))["clip_norm"].startswith("Largest norm")


@each("name", MADE)
def test_a_schema_is_up_to_date(name: str) -> None:
    assert (CONFIGS / "schemas" / f"{name}.schema.json").read_text() == schema_text(MADE[name]), "run make schemas"
    jsonschema.Draft202012Validator.check_schema(MADE[name])


def test_the_page_is_up_to_date_and_leads_to_every_folder_and_chapter() -> None:
    text = PAGE.read_text()
    assert text == page(MADE), "run make schemas"
    assert {path.name for path in CONFIGS.iterdir() if path.is_dir()} == set(FOLDERS)
    headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= anchors


CONFIGURATIONS = sorted(CONFIGS.glob("*/*.yaml"))


@each("path", CONFIGURATIONS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_configuration_names_its_schema_and_fits_it(path: Path) -> None:
    text = path.read_text()
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert named is not None
    file = (path.parent / named[1]).resolve()
    assert file.parent == CONFIGS / "schemas"
    validator = jsonschema.Draft202012Validator(MADE[file.name.removesuffix(".schema.json")])
    assert [error.message for error in validator.iter_errors(yaml.load(text, _Yaml12))] == []


@each("name", ["toy", "digits_moe", "gpt_moe", "digits_autoencoder", "dit_moe_64"])
def test_a_resolved_configuration_fits_the_schema(name: str) -> None:
    resolved = yaml.safe_load(load_config(CONFIGS / "runs" / f"{name}.yaml").to_yaml())
    jsonschema.Draft202012Validator(MADE["run"]).validate(resolved)


SOUND = {
    "run": {"dir": "runs/a"},
    "model": {"kind": "mlp"},
    "data": {"kind": "toy"},
    "optim": {"steps": 2, "global_batch": 4},
}
SOUND_TOO: dict[str, dict[str, Any]] = {
    "as it is": {},
    "a section without its kind": {"data": {"held_out": 9}, "sample": {"num": 5}, "engine": {"zero_stage": 2}},
    "what the index says": {"data": {"kind": "shards", "path": "s", "held_out": 3}},
    "a class of one's own": {"flow": {"coupling": {"class": "mine:Coupling", "whatever": [1]}}},
    "a model of one's own": {"model": {"class": "mine:Config", "width": 3}},
    "no experts": {"moe": None},
    "times as a file": {"sample": {"kind": "points", "sampler": {"kind": "euler", "steps": 2, "times": "steps.json"}}},
    "stages that leave things out": {
        "optim": {"lr": 0.1},
        "stages": [
            {"name": "teacher", "train": {"optim": {"steps": 3, "global_batch": 4}}},
            {"name": "pairs", "pairs": {"run": "{run.dir}/teacher", "num": 8}},
            {"name": "student", "train": None},
        ],
    },
}
WRONG: dict[str, dict[str, Any]] = {
    "an unknown section": {"optm": {}},
    "an unknown key": {"optim": {"steps": 2, "global_batch": 4, "learning_rate": 1}},
    "an unknown key of a kind": {"data": {"kind": "toy", "path": "s"}},
    "an unknown key without a kind": {"data": {"pathh": "s"}},
    "an unknown kind": {"data": {"kind": "toys"}},
    "a kind and a class": {"flow": {"coupling": {"class": "mine:Coupling", "kind": "knn"}}},
    "text for a number": {"optim": {"steps": "two", "global_batch": 4}},
    "zero steps": {"optim": {"steps": 0, "global_batch": 4}},
    "true for a number": {"optim": {"steps": 2, "global_batch": 4, "lr": True}},
    "a list for a section": {"engine": ["deepspeed"]},
    "nothing to train for": {"optim": {"lr": 0.1}},
    "no folder": {"run": {"seed": 3}},
    "shards without a path": {"data": {"kind": "shards", "held_out": 3}},
    "experts without a width": {"moe": {"num_experts": 4}},
    "a stage of two verbs": {"stages": [{"name": "a", "train": {}, "pairs": {"run": "a", "num": 2}}]},
    "a stage without a name": {"stages": [{"train": {}}]},
    "pairs of no run": {"stages": [{"name": "a", "pairs": {"num": 2}}]},
    "an unknown key in a stage": {"stages": [{"name": "a", "train": {"optim": {"stpes": 2}}}]},
}


@each("name", SOUND_TOO)
def test_the_schema_takes_what_the_loader_takes(name: str) -> None:
    jsonschema.Draft202012Validator(MADE["run"]).validate({**SOUND, **SOUND_TOO[name]})


def test_the_schema_leaves_to_a_base_what_it_says() -> None:
    validator = jsonschema.Draft202012Validator(MADE["run"])
    written = {"run": {"dir": "runs/b"}, "data": {"held_out": 9}, "optim": SOUND["optim"]}
    for base in ("runs/a", {"run": "runs/a"}):
        validator.validate({**written, "task": {"kind": "flow", "base": base}})
    assert not validator.is_valid({**written, "task": {"kind": "flow"}})


@each("name", WRONG)
def test_the_schema_refuses_what_the_loader_refuses(name: str) -> None:
    assert not jsonschema.Draft202012Validator(MADE["run"]).is_valid({**SOUND, **WRONG[name]})


def test_the_schema_knows_every_verb_of_a_stage() -> None:
    entry = MADE["run"]["properties"]["stages"]["items"]["properties"]
    assert set(entry) == {"name", *KINDS}


@pytest.mark.parametrize("name", ["run", "scenario"])
def test_every_property_of_a_schema_says_what_it_is_for(name: str) -> None:
    silent = [
        f"{section}.{key}"
        for section, definition in MADE[name]["$defs"].items()
        if not section.endswith(".complete")
        for key, node in definition.get("properties", {}).items()
        if key != "kind" and not node.get("description")
    ]
    assert silent == []


def test_every_field_is_listed_under_its_dotted_name() -> None:
    listed = {key.name for group in groups(MADE["run"]) for key in group.keys}
    config = load_config(CONFIGS / "runs" / "digits_moe.yaml").model_dump(mode="json")

    def names(value: Any, place: str) -> Iterator[str]:
        for key, inner in value.items():
            here = f"{place}.{key}" if place else key
            yield from names(inner, here) if isinstance(inner, dict) else [here]

    assert {name for name in names(config, "") if not {name, f"{name}.kind"} & listed} == set()


def lines(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert trainer_main(["keys", *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_keys_are_a_line_each_where_the_output_is_piped(capsys: pytest.CaptureFixture[str]) -> None:
    everything = lines(capsys)
    assert all(re.match(r"[\w.-]+( \([^)]* = .*\))?: .*[^ ]", line) for line in everything)
    assert "optim.steps: int > 0, ≤ 1000000000, required, steps. Optimiser steps of the whole run." in everything
    assert lines(capsys, "optim.lr") == [line for line in everything if line.startswith("optim.lr:")]
    of_shards = lines(capsys, "data.shards")
    assert {f"data.{name}" for name in ("path", "held_out", "shape")} <= {line.partition(" ")[0] for line in of_shards}
    assert all("(data.kind = shards)" in line for line in of_shards)
    assert lines(capsys, "flow.source.shards") == [line.replace("data.", "flow.source.") for line in of_shards]
    assert lines(capsys, "stages.pairs.num") == lines(capsys, "stages.0.pairs.num")


def test_netsim_lists_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert netsim_main(["keys", "transports.drill"]) == 0
    said = capsys.readouterr().out
    assert "transports.N.d (transports.N.kind = drill): int ≥ 1, ≤ 64, default 2." in said
    assert netsim_main(["keys", "topology.leaf_spine.host_rate"]) == 0
    assert "rate such as 100Gbps, default 100Gbps." in capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 140])
def test_on_a_terminal_no_line_is_wider_than_it(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    shown = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(lines(capsys, "moe")))
    assert max(map(len, shown.splitlines())) <= width
    assert "moe.router.aux_loss" in shown


def test_keys_need_no_torch() -> None:
    program = "import sys; from trainer.__main__ import main; main(['keys', 'optim']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL, check=False).returncode == 0
    assert json.loads((CONFIGS / "schemas" / "run.schema.json").read_text())["title"]
