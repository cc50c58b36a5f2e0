"""The encode verb: the latents of a data set, as shards that another run learns from."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

import trainer.data
from netsim.foundation.files import replacing
from netsim.foundation.refusal import Refusal
from trainer.checkpoint.intact import newest_checkpoint
from trainer.checkpoint.pretrained import check_restorable, restore
from trainer.config.file import load_config, load_run
from trainer.config.layout import Layout
from trainer.config.model.mlp import AutoencoderConfig
from trainer.data import BadExamples, Dataset, write_shards
from trainer.data.shard.index import INDEX, LatentsEntry
from trainer.data.shard.writer import Labelled
from trainer.distributed.groups import Launch, joined
from trainer.model.autoencoder import Autoencoder
from trainer.model.weight_files import WEIGHTS, files_of

FOLDER = "autoencoder"
CHUNK = 256


def run(run_dir: Path, data: Path | None, out: Path) -> int:
    """Encodes a data set with the averaged weights of an autoencoder's run.

    Args:
        run_dir: folder of the run.
        data: configuration whose data section names the images; None: those of the run.
        out: folder to write; it also gets a copy of the network, to encode other images and decode what is drawn.
    """
    folder = newest_checkpoint(run_dir)
    config = load_run(folder)
    if not isinstance(config.model, AutoencoderConfig):
        raise ValueError(f"run_dir: {run_dir} holds a {config.model.kind} model; give the run of an autoencoder")
    source = config.data if data is None else load_config(data).data
    if source.shape != config.data.shape:
        raise ValueError(
            f"--data: examples of shape {list(source.shape)} are not the {list(config.data.shape)} that the "
            "autoencoder reads; give others, or train it on these"
        )
    if len(getattr(source, "shapes", ())) > 1:
        raise ValueError("--data: its images have several shapes, and latents have one; give images of one shape")
    check_restorable(config, folder)
    if (out / INDEX).exists():
        raise Refusal(out / INDEX, "output", "already exists", "give another folder, or delete this one")
    dataset = trainer.data.build(source)
    launch = Launch.from_environment()
    with joined(launch, expert_parallel=1):
        model = restore(config, Layout.single(config), folder).to(launch.device)
        assert isinstance(model, Autoencoder)
        for file in (*files_of(folder / WEIGHTS), folder / "config.yaml"):
            with replacing(out / FOLDER / file.name) as temporary:
                shutil.copyfile(file, temporary)
        statistics = _Statistics(model.latent_shape[0])
        index = write_shards(
            out,
            _latents(model, dataset, statistics),
            num_classes=source.num_classes,
            class_names=source.class_names,
            latents=lambda: statistics.entry(source.shape),
        )
    print(f"{out}: the latents of {index.num_examples} images, of shape {list(model.latent_shape)}, by {folder.name}")
    return 0


class _Statistics:
    """Mean and standard deviation of each channel of Gaussians."""

    def __init__(self, channels: int) -> None:
        self._sums = np.zeros((3, channels))

    def take(self, mean: Tensor, log_variance: Tensor) -> None:
        """Counts the means and logarithms of variances [B, Z, h, w] of some examples."""
        mean, variance = mean.double(), log_variance.double().exp()
        for row, values in enumerate((torch.ones_like(mean), mean, mean.square() + variance)):
            self._sums[row] += values.sum((0, 2, 3)).cpu().numpy()

    def entry(self, image_shape: tuple[int, ...]) -> LatentsEntry:
        """What the index says of all of them."""
        count, first, second = self._sums
        shift = first / count
        scale = np.sqrt(second / count - shift**2)
        return LatentsEntry.model_validate(
            {"autoencoder": FOLDER, "image_shape": image_shape, "shift": shift.tolist(), "scale": scale.tolist()}
        )


@torch.no_grad()
def _latents(model: Autoencoder, dataset: Dataset, statistics: _Statistics) -> Iterator[Labelled]:
    """The latents of all examples in the order of their ids; what cannot be read is named and left out."""
    ids = torch.cat([dataset.indices(split) for split in trainer.data.SPLITS]).sort().values
    device = next(model.parameters()).device
    for chunk in track(ids.split(CHUNK), "encoding", disable=not sys.stderr.isatty()):
        try:
            batch = dataset.get(chunk)
        except BadExamples as error:
            for reason in error.reasons.values():
                print(f"{reason}; it is left out", file=sys.stderr)
            kept = chunk[~torch.isin(chunk, torch.tensor(list(error.reasons)))]
            if not len(kept):
                continue
            batch = dataset.get(kept)
        mean, log_variance = model.encode(batch.x_1.to(device))
        statistics.take(mean, log_variance)
        moments = torch.cat([mean, log_variance], dim=1).cpu().numpy()
        yield moments, None if batch.labels is None else batch.labels.numpy()
