"""Flips and crops against numpy's padding and slicing, with draws of integers that wrap around by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from moe.seeds import derive_seed
from netsim.foundation.refusal import Refusal
from tests.each import each
from trainer import data
from trainer.data import Batch, Dataset, Digits, DigitsConfig, Loader, Split, write_shards
from trainer.data.derived import Sourced
from trainer.data.picture import AugmentConfig, augmented
from trainer.data.shard.index import LatentsEntry

SEED = 5
MASK = 2**64 - 1


def hashed(key: int, counter: int) -> int:
    """The finaliser of splitmix64 after so many increments, in Python's own integers."""
    x = (key + (counter + 1) * 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def by_hand(image: np.ndarray, example: int, position: int, flip: float, crop: int) -> np.ndarray:
    key = hashed(hashed(derive_seed(SEED, "augment"), example), position)
    flipped, down, right = ((hashed(key, number) >> 11) / 2**53 for number in range(3))
    top, left = (int(drawn * (2 * crop + 1)) for drawn in (down, right))
    padded = np.pad(image, ((0, 0), (crop, crop), (crop, crop)), mode="reflect")
    cut = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
    return cut[:, :, ::-1] if flipped < flip else cut


class Images(Dataset):
    """Noise of three channels; every third is held out."""

    num_classes = 2
    shape = (3, 5, 8)

    def __init__(self, **augment: Any) -> None:
        self.augment = AugmentConfig(**augment) if augment else None
        self.values = torch.from_numpy(np.random.default_rng(0).normal(size=(31, *self.shape)).astype(np.float32))

    def indices(self, split: Split) -> torch.Tensor:
        """Two thirds and the others."""
        numbers = torch.arange(31)
        return numbers[(numbers % 3 == 0) == (split == "held_out")]

    def get(self, indices: torch.Tensor) -> Batch:
        """As they are."""
        return Batch(self.values[indices], indices % 2, indices)


def stream(dataset: Dataset, world_size: int, steps: range, split: Split = "train", **settings: Any) -> Batch:
    """What all ranks see in some steps, in the order of the global batch."""
    parts = []
    for step in steps:
        for rank in range(world_size):
            same = {"global_batch": 12, "micro_batch": 3, "seed": SEED, "split": split, **settings}
            loader = Loader(dataset, rank=rank, world_size=world_size, **same)
            parts += [loader.batch(step, local) for local in range(loader.accumulation)]
    labels = [part.labels for part in parts if part.labels is not None]
    return Batch(torch.cat([part.x_1 for part in parts]), torch.cat(labels), torch.cat([part.ids for part in parts]))


@each(("flip", "crop"), [(0.5, 3), (1.0, 0), (0.0, 4), (0.0, 0)])
def test_images_are_padded_cut_and_mirrored_as_by_hand(flip: float, crop: int) -> None:
    images = Images(flip=flip, crop=crop)
    seen = stream(images, 1, range(7))
    for position, (x, example) in enumerate(zip(seen.x_1.numpy(), seen.ids.tolist(), strict=True)):
        plain = images.values[example].numpy()
        np.testing.assert_array_equal(x, by_hand(plain, example, position, flip, crop))


def test_the_same_on_any_number_of_ranks_micro_batches_and_after_resuming() -> None:
    images = Images(flip=0.5, crop=2)
    one = stream(images, 1, range(6))
    for other in (stream(images, 2, range(6)), stream(images, 4, range(6)), stream(images, 1, range(6), micro_batch=6)):
        assert torch.equal(one.x_1, other.x_1)
        assert torch.equal(one.ids, other.ids)
    assert torch.equal(one.x_1[36:], stream(images, 2, range(3, 6)).x_1)


def test_each_epoch_shows_an_image_otherwise_and_labels_and_held_out_images_stay() -> None:
    plain, images = Images(), Images(flip=0.5, crop=2)
    seen, unseen = stream(images, 1, range(20)), stream(plain, 1, range(20))
    assert torch.equal(seen.ids, unseen.ids)
    assert seen.labels is not None
    assert torch.equal(seen.labels, seen.ids % 2)
    versions = {x.numpy().tobytes() for x, example in zip(seen.x_1, seen.ids, strict=True) if example == 4}
    assert len(versions) > 5
    held_out = [stream(dataset, 1, range(3), "held_out").x_1 for dataset in (images, plain)]
    assert torch.equal(*held_out)


def test_every_shift_is_equally_likely() -> None:
    num, crop = 20_000, 2
    ramp = torch.arange(9.0).expand(num, 1, 9, 9)
    numbers = torch.arange(num)
    seen = augmented(AugmentConfig(flip=0.25, crop=crop), ramp, numbers, numbers, seed=0)[:, 0, 4]
    flipped = seen[:, 4] - seen[:, 3] < 0
    assert abs(flipped.float().mean() - 0.25) < 0.01
    counts = torch.bincount(seen[:, 4].long(), minlength=9)[2:7]
    assert (abs(counts / num - 1 / 5) < 0.01).all()


def test_source_points_and_data_are_augmented_on_their_own() -> None:
    images = Images(flip=0.5, crop=2)
    both = Loader(Sourced(images, Images()), global_batch=9, micro_batch=9, rank=0, world_size=1, seed=SEED)
    batch = both.batch(0, 0)
    assert torch.equal(batch.x_1, stream(images, 1, range(1), global_batch=9, micro_batch=9).x_1)
    assert batch.x_0 is not None
    assert {tuple(x.flatten().tolist()) for x in batch.x_0} <= {tuple(x.flatten().tolist()) for x in images.values}


def test_settings_reach_the_data_set_and_leave_no_trace_where_there_are_none() -> None:
    config = DigitsConfig.model_validate({"augment": {"crop": 1}})
    digits = data.build(config)
    assert isinstance(digits, Digits)
    assert digits.augment == AugmentConfig(crop=1)
    assert config.model_dump()["augment"] == {"flip": 0.0, "crop": 1}
    assert "augment" not in DigitsConfig().model_dump()


def test_what_is_no_image_is_refused_with_a_remedy(tmp_path: Path) -> None:
    def config(name: str, **said: Any) -> data.ShardsConfig:
        document = {"kind": "shards", "path": str(tmp_path / name), "held_out": 2, "augment": {"flip": 0.5}, **said}
        return data.ShardsConfig.model_validate(data.ShardsConfig.resolved(document))

    write_shards(tmp_path / "points", [(np.zeros((9, 3), np.float32), None)])
    with pytest.raises(ValidationError, match=r"augment: is for images, and these examples have shape \[3\]; leave it"):
        config("points")
    entry = LatentsEntry(autoencoder="a", image_shape=(1, 8, 8), shift=(0.0,), scale=(1.0,))
    write_shards(tmp_path / "latents", [(np.zeros((9, 2, 4, 4), np.float32), None)], latents=lambda: entry)
    line = "augment: is for images, and these examples are latents, .* leave it out, or learn from the images with"
    with pytest.raises(ValueError, match=f"^{line}"):
        config("latents")
    whole = config("latents", augment=None)
    with pytest.raises(Refusal, match=f"data.{line}"):
        data.build(whole.model_copy(update={"augment": AugmentConfig(flip=0.5)}))
    with pytest.raises(
        ValidationError, match=r"augment.crop: 8 pixels are too large a shift for an image of 8; use 1 to 7"
    ):
        DigitsConfig.model_validate({"augment": {"crop": 8}})
    for kind in ("toy", "pairs"):
        assert "augment" not in {"toy": data.ToyConfig, "pairs": data.PairsConfig}[kind].model_fields
