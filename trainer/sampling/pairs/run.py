"""The pairs verb: which rank draws which shard, and what is left of an earlier start."""

import hashlib
import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import nn

from netsim.foundation.files import replacing
from netsim.foundation.refusal import Refusal
from netsim.foundation.run_reference import ReferenceConfig
from netsim.foundation.terminal import Terminal
from trainer.checkpoint.pretrained import check_restorable
from trainer.config.derived import with_controls
from trainer.config.rules.drawing import of_drawn
from trainer.config.rules.objection import refuse
from trainer.config.rules.states import of_pictures_alone
from trainer.config.run import FLOWLESS, RunConfig
from trainer.data.shard.index import INDEX, PairIndex
from trainer.distributed.groups import Launch, joined
from trainer.distributed.process.exit_status import conclude
from trainer.distributed.process.signals import EX_TEMPFAIL, StopRequest, end_with_launcher
from trainer.sampling.flow import check_latents
from trainer.sampling.pairs.drawing import PairDrawing
from trainer.sampling.pairs.request import PairsRequest
from trainer.sampling.reference import Reference
from trainer.sampling.sampler_choice import check_made_of

LEFT_OUT = "pairs are of its flow without its sample.controls, which the one that learns from them may have in turn"
MARK = "pairs"
"""Under which a shard names what decides its pairs."""


def run(request: PairsRequest, out: Path) -> int:
    """Draws pairs; the ranks of a launch share the shards and keep those that exist. 75 if stopped before the end."""
    end_with_launcher()
    launch = Launch.from_environment()
    teacher = Reference.of_run(ReferenceConfig(run=request.run))
    config = teacher.config
    if config.model.kind in FLOWLESS:
        raise ValueError(f"run_dir: {request.run} contains a model of kind {config.model.kind}, which follows no flow")
    assert config.flow is not None
    if config.context_shape is not None:
        raise ValueError(f"run_dir: {request.run} reads a context, which no pair holds; give a run without")
    if config.flow.captions is not None:
        raise ValueError(f"run_dir: {request.run} has flow.captions, which no pair holds; give a run without")
    if config.flow.latent is not None and request.begins_at_data:
        raise ValueError(
            f"run_dir: {request.run} has a flow.latent, and latents of data are drawn anew at each step; begin at "
            "noise, as whole paths and nodes do"
        )
    refuse(of_pictures_alone(config, "pairs"))
    check_latents(config)
    refuse(of_drawn(with_controls(config, ()), request.sampler, request.guidance))
    grids = request.sampler.steps_file
    if grids is not None:
        check_made_of(grids, teacher.digest)
    request = request.resolved()
    check_restorable(config, teacher.folder)
    index = _index(request, teacher.digest, config)
    if (out / INDEX).exists():
        found = PairIndex.read(out)
        if found.model_copy(update={"class_names": index.class_names}) != index:
            raise Refusal(out / INDEX, "output", "contains other pairs", "give another folder, or delete this one")
        return _done(out, index, launch)
    mark = _digest(index)
    if launch.rank == 0:
        _tidy(out)
    present = [entry.file for entry in index.shards if _belongs(out / entry.file, mark)]
    stop = StopRequest()
    with joined(launch), stop.listening():
        agreed = [present]
        dist.broadcast_object_list(agreed)
        missing = [number for number, entry in enumerate(index.shards) if entry.file not in agreed[0]]
        own = missing[launch.rank :: launch.world_size]
        teaching = teacher.flow(launch.device)
        if teaching.sample.controls and launch.rank == 0:
            print(f"{request.run}: {LEFT_OUT}", file=sys.stderr)
        flow = teaching.under(())
        drawing = PairDrawing(flow)
        num = sum(index.shards[number].num_examples for number in own)
        with suppress(_InterruptedShard), _interrupting(flow.model, stop), _told(launch, num, out) as told:
            for number in own:
                first = number * request.shard_examples
                numbers = torch.arange(first, first + index.shards[number].num_examples)
                arrays = drawing.draw(request, numbers, told)
                with replacing(out / index.shards[number].file) as temporary:
                    save_file(arrays, temporary, metadata={MARK: mark})
                told(-1)
        dist.barrier()
        if not all((out / entry.file).exists() for entry in index.shards):
            conclude(EX_TEMPFAIL, stop.farewell(out, "its finished shards are kept"))
            return EX_TEMPFAIL
        if launch.rank == 0:
            index.write(out)
    return _done(out, index, launch)


def _index(request: PairsRequest, weights: str, config: RunConfig) -> PairIndex:
    """What the folder's index will say."""
    source, latent = config.source_data, config.flow and config.flow.latent
    ends = [*range(0, request.num, request.shard_examples), request.num]
    shards: list[dict[str, Any]] = [
        {"file": f"shard_{number:05d}.safetensors", "num_examples": end - first}
        for number, (first, end) in enumerate(itertools.pairwise(ends))
    ]
    return PairIndex.model_validate(
        {
            "shape": config.state_shape,
            "dtype": request.dtype,
            "num_classes": config.data.num_classes,
            "class_names": config.data.class_names,
            "segments": request.segments,
            "nodes": request.node_times,
            "data_scale": config.flow.data_scale if request.cuts_paths and config.flow is not None else 1.0,
            "latents": latent and latent.digest,
            "made_by": request.what_decides(weights, source and source.model_dump(mode="json")),
            "shards": shards,
        }
    )


def _digest(index: PairIndex) -> str:
    """Of what decides the pairs of a shard, given its number."""
    return hashlib.sha256(json.dumps(index.made_by, sort_keys=True).encode()).hexdigest()[:16]


def _belongs(shard: Path, mark: str) -> bool:
    """Whether a shard is there; refuses one of other pairs."""
    if not shard.exists():
        return False
    try:
        with safe_open(shard, framework="np") as file:
            found = (file.metadata() or {}).get(MARK)
    except (OSError, SafetensorError) as error:
        raise Refusal(shard, "shard", f"cannot be read ({error})", "delete it; it is then drawn again") from error
    if found != mark:
        raise Refusal(shard, "output", "belongs to other pairs", "give another folder, or delete this one")
    return True


def _tidy(out: Path) -> None:
    """Removes shards that were never finished."""
    for unfinished in out.glob(".shard_*.partial"):
        unfinished.unlink()


def _done(out: Path, index: PairIndex, launch: Launch) -> int:
    if launch.rank == 0:
        print(f"{out}: {index.num_examples} pairs of shape {list(index.shape)}")
    return 0


class _InterruptedShard(Exception):  # noqa: N818  it was asked for
    """This process was told to stop while it drew a shard."""


@contextmanager
def _interrupting(model: nn.Module, stop: StopRequest) -> Iterator[None]:
    """While entered, a request to stop ends what is drawn at the next call of the network."""

    def check(*_: object) -> None:
        if stop.made:
            raise _InterruptedShard

    hook = model.register_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _told(launch: Launch, num: int, out: Path) -> Iterator[Any]:
    """Tells the terminal of the first rank how far that rank is; -1 says that a shard is finished."""
    done = shard = 0
    quiet = launch.rank > 0 or not sys.stderr.isatty()
    with Terminal(stderr=True, quiet=quiet).status(f"{out}: drawing {num} pairs on this rank") as status:

        def tell(drawn: int) -> None:
            nonlocal done, shard
            done, shard = (done + shard, 0) if drawn < 0 else (done, drawn)
            status.update(f"{out}: {done + shard} of {num} pairs on this rank")

        yield tell
