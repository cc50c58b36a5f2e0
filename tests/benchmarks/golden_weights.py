"""Whether the code still trains the same bits.

    python -m tests.benchmarks.golden_weights --out FILE [--against FILE] [--ranks 1,2] [--only NAME,..]

Trains a short form of every configuration of `configs/methods` and of two mixtures of experts. It calls nothing but the
command line, so it does not matter in which files the code is. A row for each run, or each stage of one, gives the
SHA-256 of its averaged weights, or of the tensors that it wrote; the JSON file also has one for each figure of
`metrics.jsonl`. With --against, a row says whether it equals that of an earlier file, or which digests differ; "new" is
what the earlier file does not have. The exit code is 1 if anything differs, is missing or failed.

A digest holds on one kind of machine only: another processor or another release of PyTorch may round otherwise.
"""

import argparse
import hashlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors import deserialize

from tests.forked import ROOT, command

STEPS = 30
SHORT = (
    f"optim.steps={STEPS}",
    "optim.warmup_steps=5",
    f"checkpoint.every={STEPS}",
    f"evaluate.every={STEPS}",
    "sample.every=null",
    "trace.steps=[]",
    "observe.log_every=1",
)
"""Overrides of whatever trains."""
NUM_PAIRS, HELD_OUT_PAIRS, POINTS_OF_A_FIT, NOISES_OF_A_SEARCH = 600, 60, 400, 20
RUNS = ROOT / "configs" / "runs"
AUTOENCODER = RUNS / "digits_autoencoder.yaml"
OVERRIDES = {
    "gpt_moe": ("data.held_out=10000",),
    "beclr": ("task.positives.memory=128", "task.positives.begin=10"),
    "correspondence": ("optim.global_batch=2",),
}
LATENTS = {
    "latent_flow_matching": "data.path",
    "latent_inpainting": "flow.latent.path",
    "latent_semantic": "flow.latent.path",
}
"""Configurations that read encoded digits, and the key that names their folder."""
TAUGHT = ("blockwise",)
"""Configurations that read a feature extractor."""
WEIGHTS = "weights"

Digests = dict[str, str]
"""A digest of the weights, and one for each figure of `metrics.jsonl`."""


class Row(NamedTuple):
    """One thing that a configuration makes.

    Attributes:
        config: name of the configuration.
        ranks: processes that made it.
        stage: its stage; empty for a configuration without stages.
        digests: of what it wrote; empty if it failed.
        problem: the last line of what a run that failed said.
    """

    config: str
    ranks: int
    stage: str
    digests: Digests
    problem: str = ""

    @property
    def key(self) -> str:
        """What the file calls it."""
        return f"{self.config}/{self.ranks}/{self.stage}"


WITHOUT_DATA = ("gumbel", "crossflow")
"""What the names of configurations begin with whose data are files that a person brings."""


def main() -> int:
    """Trains, compares, prints and writes.

    Returns:
        The exit code.
    """
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    methods = sorted((ROOT / "configs" / "methods").glob("*.yaml"))
    configs = {path.stem: path for path in methods if not path.stem.startswith(WITHOUT_DATA)}
    configs |= {path.stem: path for path in (RUNS / "digits_moe.yaml", RUNS / "gpt_moe.yaml")}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the digests go, as JSON")
    parser.add_argument("--against", type=Path, metavar="FILE", help="an earlier --out")
    parser.add_argument("--ranks", default="1,2", help="numbers of processes (default: 1,2)")
    parser.add_argument("--only", metavar="NAME,..", help=f"some of {', '.join(configs)} (default: all)")
    given = parser.parse_args()
    names = given.only.split(",") if given.only else list(configs)
    if unknown := [name for name in names if name not in configs]:
        parser.error(f"--only: there is no {', '.join(unknown)}; use some of {', '.join(configs)}")
    ranks = [int(number) for number in given.ranks.split(",")]
    machine = {
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "torch": torch.__version__,
    }
    earlier = json.loads(given.against.read_text()) if given.against else {"machine": machine, "runs": {}}
    if earlier["machine"] != machine:
        print(f"made on {earlier['machine']}, this is {machine}: rounding may differ", file=sys.stderr)

    begun, wrong = time.monotonic(), 0
    found: dict[str, Digests] = {}
    lacking = set(earlier["runs"])
    with tempfile.TemporaryDirectory() as folder:
        for row in _rows({name: configs[name] for name in names}, ranks, Path(folder)):
            lacking.discard(row.key)
            verdict, right = f"failed: {row.problem}", False
            if row.digests:
                found[row.key] = row.digests
                verdict, right = _compared(row.digests, earlier["runs"].get(row.key))
            wrong += not right
            _print(row.config, str(row.ranks), row.stage, row.digests.get(WEIGHTS, "")[:12], verdict)
    for key in sorted(lacking):
        name, number, stage = key.split("/")
        if name in {*names, *_prepared(names)} and int(number) in ranks:
            _print(name, number, stage, "", "missing")
            wrong += 1
    given.out.write_text(json.dumps({"machine": machine, "runs": found}, indent=1) + "\n")
    print(f"{len(found)} rows, {wrong} different, missing or failed; {time.monotonic() - begun:.0f} s")
    return 1 if wrong else 0


def _print(config: str, ranks: str, stage: str, digest: str, verdict: str) -> None:
    print(f"{config:<28}{ranks:<3}{stage or '-':<11}{digest:<14}{verdict}".rstrip(), flush=True)


