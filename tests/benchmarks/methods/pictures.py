"""Methods that met only small data, on photographs of clothes: python -m tests.benchmarks.methods.pictures --out DIR

Fashion-MNIST, 28 x 28 pixels and ten classes: 6,000 images are learned, 2,000 are held out. `trainer compare` trains
every method with one transformer and one budget of steps, which a method of several stages shares among them;
blockwise has its own transformer, and latent flow matching learns latents of an autoencoder that has half the steps.
`trainer evaluate` draws 1,000 samples without guidance in 1, 2, 4 and 20 evaluations of each network by its own
sampler, and takes the Fréchet distance on the features of a perceptron that was trained to classify these images. A
sampler with a fixed number of steps has that number alone. The floor is the distance between two halves of the real
images, or of their decoded latents. FLAIR and RF-Inversion restore and edit held-out images with the network of
flow_matching, beside the rivals that these verbs measure.

Runs and figures stay in --out, and what is there is not computed again. The images are those of Debian's package
dataset-fashion-mnist; --path names another folder. All three seeds take about an hour and a half of one core.
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import yaml

from tests.benchmarks.methods.bars import show

FASHION = Path("/usr/share/datasets/fashion-mnist")
METHODS, EVALUATIONS = Path("configs/methods"), (1, 2, 4, 20)
SHARED = {
    "flow_matching": "",
    "ot_cfm": "",
    "weighted_cfm": "",
    "immiscible": "",
    "dtm": "",
    "rectified_flow": "distil",
    "boss": "student",
    "mdt_dist": "student",
}
"""Methods of one network, and the stage whose network is measured."""


def base(path: Path, steps: int) -> dict[str, object]:
    """Settings that all methods share."""
    return {
        "run": {"dir": "unused", "seed": 0},
        "data": {"kind": "idx", "path": str(path), "num_examples": 6000, "held_out": 2000},
        "model": {"kind": "dit", "patch_size": 7, "hidden": 64, "num_layers": 3, "num_heads": 4, "label_dropout": 0.1},
        "optim": {
            "steps": steps, "global_batch": 128, "lr": 3e-3, "warmup_steps": 50, "final_lr": 1e-4, "betas": [0.9, 0.99],
            "clip_norm": 1.0, "ema_decay": 0.99,
        },
        "engine": {"kind": "deepspeed", "zero_stage": 1},
        "checkpoint": {"every": steps, "keep": 1},
        "evaluate": {"every": steps},
        "sample": {"every": None, "guidance": 1.0, "sampler": {"kind": "euler", "steps": 20}},
        "observe": {"log_every": 100},
    }  # fmt: skip


def trainer(*words: object) -> None:
    """Runs a verb and shows what it prints on its last line."""
    command = [sys.executable, "-m", "trainer", *map(str, words)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    last = (ended.stdout if ended.returncode == 0 else ended.stderr).strip().splitlines()[-1:]
    print("trainer", words[0], *last, flush=True)
    if ended.returncode:
        raise SystemExit(f"trainer {words[0]} ended with exit code {ended.returncode}")


def train_alone(out: Path, config: Path, seed: int, settings: dict[str, object]) -> Path:
    """Trains a method that has its own network; the folder of its run, whose last stage is measured."""
    document = yaml.safe_load(config.read_text())
    shared = yaml.safe_load((out / "base.yaml").read_text())
    folder = out / "alone" / config.stem / f"seed_{seed}"
    document |= {key: shared[key] for key in ("data", "optim", "engine", "checkpoint", "evaluate", "sample", "observe")}
    document |= {"run": {"dir": str(folder), "seed": seed}, **settings}
    written = out / f"{config.stem}_{seed}.yaml"
    written.write_text(yaml.safe_dump(document, sort_keys=False))
    trainer("train", written)
    return folder


def networks_of(out: Path, seed: int, steps: int) -> dict[str, Path]:
    """Trains what is missing; folders of the networks by name."""
    found = {name: out / "compare" / name / f"seed_{seed}" / stage for name, stage in SHARED.items()}
    found["rectified_flow, before distilling"] = found["rectified_flow"].parent / "reflow"

    teacher = out / "features.safetensors"
    blockwise = yaml.safe_load((METHODS / "blockwise.yaml").read_text())
    model, sample = blockwise["model"] | {"patch_size": 7}, blockwise["sample"] | {"every": None, "guidance": 1.0}
    stages = [{"name": "main", "train": {"optim": {"steps": steps}}}]
    flow = {**blockwise["flow"], "objective": {"kind": "aligned", "teacher": str(teacher), "weight": 0.05}}
    settings = {"model": model, "flow": flow, "sample": sample, "stages": stages}
    found["blockwise"] = train_alone(out, METHODS / "blockwise.yaml", seed, settings) / "main"

    kept = {"kind": "autoencoder", "hidden": 32, "num_layers": 2, "latent_channels": 4, "factor": 2, "kl_weight": 1e-3}
    shared = yaml.safe_load((out / "base.yaml").read_text())
    budget = shared["optim"] | {"steps": steps // 2, "ema_decay": 0.99}
    autoencoder = {
        "model": kept,
        "optim": budget,
        "checkpoint": {"every": steps // 2, "keep": 1},
        "sample": {"every": None},
        "evaluate": {"every": steps // 2},
    }
    encoder = train_alone(out, Path("configs/runs/digits_autoencoder.yaml"), seed, autoencoder)
    latents = out / "latents" / f"seed_{seed}"
    if not latents.exists():
        trainer("encode", encoder, "--out", latents)
    of_latents = {
        "data": {"kind": "shards", "path": str(latents), "held_out": 2000},
        "model": shared["model"] | {"patch_size": 2},
    }
    found["latent_flow_matching"] = train_alone(out, METHODS / "latent_flow_matching.yaml", seed, of_latents)
    return found


def distances(out: Path, run: Path, data_from: Path | None) -> tuple[dict[str, float], float]:
    """Fréchet distances of a network by its evaluations, and the floor; `data_from` None: to data of its own."""
    written = out / "figures" / ("_".join(run.relative_to(out).parts) + ".json")
    written.parent.mkdir(exist_ok=True)
    if not written.exists():
        features = out / "features.safetensors"
        numbers = ",".join(map(str, EVALUATIONS))
        words = ("--evaluations", numbers, "--num", 1000, "--features", features)
        data = () if data_from is None else ("--data-from", data_from)
        trainer("evaluate", run, *words, *data, "--out", written)
    document = json.loads(written.read_text())
    own = document["results"][0]["sampler"]
    rows = [row for row in document["results"] if row["sampler"] == own]
    return {str(row["evaluations"]): row["figures"]["fid"] for row in rows}, document["floor"]["fid"]


def main() -> int:
    """Trains, measures and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of runs and figures")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each method (default: 3)")
    parser.add_argument("--steps", type=int, default=1000, help="optimiser steps of each method (default: 1000)")
    parser.add_argument("--path", type=Path, default=FASHION, help="folder with the files of Fashion-MNIST")
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    shared = out / "base.yaml"
    shared.write_text(yaml.safe_dump(base(options.path, options.steps), sort_keys=False))
    if not (out / "features.safetensors").exists():
        trainer("features", shared, "--out", out / "features.safetensors")
    methods = [METHODS / f"{name}.yaml" for name in SHARED]
    once = ("--evaluations", "1", "--num", 100, "--out", out / "compare")
    pairs = ("stages.pairs.num=8000",)
    trainer("compare", *methods, *pairs, "--base", shared, "--seeds", options.seeds, *once)
    rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed in range(options.seeds):
        networks = networks_of(out, seed, options.steps)
        for name, run in networks.items():
            in_latents = name == "latent_flow_matching"
            figures, floor = distances(out, run, None if in_latents else networks["flow_matching"])
            for evaluations, value in figures.items():
                rows[name][evaluations].append(value)
            rows["decoded latents" if in_latents else "real images"]["floor"].append(floor)
    restored(out)
    return show("Fréchet distance by evaluations, Fashion-MNIST", rows, ())


def restored(out: Path) -> None:
    """Restores and edits held-out images with the network of flow_matching; the verbs print their tables."""
    run = out / "compare" / "flow_matching" / "seed_0"
    for verb, request, words in (
        ("restore", "flair_inpainting", ("label=own", "--num", 20)),
        ("edit", "rf_inversion", ("targets=[3,8]", "--num", 20)),
    ):
        folder = out / request
        if not folder.exists():
            trainer(verb, run, request, *words, "--out", folder)


if __name__ == "__main__":
    sys.exit(main())
