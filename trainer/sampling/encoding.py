"""The encode and encode-captions verbs, which make latents of images and vectors of captions for other runs."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

import trainer.data
from netsim.foundation.files import replacing, write_text
from netsim.foundation.refusal import Refusal
from trainer.checkpoint.intact import newest_checkpoint
from trainer.checkpoint.pretrained import check_restorable, restore
from trainer.config.file import load_config, load_run
from trainer.config.layout import Layout
from trainer.config.model.mlp import AutoencoderConfig
from trainer.data import BadExamples, Dataset, ImageFolderConfig, write_shards
from trainer.data.derived import TEXTS, VECTORS, CaptionsIndex
from trainer.data.picture import picture_names
from trainer.data.shard.file import open_shard
from trainer.data.shard.index import LatentsEntry, ShardIndex, check_new
from trainer.data.shard.writer import Labelled
from trainer.distributed.groups import Launch, joined
from trainer.model.autoencoder import Autoencoder
from trainer.model.text_encoder import TOGETHER, TextEncoder
from trainer.model.weight_files import WEIGHTS, files_of

FOLDER = "autoencoder"
CHUNK = 256


def encode_images(run_dir: Path, data: Path | None, out: Path) -> int:
    """Encodes a data set with the averaged weights of an autoencoder's run, whose network is copied beside the latents.

    The data section of the configuration `data` names the images; None: those of the run.
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
    check_new(out)
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
    """Running sums for the mean and standard deviation of each latent channel."""

    def __init__(self, channels: int) -> None:
        self._sums = np.zeros((3, channels))

    def take(self, mean: Tensor, log_variance: Tensor) -> None:
        """Adds Gaussians with means and log variances [B, Z, h, w]."""
        mean, variance = mean.double(), log_variance.double().exp()
        for row, values in enumerate((torch.ones_like(mean), mean, mean.square() + variance)):
            self._sums[row] += values.sum((0, 2, 3)).cpu().numpy()

    def entry(self, image_shape: tuple[int, ...]) -> LatentsEntry:
        """The index entry, with the statistics of all Gaussians so far."""
        count, first, second = self._sums
        shift = first / count
        scale = np.sqrt(second / count - shift**2)
        return LatentsEntry.model_validate(
            {"autoencoder": FOLDER, "image_shape": image_shape, "shift": shift.tolist(), "scale": scale.tolist()}
        )


@torch.no_grad()
def _latents(model: Autoencoder, dataset: Dataset, statistics: _Statistics) -> Iterator[Labelled]:
    """The latents of all examples in the order of their ids; unreadable examples are named and left out."""
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


SPREAD = 1e-6
"""Standard deviation, relative to the mean, below which the values of all captions count as equal."""


def encode_captions(source: Path, encoder_dir: Path, out: Path, field: str, shards: Path | None = None) -> int:
    """Encodes every caption of a data set, in the order of `shards` (from the shards verb, same source) if given."""
    check_new(out)
    texts = captions_of(source, field)
    if shards is not None:
        texts = in_order_of(shards, texts)
    encoder = TextEncoder(encoder_dir, Launch.from_environment().device)
    chunks = range(0, len(texts), TOGETHER)
    encoded = [
        encoder.encode(texts[first : first + TOGETHER])
        for first in track(chunks, "encoding", disable=not sys.stderr.isatty())
    ]
    vectors = torch.cat(encoded)
    std, mean = torch.std_mean(vectors.double(), 0, correction=0)
    lines = "".join(f"{json.dumps(text, ensure_ascii=False)}\n" for text in texts)
    write_text(out / TEXTS, lines)
    index = CaptionsIndex(
        num_captions=len(texts),
        width=encoder.width,
        shift=tuple(mean.tolist()),
        scale=tuple(std.where(std > SPREAD * (mean.abs() + 1), 1.0).tolist()),
        encoder=encoder.digest,
        texts=hashlib.sha256(lines.encode()).hexdigest()[:16],
    )
    with replacing(out / VECTORS) as temporary, temporary.open("wb") as file:
        np.save(file, index.standardised(vectors).half().numpy(), allow_pickle=False)
    index.write(out)
    print(f"{out}: {len(texts)} captions as vectors of {encoder.width}, by {encoder_dir}")
    return 0


def captions_of(source: Path, field: str) -> list[str]:
    """Captions of a text file (one a line), JSON lines, or texts beside pictures, that of example 0 first."""
    texts = list(_beside_pictures(source) if source.is_dir() else _lines(source, field))
    if not texts:
        raise Refusal(source, "captions", "there are none", "give one for each example of the data")
    return texts


def in_order_of(shards: Path, texts: Sequence[str]) -> list[str]:
    """Captions of the examples of shards, in the order of their rows; `texts` are in the order of the source."""
    ordered: list[str] = []
    for entry in ShardIndex.read(shards).shards:
        arrays = open_shard(shards / entry.file)
        if "examples" not in arrays:
            remedy = "give a folder of the shards verb, or captions in the order of the shards without --shards"
            raise Refusal(shards / entry.file, "examples", "is missing", remedy)
        numbers = [int(arrays["examples"].row(row)) for row in range(entry.num_examples)]
        if max(numbers) >= len(texts):
            problem = f"names example {max(numbers)} of the source, and there are {len(texts)} captions"
            raise Refusal(shards / entry.file, "examples", problem, "give each example of the source a caption")
        ordered += [texts[number] for number in numbers]
    return ordered


def _beside_pictures(folder: Path) -> Iterator[str]:
    """The text files beside pictures, in the order in which data of kind image_folder number these."""
    settings = ImageFolderConfig.resolved({"path": folder})
    for name in picture_names(folder, settings["classes"]):
        path = (folder / name).with_suffix(".txt")
        text = " ".join(_read(path).split())
        if not text:
            raise Refusal(path, "caption", "is empty", f"describe {name} in it")
        yield text


def _lines(path: Path, field: str) -> Iterator[str]:
    for number, line in enumerate(_read(path).splitlines(), start=1):
        text: object = line
        if path.name.endswith((".jsonl", ".jsonl.gz")):
            try:
                text = json.loads(line)
            except ValueError as error:
                remedy = "give a JSON object a line"
                raise Refusal(path, f"line {number}", f"is not JSON ({error})", remedy) from error
            if isinstance(text, dict):
                if field not in text:
                    known = ", ".join(map(str, text)) or "nothing"
                    raise Refusal(path, f"line {number}, {field}", f"is missing (it has {known})", "give --field")
                text = text[field]
        if not isinstance(text, str) or not text.strip():
            raise Refusal(path, f"line {number}", f"contains no caption ({text!r})", "describe the example in words")
        yield text.strip()


def _read(path: Path) -> str:
    remedy = "give text in UTF-8: a file with a caption a line, or one beside each picture"
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return content.decode("utf-8-sig")
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Refusal(path, "file", f"cannot be read ({reason})", remedy) from error
    except UnicodeDecodeError as error:
        raise Refusal(path, "file", f"is not UTF-8 (byte {error.start})", remedy) from error
