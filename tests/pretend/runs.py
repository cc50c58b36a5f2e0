"""Short runs of the real loop on the pretend device, and the same on the CPU."""

import copy
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from tests.pretend.synchronisation import Watch
from tests.ranks import run_ranks
from tests.trainer.parallel_runs import DENSE, FEW_STEPS, Division, train
from trainer.config.run import RunConfig

OWN = ("trainer/", "moe/", "megatron/", "tests/")
"""Lines that belong to this repository, or to Megatron-Core, which it calls inside its layers; what DeepSpeed and FSDP2
do by themselves is theirs."""
SETTLED = 2
"""Steps after which nothing is set up any more."""
Device = Literal["cpu", "pretend"]

TWO_SEGMENTS = {"flow": {"time": {"kind": "stratified", "segments": 2}}}
SEGMENTED = {"kind": "segmented", "segments": 2, "within": {"kind": "euler", "steps": 2}}
ENCODER = {"label_dropout": 0.1, "encoder": {"hidden": 16, "layers": 1}}
FROM_CAPTIONS = {
    "flow": {
        "captions": {"path": "captions", "width": 6, "digest": 16 * "0"},
        "coupling": {"kind": "encoded"},
        "objective": {"kind": "encoded_source"},
    },
    "optim": {"global_batch": 32, "micro_batch": 8},
}
SPHERES = {"analytic": {"pairs": 12, "halvings": 1}, "eigenfunctions": 12, "waves": 20, "signatures": 8}
HOPS = {"atoms": 17, "species": [29, 46, 47]}
NETWORKS: dict[str, dict[str, Any]] = {
    **DENSE,
    "blockwise": {
        "model": {"kind": "blockwise", "segments": 2, "hidden": 16, "num_heads": 4, "trunk_layers": 1},
        "sample": {"every": 4, "per_class": 1, "sampler": SEGMENTED},
        **TWO_SEGMENTS,
    },
    "blockwise_mlp": {
        "model": {"kind": "blockwise_mlp", "segments": 2, "hidden": 16},
        "data": {"kind": "toy", "classes": True},
        "sample": {"every": 4, "num": 6, "sampler": SEGMENTED},
        **TWO_SEGMENTS,
    },
    "policy_mlp": {
        "model": {"kind": "policy_mlp", "hidden": 16, "num_layers": 1},
        "task": {"kind": "trajectory_balance", "environment": {"kind": "hypergrid", "side": 4}},
        "sample": {"every": 4, "num": 4},
    },
    "descriptor_mlp": {
        "model": {"kind": "descriptor_mlp", "hidden": 16, "num_layers": 1, "features": 8},
        "data": {"kind": "surfaces", "points": 42, "num_pairs": 12, **SPHERES},
        "task": {"kind": "correspondence", "sliced": 1.0, "slices": 5},
        "sample": {"every": 4},
    },
    "contrastive": {
        "model": {"kind": "contrastive", "hidden": 16, "num_layers": 1},
        "task": {"positives": {"kind": "dynamic_clusters", "memory": 8, "clusters": 2, "neighbours": 2, "begin": 0}},
        "sample": {"every": 4, "per_column": 3},
    },
    "encoded_dit": {
        "model": {"kind": "encoded_dit", "hidden": 16, "num_layers": 1, "num_heads": 2, **ENCODER},
        **FROM_CAPTIONS,
    },
    "encoded_mlp": {
        "model": {"kind": "encoded_mlp", "hidden": 16, "num_layers": 1, **ENCODER},
        "data": {"kind": "toy"},
        **FROM_CAPTIONS,
    },
    "prototypes": {
        "model": {"kind": "prototypes", "hidden": 16, "num_layers": 1, "clusters": 3},
        "task": {"kind": "clustering", "labels": {"neighbours": 2, "rounds": 2}, "memory": 1},
        "sample": {"every": 4},
    },
    "equivariant": {
        "model": {"kind": "equivariant", "hidden": 16, "num_layers": 1},
        "data": {"kind": "reactions", "held_out": 7, **HOPS},
        "flow": {"coupling": {"kind": "ends"}, "target": {"kind": "data"}},
        "sample": {"kind": "reactions", "every": 4, "num": 4, "sampler": FEW_STEPS},
    },
}
"""A small run of every network; those that read captions draw nothing, since a preview reads captions from files."""


@dataclass(frozen=True)
class Case:
    """A run.

    Attributes:
        network: a key of `NETWORKS`.
        layers: of the network; None: its own number.
        engine: section of that name.
        moe: section of that name; empty for a dense network.
        more: sections that are changed, by name.
    """

    network: str = "dit"
    layers: int | None = None
    engine: dict[str, Any] = field(default_factory=dict)
    moe: dict[str, Any] = field(default_factory=dict)
    more: dict[str, dict[str, Any]] = field(default_factory=dict)

    def config(self, folder: Path) -> RunConfig:
        """The run, its files in a folder; only its first and last steps are logged."""
        document = copy.deepcopy(NETWORKS[self.network])
        if self.layers is not None:
            document["model"]["num_layers"] = self.layers
        DENSE["case"] = document | {name: document.get(name, {}) | values for name, values in self.more.items()}
        run = Division("case", engine=self.engine, expert=2 if self.moe else 1, moe=self.moe).config(folder)
        return run.model_copy(update={"observe": run.observe.model_copy(update={"log_every": 100})})


@dataclass(frozen=True)
class Ran:
    """What a run showed on one rank.

    Attributes:
        first: figures of its first step.
        last: figures of its last step.
        own: synchronisations of a settled step in our own code, by line and kind; empty on the CPU.
        libraries: those inside DeepSpeed and FSDP2.
        staged: copies from pageable memory in that step.
    """

    first: dict[str, float]
    last: dict[str, float]
    own: Counter[str]
    libraries: Counter[str]
    staged: Counter[str]


def run_all(cases: dict[str, Case], device: Device, folder: Path) -> list[dict[str, Ran]]:
    """Runs each case on two ranks.

    Args:
        cases: by name.
        device: where.
        folder: for the files of the runs.

    Returns:
        For each rank what each case showed.
    """
    return run_ranks(_run_all, 2, cases, device, folder / device)


def _run_all(rank: int, world_size: int, cases: dict[str, Case], device: Device, folder: Path) -> dict[str, Ran]:
    from trainer.distributed.groups import Launch
    from trainer.training import loop

    if device == "pretend":
        from tests.pretend.libraries import use

        use()
        Launch.device = property(lambda _: torch.device("pretend", 0))  # pyright: ignore[reportAttributeAccessIssue]
    watches: list[Watch] = []
    step_of_loop = loop.take_step

    def watched(training: Any, step: int) -> Any:
        with Watch() as watch:
            figures = step_of_loop(training, step)
        watches.append(watch)
        return figures

    loop.take_step = watched
    found = {}
    for name, case in cases.items():
        watches.clear()
        figures, _ = train(rank, world_size, case.config(folder / name))
        settled = watches[SETTLED]
        own = settled.lines(*OWN)
        found[name] = Ran(figures[0], figures[-1], own, settled.lines() - own, settled.staged)
        assert all(math.isfinite(value) for value in found[name].last.values())
    return found
