"""Resuming a run from a checkpoint, on any number of ranks and divided over them in any way."""

import sys
from collections.abc import Mapping
from pathlib import Path

import torch.distributed as dist

from netsim.foundation.refusal import Refusal
from trainer.checkpoint.contents import (
    Migrating,
    Resumable,
    Stateful,
    StatefulOptimizer,
    division_of,
    rank_file,
    set_rank_state,
    unpacked,
)
from trainer.checkpoint.manifest import REMEDY, Manifest
from trainer.checkpoint.redivision import fill
from trainer.checkpoint.together import RankError, together
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.model.values import load_routers


def load_checkpoint(
    folder: Path,
    config: RunConfig,
    layout: Layout,
    engine: StatefulOptimizer,
    average: Stateful,
    migration: Migrating | None = None,
    shared: Mapping[str, Resumable] | None = None,
) -> None:
    """Resumes a run from an intact checkpoint of the same identity; collective.

    A run that is divided over its ranks as it was saved goes on bit for bit. One that is divided otherwise differs by
    rounding and loses the state of single ranks, such as that of their random numbers; the first rank says so.

    If the run moves experts, `engine` has been built with the layout of
    :func:`trainer.checkpoint.placement.resumed_layout`. `shared` is that of
    :class:`trainer.checkpoint.saving.Checkpointer`.
    """
    manifest, rank = Manifest.read(folder), dist.get_rank()
    saved, wanted = manifest.division, division_of(config, layout)
    if saved != wanted and rank == 0:
        print(f"{folder}: {_redivided(saved, wanted)}", file=sys.stderr, flush=True)
    try:
        together(lambda: fill(folder / "state", rank, [*engine.state(), *average.state()]))
    except RankError as error:
        raise Refusal(folder / "state", "state", f"does not fit the run ({error})", REMEDY) from error
    engine.state_loaded(manifest.updates)
    load_routers(engine.module, folder)
    if shared:
        known = unpacked(folder / "shared.pt") if "shared.pt" in manifest.files else {}
        for name, part in shared.items():
            part.load(known.get(name))
    own = folder / rank_file(rank)
    set_rank_state(unpacked(own) if saved == wanted and own.exists() else {}, migration)


def _redivided(saved: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    keys = [key for key in {**saved, **wanted} if saved.get(key) != wanted.get(key)]
    changes = ", ".join(f"{key} {saved.get(key)} -> {wanted.get(key)}" for key in keys)
    return f"the saved state is divided anew ({changes})"
