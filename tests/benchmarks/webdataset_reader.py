"""Examples a second from WebDataset tars, ours against the package webdataset, and what ranks fetch over a network.

python -m tests.benchmarks.webdataset_reader [--seeds 5] [--out FILE]

Both read the same local tars in one process and do the same work: a shuffle over the same number of examples, the same
decoder (Pillow, middle square, bicubic) to bytes, batches of 64 as float32 in [-1, 1] with labels. They take turns of
a batch, so that whatever else runs on the machine slows both alike.

    ours         Loader over the data set, which reads each example where the index says that it lies
    webdataset   WebDataset(shardshuffle).shuffle(n).map(decode).batched(64), which walks each tar through tarfile

"reading alone" leaves out decoder and batches: the members of each example as bytes. With workers, ours has threads in
one process (data_loading.workers) and webdataset has processes (WebLoader); wall time is then what counts.

What ranks fetch is counted without a network: ranks of runs of up to 512 read 1,000 tars of 1,000 examples of 100 KB.
"""

import argparse
import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
import torch
import webdataset.compat
from PIL import Image
from torch import Tensor

from netsim.foundation.picture_file import read_picture
from tests.trainer.data.tars import tar_bytes
from trainer.__main__ import main as trainer_main
from trainer.data import Loader, WebDatasetConfig
from trainer.data.loader import DataLoadingConfig, Prefetcher
from trainer.data.tar.files import PIECE_BYTES, Pieces, TarFile
from trainer.data.tar.index import ROW
from trainer.data.webdataset import WebDataset, streamed_order

BATCH, STREAMS, SHUFFLE = 64, 16, 64
CASES = {"pictures of 64 pixels": (64, 64, 4096), "pictures of 256 pixels made 64": (256, 64, 1536)}
"""Pixels a side in the tars and in the batches, and how many pictures."""
TARS = 8
TARS_FAR, EXAMPLES_FAR, BYTES_FAR = 1000, 1000, 100_000


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the figures go, as JSON")
    given = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"ranks": _ranks()}
    for name, (side, size, num) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            figures[name] = _case(name, Path(folder), side, size, num, given.seeds)
    print(f"load average {os.getloadavg()[0]:.2f}")
    if given.out:
        given.out.write_text(json.dumps(figures, indent=1) + "\n")


def _case(name: str, folder: Path, side: int, size: int, num: int, seeds: int) -> dict[str, Any]:
    tars = _write(folder, side, num)
    index = folder / "index"
    trainer_main(["index-tars", str(folder), "--out", str(index)])
    section = {"kind": "webdataset", "path": str(folder), "index": str(index), "size": size, "held_out": BATCH}
    section |= {"streams": STREAMS, "shuffle": SHUFFLE}
    dataset = WebDataset(WebDatasetConfig.model_validate(WebDatasetConfig.resolved(section)))
    contests: dict[str, dict[str, Callable[[int], Iterator[int]]]] = {
        "whole": {
            "ours": lambda seed: _lengths(_ours(dataset, seed, 0)),
            "webdataset": lambda seed: _lengths(_theirs(tars, size, seed)),
        },
        "reading alone": {
            "ours": lambda seed: _our_bytes(dataset, seed),
            "webdataset": lambda seed: (len(samples) for samples in _pipeline(tars, seed).batched(BATCH, list)),
        },
        "2 workers": {
            "ours": lambda seed: _lengths(_ours(dataset, seed, 2)),
            "webdataset": lambda seed: _lengths(_their_workers(tars, size, seed)),
        },
    }
    figures: dict[str, Any] = {}
    for contest, sides in contests.items():
        measured: dict[str, list[tuple[float, float]]] = {one: [] for one in sides}
        for seed in range(-1, seeds):  # the first round warms up
            spent = _alternating({one: side(seed + 1) for one, side in sides.items()}, apart=contest == "2 workers")
            for one in sides if seed >= 0 else ():
                measured[one].append(spent[one])
        ratios = {
            clock: [theirs[place] / ours[place] for ours, theirs in zip(*(measured[one] for one in sides), strict=True)]
            for place, clock in enumerate(("cpu", "wall"))
        }
        if contest == "2 workers":
            del ratios["cpu"]  # that of other processes is not counted
        figures[contest] = {"ratios": ratios, "s_per_example": measured}
        rates = {one: 1 / median(wall for _, wall in times) for one, times in measured.items()}
        compared = ", ".join(
            f"{clock} {median(values):.2f} ({min(values):.2f} to {max(values):.2f})" for clock, values in ratios.items()
        )
        print(
            f"{name}, {contest}: ours {rates['ours']:,.0f}, webdataset {rates['webdataset']:,.0f} examples a second; "
            f"ours / webdataset by {compared} over {seeds} seeds",
            flush=True,
        )
    return figures