def _compared(found: Digests, expected: Digests | None) -> tuple[str, bool]:
    """What a row says of its digests beside earlier ones, and whether nothing that was there has changed."""
    if expected is None:
        return "new", True
    different = [name for name, digest in expected.items() if name in found and found[name] != digest]
    missing, new = expected.keys() - found.keys(), found.keys() - expected.keys()
    said = {"different": different, "missing": sorted(missing), "new": sorted(new)}
    parts = [f"{word}: {', '.join(names)}" for word, names in said.items() if names]
    same = not different and not missing
    return "; ".join(["equal", *parts] if same else parts), same


def _prepared(names: list[str]) -> list[str]:
    """Names of the rows that are not among the configurations: what these read."""
    return [AUTOENCODER.stem] if any(name in LATENTS for name in names) else []


def _rows(configs: dict[str, Path], ranks: list[int], folder: Path) -> Iterator[Row]:
    latents = folder / "latents"
    if _prepared(list(configs)):
        run = folder / AUTOENCODER.stem
        yield _row(AUTOENCODER.stem, 1, "", run, ("train", str(AUTOENCODER), *SHORT, f"run.dir={run}"))
        yield _row(AUTOENCODER.stem, 1, "latents", latents, ("encode", str(run), "--out", str(latents)))
    for name, path in configs.items():
        for number in ranks:
            run = folder / f"{name}_{number}"
            changed = [*_overrides(yaml.safe_load(path.read_text()), number), *OVERRIDES.get(name, ())]
            if name in LATENTS:
                changed.append(f"{LATENTS[name]}={latents}")
            yield from _trained(name, path, number, run, [*changed, f"run.dir={run}"])


def _overrides(document: dict[str, Any], ranks: int) -> list[str]:
    """What makes a configuration short."""
    changed = [*SHORT]
    if ranks == 1 and "parallel" in document:
        changed.append("parallel.expert=1")
    for entry in document.get("stages", ()):
        match entry:
            case {"pairs": _}:
                short = [f"num={NUM_PAIRS}"]
            case {"fit-path": _}:
                short = [f"num_points={POINTS_OF_A_FIT}"]
            case {"steps": _}:
                short = [f"num={NOISES_OF_A_SEARCH}", f"fresh={NOISES_OF_A_SEARCH}"]
            case {"measure": _}:
                short = []
            case {"train": {"data": {"kind": "pairs"}}}:
                short = [*SHORT, f"data.held_out={HELD_OUT_PAIRS}"]
            case _:
                short = [*SHORT]
        changed += [f"stages.{entry['name']}.{override}" for override in short]
    return changed


def _trained(name: str, path: Path, ranks: int, run: Path, overrides: list[str]) -> Iterator[Row]:
    """Rows of one configuration, each stage by a command of its own; none after one that failed."""
    stages = [entry["name"] for entry in yaml.safe_load(path.read_text()).get("stages", ())]
    if name in TAUGHT:
        teacher = run / "teacher.safetensors"
        run.mkdir()
        arguments = ("features", str(path), *overrides, "--out", str(teacher))
        yield _row(name, ranks, "teacher", teacher, arguments, alone=True)
    for stage in stages or [""]:
        chosen = ("--stage", stage) if stage else ()
        row = _row(name, ranks, stage, run / stage, ("train", str(path), *overrides, *chosen))
        yield row
        if not row.digests:
            return


def _row(config: str, ranks: int, stage: str, made: Path, arguments: tuple[str, ...], *, alone: bool = False) -> Row:
    """Runs a command and digests the file or folder that it makes; alone: as one process, whatever the ranks."""
    result = command(*arguments, ranks=ranks if ranks > 1 and not alone else None)
    if result.returncode:
        said = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
        return Row(config, ranks, stage, {}, said[-1])
    metrics = made / "metrics.jsonl"
    return Row(config, ranks, stage, {WEIGHTS: _of_tensors(made)} | (_of_metrics(metrics) if metrics.exists() else {}))


def _of_tensors(made: Path) -> str:
    """The digest of the averaged weights of a run's last checkpoint, of tensors in a file or folder, of grids, or of
    measured objects."""
    for file, key in ((made / "steps.json", "grids"), (made / "measured.json", "objects")):
        if file.exists():
            return hashlib.sha256(json.dumps(json.loads(file.read_text())[key]).encode()).hexdigest()
    files = sorted((made / "checkpoints").glob("*/ema.safetensors"))[-1:]
    files = files or (sorted(made.glob("*.safetensors")) if made.is_dir() else [made])
    if not files:
        raise FileNotFoundError(f"{made}: the command wrote no tensors there")
    digest = hashlib.sha256()
    for file in files:
        for name, tensor in sorted(deserialize(file.read_bytes()), key=lambda named: named[0]):
            digest.update(json.dumps([name, tensor["dtype"], list(tensor["shape"])]).encode())
            digest.update(tensor["data"])
    return digest.hexdigest()


def _of_metrics(path: Path) -> Digests:
    """The digest of each figure over all steps; those that the clock or the machine changes stand in sections."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    names = sorted({name for line in lines for name, value in line.items() if not isinstance(value, dict)} - {"step"})
    return {
        name: hashlib.sha256(json.dumps([(line["step"], line.get(name)) for line in lines]).encode()).hexdigest()
        for name in names
    }


if __name__ == "__main__":
    sys.exit(main())
