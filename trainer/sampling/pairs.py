"""The pairs verb: pairs drawn with a teacher, shard by shard, shared over the ranks."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

import trainer.data
from moe.seeds import derive_seed, fold_in, normal
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
from trainer.data import Dataset
from trainer.data.derived import in_shuffled_epochs
from trainer.data.shard.index import INDEX, PairIndex
from trainer.distributed.groups import Launch, joined
from trainer.distributed.process.exit_status import conclude
from trainer.distributed.process.signals import EX_TEMPFAIL, StopRequest, end_with_launcher
from trainer.flow import Condition
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.flow import check_latents, keys_of
from trainer.sampling.pairs_request import PairsRequest
from trainer.sampling.results_folder import Interrupted, interrupting
from trainer.sampling.sampler_choice import check_made_of
from trainer.sampling.trained import Reference

TOGETHER = 1024
"""Pairs that pass through the network at once."""


@dataclass(frozen=True)
class PairDrawing:
    """Draws the pairs of a teacher's flow."""

    flow: TrainedFlow

    def draw(
        self, request: PairsRequest, numbers: Tensor, progress: Callable[[int], None]
    ) -> dict[str, NDArray[np.generic]]:
        """The arrays of a shard: pairs with numbers int64 [B], each a function of the seed and its number."""
        dtype = torch.float32 if request.dtype == "float32" else torch.float16
        drawn_by = self._from_data if request.begins_at_data else self._from_noise
        parts: list[dict[str, Tensor]] = []
        for own in numbers.split(TOGETHER):
            parts.append(drawn_by(request, own))
            progress(sum(len(part["x_0"]) for part in parts))
        arrays = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        for name in ("x_0", "x_1"):
            arrays[name] = arrays[name].to(dtype)
        return {name: values.numpy() for name, values in arrays.items()}

    def _from_noise(self, request: PairsRequest, own: Tensor) -> dict[str, Tensor]:
        """Pair i holds the states at both ends of interval i mod K of the teacher's trajectory i div K from noise.

        Without nodes the whole trajectory is the only interval, and its times are not stored.
        """
        classes, cut = self.flow.config.data.num_classes, request.nodes is not None
        places = request.places if cut else (0, -1)
        examples, rows = (own // (len(places) - 1)).unique(return_inverse=True)
        number = own % (len(places) - 1)
        labels = torch.arange(int(examples[-1]) + 1) % max(1, classes)
        settings = {"guidance": request.guidance, "seed": request.seed, "split": "train"}
        x = self.flow.follow(Condition(labels), examples, request.sampler, **settings).x[list(places)]
        arrays = {"x_0": x[number, rows].cpu(), "x_1": self.flow.parts.data_of(x[number + 1, rows]).cpu()}
        if cut:
            arrays["interval"] = _ends(request.parts())[number]
        return {**arrays, "labels": labels[examples][rows]} if classes else arrays

    @torch.no_grad()
    def _from_data(self, request: PairsRequest, own: Tensor) -> dict[str, Tensor]:
        """Pair i is of part i mod P: an example noised to its first time, and the teacher's state at its last."""
        device, seed, parts = self.flow.device, request.seed, self.flow.parts
        examples, labels = self._examples(own, seed)
        noise = parts.starts(Condition(labels), own, seed=seed, split="train")
        keys, path_keys = keys_of(own, "trajectory", seed=seed), keys_of(own, "path", seed=seed)
        times_of = request.parts()
        part = own % len(times_of)
        x_s, x_e = torch.empty_like(noise), torch.empty_like(noise)
        for number in part.unique().tolist():
            rows, times = (part == number).nonzero()[:, 0], times_of[number]
            condition = Condition(label=None if labels is None else labels[rows].to(device))
            x_0, x_1 = noise[rows].to(device), parts.data_scale * examples[rows].to(device)
            start = self._placed(x_0, x_1, times[:1].to(device), path_keys[rows].to(device))
            field = parts.field(self.flow.model, condition, request.guidance)
            follows = request.sampler.build(parts.path)
            x_s[rows] = start.cpu()
            x_e[rows] = parts.data_of(follows.sample(field, start, times, keys=keys[rows]).final).cpu()
        arrays = {"x_0": x_s, "x_1": x_e, "interval": _ends(times_of)[part]}
        return arrays if labels is None else {**arrays, "labels": labels}

    def _placed(self, x_0: Tensor, x_1: Tensor, t: Tensor, keys: Tensor) -> Tensor:
        """Points [B, *D] of paths at one time [1]; keys int64 [B] determine the path's own noise."""
        c = self.flow.parts.path.coefficients(t).broadcast(x_1)
        values = torch.arange(x_1[0].numel(), device=x_1.device)
        z = normal(fold_in(keys[:, None], values)).reshape(x_1.shape).to(x_1.dtype)
        return c.a * x_0 + c.b * x_1 + c.g * z

    @cached_property
    def _data(self) -> tuple[Dataset, Tensor]:
        """Data of the teacher, and the ids of its data points, none if it is endless."""
        dataset = trainer.data.build(self.flow.config.data)
        return dataset, dataset.data_points("train")

    def _examples(self, own: Tensor, seed: int) -> tuple[Tensor, Tensor | None]:
        """A real example for each pair, and its label."""
        dataset, ids = self._data
        if dataset.endless:
            batch = dataset.get(keys_of(own, "example", seed=seed) % 2**40)
        else:
            batch = dataset.get(in_shuffled_epochs(ids, own, seed=derive_seed(seed, "example")))
        return batch.x_1, batch.labels


def _ends(parts: list[Tensor]) -> Tensor:
    """First and last time of each part of a path, [K, 2]."""
    return torch.stack([times[[0, -1]] for times in parts])


LEFT_OUT = "pairs are of its flow without its sample.controls, which the one that learns from them may have in turn"
MARK = "pairs"
"""Key of the metadata that decides a shard's pairs."""


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
        existing = PairIndex.read(out)
        if existing.model_copy(update={"class_names": index.class_names}) != index:
            raise Refusal(out / INDEX, "output", "contains other pairs", "give another folder, or delete this one")
        return _done(out, index, launch)
    mark = hashlib.sha256(json.dumps(index.made_by, sort_keys=True).encode()).hexdigest()[:16]
    if launch.rank == 0:
        for unfinished in out.glob(".shard_*.partial"):
            unfinished.unlink()
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
        drawing = PairDrawing(teaching.under(()))
        num = sum(index.shards[number].num_examples for number in own)
        with suppress(Interrupted), interrupting(teaching.model, stop), _progress(launch, num, out) as drawn:
            for number in own:
                first = number * request.shard_examples
                numbers = torch.arange(first, first + index.shards[number].num_examples)
                arrays = drawing.draw(request, numbers, drawn)
                with replacing(out / index.shards[number].file) as temporary:
                    save_file(arrays, temporary, metadata={MARK: mark})
                drawn(-1)
        dist.barrier()
        if not all((out / entry.file).exists() for entry in index.shards):
            conclude(EX_TEMPFAIL, stop.farewell(out, "its finished shards are kept"))
            return EX_TEMPFAIL
        if launch.rank == 0:
            index.write(out)
    return _done(out, index, launch)


def _index(request: PairsRequest, weights: str, config: RunConfig) -> PairIndex:
    """Index of the folder."""
    source, latent = config.source_data, config.flow and config.flow.latent
    left = range(request.num, 0, -request.shard_examples)
    shards: list[dict[str, Any]] = [
        {"file": f"shard_{number:05d}.safetensors", "num_examples": min(examples, request.shard_examples)}
        for number, examples in enumerate(left)
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


def _belongs(shard: Path, mark: str) -> bool:
    """Whether a shard exists; refuses a shard of another request's pairs."""
    if not shard.exists():
        return False
    try:
        with safe_open(shard, framework="np") as file:
            value = (file.metadata() or {}).get(MARK)
    except (OSError, SafetensorError) as error:
        raise Refusal(shard, "shard", f"cannot be read ({error})", "delete it; it is then drawn again") from error
    if value != mark:
        raise Refusal(shard, "output", "belongs to other pairs", "give another folder, or delete this one")
    return True


def _done(out: Path, index: PairIndex, launch: Launch) -> int:
    if launch.rank == 0:
        print(f"{out}: {index.num_examples} pairs of shape {list(index.shape)}")
    return 0


@contextmanager
def _progress(launch: Launch, num: int, out: Path) -> Iterator[Callable[[int], None]]:
    """Shows on the terminal of the first rank how many pairs of a shard it has drawn; -1: the shard is finished."""
    done = shard = 0
    quiet = launch.rank > 0 or not sys.stderr.isatty()
    with Terminal(stderr=True, quiet=quiet).status(f"{out}: drawing {num} pairs on this rank") as status:

        def show(drawn: int) -> None:
            nonlocal done, shard
            done, shard = (done + shard, 0) if drawn < 0 else (done, drawn)
            status.update(f"{out}: {done + shard} of {num} pairs on this rank")

        yield show