def _write(folder: Path, side: int, num: int) -> list[str]:
    """Tars of pictures with structure at all scales, so that their JPEGs are as long as those of photographs."""
    draw = np.random.default_rng(0)

    def picture() -> bytes:
        pixels = np.zeros((side, side, 3))
        for scale in (4, 8, 16, 32, 64, side):
            coarse = Image.fromarray(draw.integers(0, 256, (scale, scale, 3), dtype=np.uint8))
            pixels += np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), float) / scale
        pixels = 255 * (pixels - pixels.min()) / np.ptp(pixels)
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=90)
        return file.getvalue()

    paths = []
    for tar in range(TARS):
        examples = [
            (f"{tar:03d}_{number:06d}", {"jpg": picture(), "cls": str(number % 10).encode()})
            for number in range(num // TARS)
        ]
        paths.append(str(folder / f"train-{tar:03d}.tar"))
        Path(paths[-1]).write_bytes(tar_bytes(examples))
    mean = sum(Path(path).stat().st_size for path in paths) / num
    print(f"{num} pictures of {side} pixels, {mean / 1e3:.1f} KB of tar each")
    return paths


def _lengths(batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[int]:
    return (len(labels) for _, labels in batches)


def _alternating(sides: dict[str, Iterator[int]], *, apart: bool) -> dict[str, tuple[float, float]]:
    """CPU and wall seconds of an example on each side, in turns of a batch, or of an epoch if they read ahead."""
    spent = {one: [0.0, 0.0, 0] for one in sides}
    left = list(sides)
    while left:
        for one in list(left):
            while one in left:
                cpu, wall = time.process_time(), time.perf_counter()
                length = next(sides[one], None)
                spent[one][0] += time.process_time() - cpu
                spent[one][1] += time.perf_counter() - wall
                spent[one][2] += length or 0
                if length is None:
                    left.remove(one)
                if not apart:
                    break
        left.reverse()
    return {one: (cpu / examples, wall / examples) for one, (cpu, wall, examples) in spent.items()}


def _ours(dataset: WebDataset, seed: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    settings: dict[str, Any] = {"global_batch": BATCH, "micro_batch": BATCH, "rank": 0, "world_size": 1, "seed": seed}
    loading = DataLoadingConfig(prefetch=2 * workers, workers=max(1, workers))
    prefetcher = Prefetcher(Loader(dataset, **settings), loading)
    for step in range(len(dataset.indices("train")) // BATCH):
        batch = prefetcher.batch(step, 0)
        yield batch.x_1, cast(Tensor, batch.labels)


def _our_bytes(dataset: WebDataset, seed: int) -> Iterator[int]:
    order = dataset.order("train", seed=seed, epoch=0, global_batch=BATCH)
    return (len(dataset.read(ids)) for ids in order.split(BATCH))


def _pipeline(tars: list[str], seed: int) -> Any:
    shuffled = webdataset.compat.WebDataset(tars, shardshuffle=len(tars), seed=seed, empty_check=False)
    return shuffled.shuffle(STREAMS * SHUFFLE, seed=seed)


def _decoded(tars: list[str], size: int, seed: int) -> Any:
    def decode(sample: dict[str, Any]) -> tuple[Any, int]:
        return read_picture(io.BytesIO(sample["jpg"]), 3, size, size), int(sample["cls"])

    return _pipeline(tars, seed).map(decode).batched(BATCH, collation_fn=_collated, partial=False)


def _collated(samples: list[tuple[Any, int]]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*samples, strict=True)
    return torch.from_numpy(np.stack(images)).float().div(127.5).sub(1), torch.tensor(labels)


def _theirs(tars: list[str], size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    yield from _decoded(tars, size, seed)


def _their_workers(tars: list[str], size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    yield from webdataset.compat.WebLoader(_decoded(tars, size, seed), batch_size=None, num_workers=2)


class _Far(TarFile):
    """A tar that nobody has, whose requests are counted."""

    local = False
    size = BYTES_FAR * EXAMPLES_FAR
    content = bytes(2 * PIECE_BYTES)

    def __init__(self) -> None:
        self.requests: list[int] = []

    def read(self, start: int, end: int) -> bytes:
        self.requests.append(end - start)
        return self.content[: end - start]

    def expect(self, start: int, end: int) -> None:
        """Nothing needs to be told."""


def _ranks() -> list[dict[str, Any]]:
    """What one rank fetches in the first steps of an epoch, for each byte that it uses."""
    num = TARS_FAR * EXAMPLES_FAR
    rows = np.zeros(num, ROW)
    rows["start"] = np.tile(np.arange(EXAMPLES_FAR) * BYTES_FAR, TARS_FAR)
    rows["end"] = rows["start"] + BYTES_FAR
    ends = np.arange(1, TARS_FAR + 1) * EXAMPLES_FAR
    stretches = np.split(np.arange(num), ends[:-1])
    figures = []
    for world_size, global_batch, streams in (
        (1, 256, 64),
        (8, 1024, 64),
        (64, 4096, 64),
        (512, 4096, 64),
        (512, 4096, 512),
    ):
        order = streamed_order(
            stretches, seed=0, epoch=0, global_batch=global_batch, streams=streams, shuffle=SHUFFLE
        ).reshape(-1)
        steps, own = min(len(order) // global_batch, 4096 * world_size // global_batch), global_batch // world_size
        tars = [_Far() for _ in range(TARS_FAR)]
        every = np.ones(num, np.bool_)
        pieces = Pieces(tars.__getitem__, rows, ends, every, streams=streams, run_bytes=SHUFFLE * BYTES_FAR)
        touched, kept = [], []
        first = world_size // 2 * own
        for step in range(steps):
            numbers = order[step * global_batch + first : step * global_batch + first + own].tolist()
            places = [(number // EXAMPLES_FAR, number) for number in numbers]
            pieces.read(places)
            touched.append(len({tar for tar, _ in places}))
            kept.append(len(pieces._kept))
        requests = [length for tar in tars for length in tar.requests]
        figure = {
            "ranks": world_size,
            "global_batch": global_batch,
            "streams": streams,
            "tars_a_step": float(np.mean(touched)),
            "fetched_for_each_byte_used": sum(requests) / (steps * own * BYTES_FAR),
            "mean_request_bytes": float(np.mean(requests)),
            "most_kept_bytes": max(kept) * PIECE_BYTES,
        }
        figures.append(figure)
        print(
            f"rank {world_size // 2} of {world_size}, global batch {global_batch}, {streams} streams: "
            f"{figure['tars_a_step']:.1f} tars a step, {figure['fetched_for_each_byte_used']:.2f} bytes fetched for "
            f"each used over {steps} steps, {figure['mean_request_bytes'] / 1e6:.1f} MB a request, at most "
            f"{figure['most_kept_bytes'] / 1e6:.0f} MB kept",
            flush=True,
        )
    return figures


if __name__ == "__main__":
    main()
