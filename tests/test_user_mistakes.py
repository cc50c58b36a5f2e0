"""What people do wrong: each mistake is one line that names what is wrong, exit code 2, and nothing is left behind."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

import moe.__main__
import netsim.__main__
import trainer.__main__
from tests.each import each

ROOT = Path(__file__).parents[1]
PROGRAMS: dict[str, Callable[[Sequence[str]], int]] = {
    "trainer": trainer.__main__.main,
    "moe": moe.__main__.main,
    "netsim": netsim.__main__.main,
}
RUN = """\
run: {dir: out}
model: {kind: mlp, hidden: 8}
data: {kind: toy}
flow: {}
optim: {steps: 2, global_batch: 4}
"""
SCENARIO = f"{ROOT}/configs/scenarios/all_to_all_64.yaml"
ROUTING = f"{ROOT}/tests/files/routing.npz"
EXPERTS = ("model={kind: dit}", "data={kind: digits}", "moe={num_experts: 4, expert_hidden: 8, placement: p.json}")


class Mistake(NamedTuple):
    """A mistake.

    Attributes:
        command: program, verb and arguments; {root} stands for the checkout.
        told: what the line says, in this order: file, field or value, and what to do.
        files: what is in the working folder; None stands for a folder.
        environment: variables that are set.
    """

    command: tuple[str, ...]
    told: tuple[str, ...]
    files: Mapping[str, str | bytes | None] = {}
    environment: Mapping[str, str] = {}


def written(text: str | bytes, *told: str) -> Mistake:
    """A run configuration that is wrong as it is written."""
    return Mistake(("trainer", "train", "my.yaml"), ("my.yaml", *told), {"my.yaml": text})


def overridden(*words: str, told: tuple[str, ...], files: Mapping[str, str | bytes | None] = {}) -> Mistake:
    """A good run configuration and a wrong setting on the command line."""
    return Mistake(("trainer", "train", "my.yaml", *words), told, {"my.yaml": RUN, **files})


def started(told: str, **environment: str) -> Mistake:
    """A good run in an environment that no launcher made."""
    return Mistake(("trainer", "train", "my.yaml"), ("environment: ", told), {"my.yaml": RUN}, environment)


MISTAKES = {
    # The file.
    "no file": Mistake(("trainer", "train", "mine.yaml"), ("mine.yaml", "No such file", "digits_moe")),
    "a folder": Mistake(("trainer", "train", "mine"), ("mine", "Is a directory"), {"mine": None}),
    "a path of Windows": Mistake(("trainer", "train", r"runs\toy.yaml"), (r"runs\toy.yaml", "No such file")),
    "an empty file": written("", "is empty", "write sections"),
    "a list": written("[1, 2]\n", "is a list", "write sections"),
    "one word": written("toy\n", "is a single value", "write sections"),
    "UTF-16": written(RUN.encode("utf-16"), "is not UTF-8 text", "save it as UTF-8"),
    "Latin-1": written(RUN.encode() + b"# \xe9t\xe9\n", "is not UTF-8 text"),
    "a binary file": written(bytes(range(256)), "is not UTF-8 text"),
    "a byte-order mark, and zero steps": written(
        b"\xef\xbb\xbf" + RUN.replace("steps: 2", "steps: 0").encode(), "optim.steps", "greater than 0", "use 1 or more"
    ),
    "a tab": written(f"{RUN}guard:\n\tspike_factor: 3\n", "line 7", "there is a tab; indent with spaces"),
    "no colon": written(RUN.replace("optim:", "optim"), "line 5", "a colon is missing"),
    "no colon in a block": written("run:\n  dir: out\nmodel\n  kind: mlp\n", "line 4", "a key has no colon"),
    "ends of lines of Windows, and a section twice": written(
        f"{RUN}optim: {{steps: 3}}\n".replace("\n", "\r\n"), "line 6", "optim is written twice"
    ),
    "a scenario": Mistake(("trainer", "train", SCENARIO), (SCENARIO, "format", "netsim compare")),
    "a sweep": Mistake(("trainer", "train", "{root}/configs/sweeps/spines.yaml"), ("format", "netsim sweep")),
    # Keys and values.
    "a misspelt key": overridden("optim.stpes=5", told=("my.yaml: optim.stpes", "write steps")),
    "a misspelt section": written(f"{RUN}optm: {{lr: 1}}\n", "optm", "write optim"),
    "a misspelt kind": overridden("model.kind=mpl", told=("model.kind: 'mpl'", "use mlp")),
    "a key that is not ASCII": overridden("optim.lernräte=3", told=("optim.lernräte", "correct its name")),
    "no run.dir": written(RUN.replace("dir: out", "seed: 1"), "run.dir", "is missing", "add it"),
    "an empty value": overridden("run.dir=", told=("run.dir", "is not a path", "use a path")),
    "sections that are missing": written("run: {dir: out}\n", "model: is missing (also missing: optim)", "add it"),
    "a unit": overridden("optim.lr=1e-3s", told=("optim.lr", "'1e-3s'", "use a number")),
    "text for a number": overridden("optim.lr=fast", told=("optim.lr", "'fast'", "use a number")),
    "a comma for a point": overridden("optim.lr=0,001", told=("optim.lr", "'0,001'", "use 0.001")),
    "true for a number": overridden("optim.lr=true", told=("optim.lr", "is true", "write a number")),
    "yes for a number": overridden("optim.steps=yes", told=("optim.steps", "is true", "write a number")),
    "a word for true": overridden("run.deterministic=maybe", told=("run.deterministic", "'maybe'", "true or false")),
    "None of Python": overridden("run.seed=None", told=("run.seed", "'None'", "use a whole number")),
    "a list for a number": overridden("optim.steps=[1,2]", told=("optim.steps", "[1, 2]", "use a whole number")),
    "half a step": overridden("optim.steps=2.5", told=("optim.steps", "2.5", "use a whole number")),
    "a number for a section": overridden("optim=5", told=("optim", "is not a section (5)", "{key: value}")),
    "a list for a section": written(
        RUN.replace("{steps: 2, global_batch: 4}", "\n  - steps: 2\n  - global_batch: 4"), "optim", "is not a section"
    ),
    "a section for a number": overridden("optim.steps.x=3", told=("optim.steps.x", "optim.steps is not a section (2)")),
    "zero steps": overridden("optim.steps=0", told=("optim.steps", "(0)", "use 1 or more")),
    "a negative batch": overridden("optim.global_batch=-4", told=("optim.global_batch", "(-4)", "use 1 or more")),
    "NaN": overridden("optim.lr=.nan", told=("optim.lr", "(nan)", "use a finite number")),
    "infinity": overridden("optim.lr=.inf", told=("optim.lr", "(inf)", "use a finite number")),
    "too large a float": overridden("optim.lr=1e999", told=("optim.lr", "1e999", "use a finite number")),
    "too large an int": overridden(f"optim.steps={10**20}", told=("optim.steps", "64 bits", "write a smaller one")),
    "a batch that does not divide": overridden("optim.micro_batch=3", told=("optim.global_batch: 4", "use 3 or 6")),
    # The command line.
    "no equals sign": overridden("optim.lr", "0.1", told=("optim.lr: is not a setting", "write dotted.key=value")),
    "spaces around it": overridden("optim.lr", "=", "0.1", told=("optim.lr: is not a setting", "without spaces")),
    "dashes": overridden("--optim.lr=0.1", told=("--optim.lr=0.1", "settings have no dashes: optim.lr=0.1")),
    "an unknown option": overridden("-lr", "0.1", told=("-lr", "--help")),
    "an unknown verb": Mistake(("trainer", "fly"), ("fly is not a verb", "--help")),
    "a misspelt verb": Mistake(("trainer", "trian", "my.yaml"), ("trian is not a verb; use train",), {"my.yaml": RUN}),
    "a misspelt verb of moe": Mistake(("moe", "plcae"), ("plcae is not a verb; use place",)),
    "no verb": Mistake(("trainer",), ("VERB",)),
    "a stage that is not there": overridden("--stage", "x", told=("--stage", "no stage x", "leave it out")),
    "a key of no configuration": Mistake(("trainer", "keys", "optimm"), ("PREFIX: optimm", "use optim")),
    "a key of no scenario": Mistake(("netsim", "keys", "toplogy"), ("PREFIX: toplogy", "use topology")),
    "no ranks": Mistake(
        ("trainer", "check", "my.yaml", "--world-size", "0"), ("--world-size: 0", "use 1 or more"), {"my.yaml": RUN}
    ),
    "three ranks for a batch of four": Mistake(
        ("trainer", "check", "my.yaml", "--world-size", "3"), ("optim.global_batch: 4", "3 ranks"), {"my.yaml": RUN}
    ),
    "experts on more ranks than there are": Mistake(
        ("trainer", "check", "digits_moe", "--world-size", "1"),
        ("parallel.expert: 2 needs a multiple of 2 ranks, and there is one; use 1",),
    ),
    "evaluations that are no list": Mistake(
        ("trainer", "evaluate", "run", "--evaluations", "5,x", "--out", "e.json"), ("--evaluations: '5,x'", "1,2,10")
    ),
    # Files and folders that a command names.
    "no run": Mistake(("trainer", "sample", "run", "--out", "a.png"), ("run: run_dir: does not exist", "give the")),
    "a file for a run": Mistake(("trainer", "sample", "run", "--out", "a.png"), ("run", "is a file"), {"run": "x"}),
    "a checkpoint for its run": Mistake(
        ("trainer", "sample", "run/checkpoints/step_00000002", "--out", "a.png"),
        ("step_00000002: run_dir: is a checkpoint", "give the folder of its run, run"),
        {"run/checkpoints/step_00000002/COMPLETE": "{}"},
    ),
    "run.dir on a file": overridden("run.dir=f", told=("f: run.dir", "Not a directory"), files={"f": "x"}),
    "run.dir below a file": overridden("run.dir=f/a", told=("f/a: run.dir", "Not a directory"), files={"f": "x"}),
    "a folder to write to": Mistake(
        ("trainer", "trace", "my.yaml", "--world-size", "2", "--out", "d"),
        ("d: --out: is a folder", "name a file"),
        {"my.yaml": RUN, "d": None},
    ),
    "shards that are not there": overridden(
        "data={kind: shards, path: nowhere, held_out: 3}", told=("data.path: nowhere/index.json", "No such file")
    ),
    "a file for shards": overridden(
        "data={kind: shards, path: f, held_out: 3}", told=("data.path: f/index.json", "Not a dir"), files={"f": "x"}
    ),
    "a folder without pictures": overridden(
        "model={kind: dit}",
        "data={kind: image_folder, path: d, size: 8, held_out: 1}",
        told=("data.path: d", "no pictures", ".png"),
        files={"d": None},
    ),
    "no placement": overridden(*EXPERTS, told=("p.json", "No such file", "check the path")),
    "a placement that is not JSON": overridden(
        *EXPERTS, told=("p.json", "is not JSON", "moe place"), files={"p.json": "\x00\x01"}
    ),
    "the placement of another model": overridden(
        *EXPERTS,
        told=("p.json: num_experts: is 8 but the run has 4", "place this run's own trace"),
        files={"p.json": (ROOT / "tests/files/placement.json").read_bytes()},
    ),
    # The launcher's variables.
    "a world size in words": started("WORLD_SIZE is not a whole number of 1 or more (two)", WORLD_SIZE="two"),
    "a world of nobody": started("WORLD_SIZE is not a whole number of 1 or more (0)", WORLD_SIZE="0"),
    "a world without ranks": started(
        "WORLD_SIZE is 2, but RANK, MASTER_ADDR or MASTER_PORT is not set", WORLD_SIZE="2"
    ),
    "a negative rank": started("RANK is not a whole number of 0 or more (-1)", WORLD_SIZE="2", RANK="-1"),
    "a port in words": started(
        "MASTER_PORT is not a port (http)", WORLD_SIZE="2", RANK="0", MASTER_ADDR="localhost", MASTER_PORT="http"
    ),
    "a rank outside the world": started(
        "RANK is 5, and ranks are 0 to 1", WORLD_SIZE="2", RANK="5", MASTER_ADDR="localhost", MASTER_PORT="29500"
    ),
    # moe and netsim.
    "a folder for a placement": Mistake(
        ("moe", "place", ROUTING, "--nodes", "1", "--ranks-per-node", "2", "--out", "d"),
        ("d: --out: is a folder", "name a file"),
        {"d": None},
    ),
    "the routing trace of another run": Mistake(
        (
            *("moe", "replay", "{root}/tests/files/collectives.jsonl", "--routing", ROUTING),
            *("--placement", "{root}/tests/files/placement.json", "--dispatch", "home", "--out", "r.jsonl"),
        ),
        ("collectives.jsonl: routing: ", "two traces of one run"),
    ),
    "no scenario": Mistake(("netsim", "compare", "mine.yaml", "--out", "o"), ("mine.yaml", "No such file", "demo")),
    "a run for a scenario": Mistake(
        ("netsim", "compare", "my.yaml", "--out", "o"), ("my.yaml", "run configuration", "trainer"), {"my.yaml": RUN}
    ),
    "true for spines": Mistake(
        ("netsim", "compare", SCENARIO, "topology.spines=true", "--out", "o"), ("topology.spines: is true", "a number")
    ),
    "a misspelt transport": Mistake(
        ("netsim", "compare", SCENARIO, "transports=[etherael]", "--out", "o"), ("transports.0", "use ethereal")
    ),
    "results on a file": Mistake(
        ("netsim", "compare", SCENARIO, "--out", "f"), ("--out: is a file (f)", "name a folder"), {"f": "x"}
    ),
    "a tab in a scenario": Mistake(
        ("netsim", "compare", "s.yaml", "--out", "o"),
        ("s.yaml: line 2", "there is a tab; indent with spaces"),
        {"s.yaml": "topology:\n\tkind: leaf_spine\n"},
    ),
}


@each("name", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mistake = MISTAKES[name]
    for file, content in mistake.files.items():
        path = tmp_path / file
        (path if content is None else path.parent).mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = _contents(tmp_path)
    monkeypatch.chdir(tmp_path)
    for variable in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in mistake.environment.items():
        monkeypatch.setenv(variable, value)
    program, *arguments = mistake.command
    try:
        code = PROGRAMS[program]([argument.replace("{root}", str(ROOT)) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    assert code == 2
    assert said.err.count("\n") == 1, said.err
    assert said.err.startswith(program)
    position = 0
    for part in mistake.told:
        assert part in said.err[position:], said.err
        position = said.err.index(part, position) + len(part)
    assert said.out == ""
    assert _contents(tmp_path) == before


def _contents(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below a folder, and what is in the files."""
    paths = (Path(root) / name for root, folders, files in os.walk(folder) for name in (*folders, *files))
    return {str(path): None if path.is_dir() else path.read_bytes() for path in paths}
