"""Every two parts of a flow that go together, together in a run: python -m tests.benchmarks.compositions --out DIR

Couplings, paths, targets, errors, spaces, antithetic points, latents, contexts, blocks by segment, samplers and
guidance on points and images, and what goes with letters, captions and reactions of atoms, in at most 62 runs, so that
every pair of values that some legal composition has is in one of them. Each trains 30 steps through the train verb and
then draws with every sampler that it goes with, plainly and with guidance. Objectives about the features of a trunk
need a teacher or a finished trunk, and are not among them.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from tests.trainer.data.test_captions import written as captioned
from trainer.__main__ import main as command
from trainer.checkpoint.pretrained import restore
from trainer.config.rules.composition import ALTERNATIVES, OF_LETTERS, Composition, reasons
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.config.sample import FlowSample
from trainer.data.builtin import NUM_DIGITS
from trainer.distributed.groups import Launch, joined
from trainer.flow import coupling, objective, sampler
from trainer.observe.metrics import read_metrics
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.flow import FlowParts
from trainer.sampling.trained import restored_flow

MOST_RUNS = 62
START = 23
"""Of the seeds that are tried one after the other until one needs few enough runs."""
STEPS = 30
SEGMENTS = 2
GUIDANCES = (1.0, 1.5)
SAMPLERS: tuple[Any, ...] = (
    sampler.Euler(steps=2),
    sampler.Heun(steps=2),
    sampler.Dopri5(rtol=1e-2, atol=1e-2),
    sampler.FirstOrder(steps=2),
    sampler.EulerMaruyama(steps=3),
    sampler.StochasticHeun(steps=2),
)

MLP: dict[str, Any] = {"kind": "mlp", "hidden": 16, "num_layers": 1}
DIT: dict[str, Any] = {"kind": "dit", "hidden": 16, "num_heads": 2, "num_layers": 1, "patch_size": 1}
BLOCKS: dict[str, Any] = {"segments": SEGMENTS, "hidden": 16}
BLOCKWISE = {"kind": "blockwise", "num_heads": 2, "trunk_layers": 1, "patch_size": 1, **BLOCKS}
BLOCKWISE_MLP = {"kind": "blockwise_mlp", "num_layers": 1, **BLOCKS}
HEADS: dict[tuple[str, ...], dict[str, Any]] = {
    ("plain",): MLP,
    ("blockwise",): BLOCKWISE_MLP,
    **dict.fromkeys((("latent",), ("context",), ("latent", "context")), DIT),
    **{("blockwise", *extra): BLOCKWISE for extra in (("latent",), ("context",), ("latent", "context"))},
}
"""What stands between network and field, and the network; a target of two fields makes a head of two by itself."""
OF_OTHER_STATES: dict[str, dict[str, Any]] = {
    "letters": DIT,
    "captions": {**DIT, "kind": "encoded_dit"},
    "reactions": {"kind": "equivariant", "hidden": 8, "num_layers": 1},
}
"""Networks of states that are neither points nor images, or begin at captions; the heads of their runs."""
SAMPLES = {"letters": "sequences", "reactions": "reactions"}

ON_IMAGES = {"paired", "mirror_interpolant"}
"""A coupling and a path that the legality of latents refuses: their source points are images."""

Pair = tuple[str, str, str, str]


@dataclass(frozen=True)
class Trial:
    """One run: the parts of its flow, and what stands between network and field."""

    parts: Composition
    head: tuple[str, ...]

    @property
    def samplers(self) -> list[Any]:
        """All that it goes with, within segments where its blocks belong to them."""
        parts: Any = self.parts  # frozen settings have a hash, which type checkers do not see
        legal = legal_samplers(parts.coupling, parts.path, parts.target, parts.objective)
        if "blockwise" in self.head:
            return [sampler.Segmented(segments=SEGMENTS, within=one) for one in legal]
        if self.guidances != GUIDANCES:
            return legal
        return [*legal, sampler.Segmented(segments=SEGMENTS, within=sampler.Euler(steps=2))]

    @property
    def guidances(self) -> tuple[float, ...]:
        """Those that it goes with: a class in the state is always there, and reactions have none."""
        always = getattr(self.parts.coupling, "labels_in_state", False) or self.head == ("reactions",)
        return (1.0,) if always else GUIDANCES

    @property
    def of_regression(self) -> dict[str, Any]:
        """Error, space and antithetic points, if the objective has them."""
        match self.parts.objective:
            case objective.Regression(error=error, space=space, antithetic=antithetic):
                return {"error": error.kind, "space": space, "antithetic": antithetic}
        return {}

    def pairs(self) -> set[Pair]:
        """Every two values of different factors that the run has."""
        values: dict[str, Sequence[str]] = {
            "coupling": [self.parts.coupling.kind],
            "path": [self.parts.path.kind],
            "target": [self.parts.target.kind],
            "objective": [self.parts.objective.kind],
            **{name: [str(value)] for name, value in self.of_regression.items()},
            "head": self.head,
            "sampler": sorted({kind for one in self.samplers for kind in kinds(one)}),
            "guidance": [str(guidance) for guidance in self.guidances],
        }
        return {(f, a, g, b) for f, g in combinations(values, 2) for a in values[f] for b in values[g]}


def kinds(one: Any) -> tuple[str, ...]:
    """The kind of a sampler, and that of the one within segments."""
    return (one.kind, one.within.kind) if isinstance(one, sampler.Segmented) else (one.kind,)


@cache
def legal_samplers(coupled: Any, along: Any, predicted: Any, minimised: Any) -> list[Any]:
    """Those that go with a flow."""
    return [one for one in SAMPLERS if not any(reasons(Composition(coupled, along, predicted, minimised, one)))]


def trials() -> Iterator[Trial]:
    """Every legal run."""
    regressions = [
        objective.Regression.model_validate({"error": {"kind": error}, "space": space, "antithetic": antithetic})
        for error, space, antithetic in product(
            ("squared", "pseudo_huber"), ("prediction", "data", "velocity"), (False, True)
        )
    ]
    couplings = [coupling.Ends(), coupling.Ends(begin="noise"), *ALTERNATIVES["coupling"]]
    objectives = [objective.CrossEntropy(), objective.EncodedSource(), *regressions]
    for parts in product(couplings, ALTERNATIVES["path"], ALTERNATIVES["target"], objectives):
        composition = Composition(*parts, SAMPLERS[0])
        if any(reasons(composition)):
            continue
        coupled, along, predicted, minimised = parts
        if isinstance(minimised, objective.CrossEntropy):
            if coupled.kind != "paired":  # pairs are of points and images
                yield Trial(composition, ("letters",))
        elif coupled.encodes_captions:
            yield Trial(composition, ("captions",))
        elif isinstance(coupled, coupling.Ends):
            if predicted.kind in ("velocity", "data"):  # what a network of atoms predicts
                yield Trial(composition, ("reactions",))
        elif not any(isinstance(one, OF_LETTERS) for one in parts):
            for head in HEADS:
                unfit = coupled.labels_in_state and {"context", "blockwise"} & set(head)
                if not unfit and ("latent" not in head or not {coupled.kind, along.kind} & ON_IMAGES):
                    yield Trial(composition, head)


def cover() -> tuple[list[Trial], set[Pair]]:
    """Few runs that have every pair, and all pairs: a greedy choice of what adds the rarest ones."""
    legal = {frozenset(trial.pairs()): trial for trial in trials()}
    every = sorted(set().union(*legal))
    place = {pair: number for number, pair in enumerate(every)}
    has = np.zeros((len(legal), len(every)), dtype=bool)
    for row, pairs in zip(has, legal, strict=True):
        row[[place[pair] for pair in pairs]] = True
    known = list(legal.values())
    for seed in range(START, START + 1000):
        chosen = _greedy(has, np.random.default_rng(seed))
        if len(chosen) <= MOST_RUNS:
            return [known[row] for row in chosen], set(every)
    raise RuntimeError(f"no start needs at most {MOST_RUNS} runs")


def _greedy(has: NDArray[np.bool_], generator: np.random.Generator) -> list[int]:
    """Rows that have every column: again and again the one with the rarest that are left, of near equals by taste."""
    left, taste = has.sum(0) ** -1.3, 1 + 0.1 * generator.random(len(has))
    numbers, chosen = has.astype(np.float64), []
    while left.any():
        row = int((numbers @ left * taste).argmax())
        chosen.append(row)
        left[has[row]] = 0
    return chosen


class Inputs:
    """What runs read: latents of digits, pairs of points and of digits, captions, letters, and a path in a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.latents, self.table = folder / "latents", folder / "path.safetensors"
        coder = {"kind": "autoencoder", "hidden": 8, "num_layers": 2, "latent_channels": 2, "factor": 2}
        digits = {"kind": "digits", "held_out": 100}
        self._train("coder", {"model": coder, "data": digits})
        self._run("encode", str(folder / "coder"), "--out", str(self.latents))
        self.pairs: dict[str, Path] = {}
        points = {"kind": "toy", "name": "eight_gaussians", "held_out": 100, "classes": True}
        letters = folder / "letters.txt"
        rows = np.random.default_rng(0).choice(list("ACGU"), (400, 6)).tolist()
        lines = [f"{''.join(row)}\t1\t{'ab'[number % 2]}" for number, row in enumerate(rows)]
        letters.write_text("\n".join(["sequence\tcount\tlabel", *lines]))
        sequences = {"kind": "sequences", "path": str(letters), "held_out": 100}
        reactions = {"kind": "reactions", "held_out": 40}
        self.data: dict[str, dict[str, Any]] = {
            "points": points,
            "images": digits,
            "letters": sequences,
            "reactions": reactions,
        }
        self.captions = folder / "captions"
        captioned(self.captions, NUM_DIGITS)
        for name, model in (("points", MLP), ("images", DIT)):
            self._train(f"{name}_teacher", {"model": model, "data": self.data[name]})
            self.pairs[name] = folder / f"{name}_pairs"
            asked = ["--num-pairs", "400", "--sampler", "{kind: euler, steps: 4}", "--out", str(self.pairs[name])]
            self._run("pairs", str(folder / f"{name}_teacher"), *asked)
        self._run("fit-path", str(folder / "points_teacher.yaml"), "--out", str(self.table), "--num-points", "200")

    def train(self, number: int, trial: Trial) -> Path:
        """Runs the train verb for a trial and returns the folder of the run."""
        flow: dict[str, Any] = {
            name: getattr(trial.parts, name).model_dump(mode="json") for name in ("coupling", "target", "objective")
        }
        along = trial.parts.path
        tabulated = {"kind": "tabulated", "path": str(self.table)}
        flow["path"] = tabulated if along.kind == "tabulated" else along.model_dump(mode="json")
        of_head = HEADS | {(head,): network for head, network in OF_OTHER_STATES.items()}
        model, sample = dict(of_head[trial.head]), {"sampler": trial.samplers[0].model_dump(mode="json")}
        if trial.guidances != GUIDANCES:
            sample["guidance"] = 1.0
        if getattr(trial.parts.coupling, "labels_in_state", False):
            model["label_dropout"] = 0.0
        (head, *_), name = trial.head, "points" if model["kind"].endswith("mlp") else "images"
        if head == "captions":
            flow["captions"] = {"path": str(self.captions)}
        if head in SAMPLES:
            sample["kind"] = SAMPLES[head]
        paired = {"kind": "pairs", "path": str(self.pairs[name]), "held_out": 40}
        if "latent" in trial.head:
            flow["latent"] = {"path": str(self.latents)}
        if "context" in trial.head:
            flow["context"] = {"kind": "inpainting"}
        data = paired if trial.parts.coupling.kind == "paired" else self.data.get(head, self.data[name])
        return self._train(f"run_{number:02d}", {"model": model, "data": data, "flow": flow, "sample": sample})

    def _train(self, name: str, sections: dict[str, Any]) -> Path:
        document: dict[str, Any] = {
            "run": {"dir": str(self.folder / name)},
            "optim": {"steps": STEPS, "global_batch": 16, "lr": 1e-3, "warmup_steps": 5},
            "checkpoint": {"every": STEPS, "keep": 1},
            "evaluate": {"every": STEPS},
            "observe": {"tensorboard": False, "log_every": STEPS},
            **sections,
        }
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(document), encoding="utf-8")
        self._run("train", str(file))
        return self.folder / name

    def _run(self, *arguments: str) -> None:
        code = command(arguments)
        if code:
            raise RuntimeError(f"{' '.join(arguments)} ended with {code}")


