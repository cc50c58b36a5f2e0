"""Configurations of runs: what check prints, formula traces, and verbs over runs with random weights."""

import re
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

from PIL import Image

from tests.benchmarks.golden_results.gold import Case, Gold, call, done
from tests.forked import ROOT
from tests.trainer.untrained import save_untrained
from trainer.config.file import load_config

CONFIGS = ROOT / "configs"
FILES = ROOT / "tests" / "files"

RANKS = {"toy": 1, "digits_autoencoder": 1, "pictures": 1, "dit_moe_64": 64, "gpt_moe_512": 512}
"""Processes of a run; two unless it is named."""
ENGINES = {
    **{f"zero_{stage}": (f"engine.zero_stage={stage}",) for stage in range(4)},
    "fsdp": ("engine={kind: fsdp}",),
    "bf16": ("engine.precision=bf16",),
}
SPLIT = {"dit_moe_64": ("parallel.tensor=2",), "gpt_moe_512": ("parallel.tensor=8",)}
DRAWN = "{kind: euler, steps: 2}"


def check_cases() -> Iterator[Case]:
    """What `check` prints of every run and method: layout, memory, collectives, settings."""
    for path in (*_sorted("runs"), *_sorted("methods")):
        yield Case(f"check/{path.parent.name}/{path.stem}", partial(_check, path, {"": ()}))
    for path, engine in product((CONFIGS / "runs" / f"{name}.yaml" for name in ("digits_moe", "gpt_moe")), ENGINES):
        yield Case(f"check/{engine}/{path.stem}", partial(_check, path, {"": ENGINES[engine]}))
    for name, overrides in SPLIT.items():
        yield Case(f"check/split/{name}", partial(_check, CONFIGS / "runs" / f"{name}.yaml", {"": overrides}))


def _check(path: Path, variants: dict[str, tuple[str, ...]], gold: Gold, folder: Path) -> None:
    ranks = RANKS.get(path.stem, 1 if path.parent.name == "methods" else 2)
    for name, overrides in variants.items():
        changed = (*_data(path, folder), *overrides)
        if "stages:" not in path.read_text():
            changed = (*changed, f"run.dir={folder / 'run'}")
        result = call("trainer", "check", str(path), *changed, "--world-size", str(ranks), "--all")
        if done(gold, name or "printed", result, folder):
            gold.text(name or "printed", result.stdout.replace(str(folder), "DIR"))


def trace_cases() -> Iterator[Case]:
    """Formula traces of a training step of every run, with what is computed, and of a drawing."""
    for path in _sorted("runs"):
        yield Case(f"traces/{path.stem}", partial(_trace, path))


def _trace(path: Path, gold: Gold, folder: Path) -> None:
    base = ("trainer", "trace", str(path), *_data(path, folder), "--world-size", str(RANKS.get(path.stem, 2)))
    steps = {"step": (), "work": ("--work",), "drawing": ("--sampling", DRAWN, "--examples", "2", "--guidance", "1")}
    for name, arguments in steps.items():
        out = folder / f"{name}.jsonl"
        if done(gold, name, call(*base, *arguments, "--out", str(out)), folder):
            gold.files(name, [out])


def _sorted(kind: str) -> list[Path]:
    return sorted((CONFIGS / kind).glob("*.yaml"))


def _data(path: Path, folder: Path) -> tuple[str, ...]:
    """What a run reads that does not come with the repository."""
    if path.stem == "gpt_text":
        return (f"data.path={FILES / 'text'}", "data.context=8", "data.held_out=8")
    if path.stem == "pictures":
        for number, name in enumerate(("a", "b")):
            (folder / name).mkdir(exist_ok=True)
            for shade in range(20):
                Image.new("RGB", (32, 32), (9 * shade, 90 * number, 40)).save(folder / name / f"{shade}.png")
        return (f"data.path={folder}", "data.held_out=2")
    return ()


DRAWING = {"digits_moe": ("parallel.expert=1", "moe.num_experts=4"), "digits_mixture": (), "toy": ()}
"""Runs with random weights, and what changes their configuration."""
SHORT_SEARCH = ("--nodes", "12", "--num", "6", "--fresh", "6", "--evaluations", "2,3")
SHORT_MEASURE = ("--evaluations", "1,3", "--num", "40", "--likelihood", "4")
SHORT_RESTORE = ("--num", "2", "samples=2", "method.steps=4")
SHORT_EDIT = ("--num", "2", "steps=4", "targets=[1]")


def verb_cases() -> Iterator[Case]:
    """JSON and pictures of restore, edit, steps and evaluate on runs with random weights."""
    for run in DRAWING:
        yield Case(f"verbs/{run}/steps", partial(_json, run, ("steps", *SHORT_SEARCH)))
        yield Case(f"verbs/{run}/evaluate", partial(_json, run, ("evaluate", *SHORT_MEASURE)))
        if run != "toy":
            for request in _sorted("requests"):
                verb = re.search(r"schemas/(\w+)\.schema", request.read_text())
                assert verb is not None, request
                yield Case(f"verbs/{run}/{request.stem}", partial(_pictures, run, verb[1], request))


def _json(run: str, arguments: tuple[str, ...], gold: Gold, folder: Path) -> None:
    out = folder / "out.json"
    verb, *rest = arguments
    if done(gold, verb, call("trainer", verb, _untrained(run, folder), *rest, "--out", str(out)), folder):
        gold.json(verb, out, folder)


def _pictures(run: str, verb: str, request: Path, gold: Gold, folder: Path) -> None:
    short = SHORT_RESTORE if verb == "restore" else SHORT_EDIT
    result = call("trainer", verb, _untrained(run, folder), str(request), *short, "--out", str(folder / "out"))
    if done(gold, verb, result, folder):
        gold.json("results", folder / "out" / "results.json", folder)
        gold.files("pictures", (folder / "out" / ("restored" if verb == "restore" else "edited")).rglob("*.png"))


def _untrained(run: str, folder: Path) -> str:
    made = folder / "run"
    save_untrained(load_config(CONFIGS / "runs" / f"{run}.yaml", [f"run.dir={made}", *DRAWING[run]]), 10)
    return str(made)