def drawn(run: Path, trial: Trial) -> int:
    """Draws with every sampler of a trial and both guidances; the number of sets, all of finite values."""
    folder, config = restored_flow(run)
    sets = 0
    with joined(Launch.from_environment()):
        parts, model = FlowParts(config), restore(config, plan_layout(config, 1), folder)
        for chosen in trial.samplers:
            own = _with_sampler(config, chosen)
            plan_layout(own, 1)
            flow = TrainedFlow(own, parts, model)
            conditioning = flow.conditioning(20, seed=0)
            for guidance in trial.guidances:
                states = flow.draw(conditioning.condition, guidance=guidance, seed=0)
                if not bool(parts.space.decode(states).isfinite().all()):
                    raise RuntimeError(f"{chosen.kind} with guidance {guidance} draws what is not finite")
                sets += 1
    return sets


def _with_sampler(config: RunConfig, chosen: Any) -> RunConfig:
    assert isinstance(config.sample, FlowSample)
    return config.model_copy(update={"sample": config.sample.model_copy(update={"sampler": chosen})})


def main() -> int:
    """Runs all trials.

    Returns:
        0 if every run trained and drew, otherwise 1.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the runs, made anew")
    options = parser.parse_args()
    torch.set_num_threads(1)
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    chosen, every = cover()
    print(f"{len(chosen)} runs for {len(every)} pairs", flush=True)
    inputs = Inputs(options.out)
    covered: set[Pair] = set()
    shown = Table(title=f"{STEPS} steps each", title_justify="left")
    for heading in ("run", "coupling", "path", "target", "objective", "head", "held-out loss", "sets drawn"):
        shown.add_column(heading)
    for number, trial in enumerate(chosen, start=1):
        of_regression = trial.of_regression
        antithetic = of_regression.pop("antithetic", False)
        about = [*map(str, of_regression.values()), *["antithetic"] * antithetic] or [trial.parts.objective.kind]
        row = [f"{number}", *(getattr(trial.parts, name).kind for name in ("coupling", "path", "target"))]
        row += [", ".join(about), ", ".join(trial.head)]
        try:
            run = inputs.train(number, trial)
            loss = [
                record.values["held_out_loss"]
                for record in read_metrics(run / "metrics.jsonl")
                if "held_out_loss" in record.values
            ][-1]
            sets = drawn(run, trial)
        except Exception as error:
            shown.add_row(*row, "FAILED", " ".join(str(error).split()))
        else:
            covered |= trial.pairs()
            shown.add_row(*row, f"{loss:.4f}", f"{sets}")
        print(f"{number} of {len(chosen)}", file=sys.stderr, flush=True)
    Console(width=180).print(shown)
    print(f"all pairs covered: {len(covered)} of {len(every)}")
    return 0 if covered == every else 1


if __name__ == "__main__":
    raise SystemExit(main())
