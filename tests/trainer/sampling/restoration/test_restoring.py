"""Batches of restored pictures: what decides them, and what they agree with."""

from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from netsim.foundation.run_reference import ReferenceConfig
from tests.trainer.untrained import untrained_run
from trainer.data import ImageFolderConfig
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.flow import Latents
from trainer.sampling.requested_pictures import open_pictures
from trainer.sampling.restoration import Restoration, variance
from trainer.sampling.restore_request import RestoreRequest, built, planned
from trainer.sampling.trained import Reference

DIT = {"kind": "dit", "patch_size": 4, "hidden": 8, "num_layers": 1, "num_heads": 2, "label_dropout": 0.1}
QUICK = {"kind": "flair", "weight": "constant", "scale": 0.2, "steps": 4}
HALVED = {"kind": "average_pool", "factor": 2}


def drawn_from(folder: Path) -> TrainedFlow:
    return Reference.of_run(ReferenceConfig(run=folder)).flow(torch.device("cpu"))


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> TrainedFlow:
    sections = {"data": {"kind": "digits", "held_out": 20}, "model": DIT}
    return drawn_from(untrained_run(tmp_path_factory.mktemp("runs") / "digits", sections))


def restored(flow: TrainedFlow, *rows: int, num: int = 8, **asked: Any) -> list[dict[str, torch.Tensor]]:
    """The results of pictures that pass through the network together."""
    document = {"method": QUICK, "samples": 2, "pictures": {"kind": "held_out", "num": num}, **asked}
    request = RestoreRequest.model_validate(document)
    plan = planned(request, flow.config)
    pictures = open_pictures(request.pictures, flow.config, flow.parts.space, shape=plan.picture_shape)
    solver = built(request.method, flow.parts.path, None)
    found = Restoration(flow, plan, pictures, solver).restored(torch.tensor(rows))
    assert not any(one.problem for one in found)
    return [dict(one.arrays) for one in found]


def test_a_picture_is_restored_alike_in_any_company(flow: TrainedFlow) -> None:
    together, alone = restored(flow, 0, 1, 2, 3), restored(flow, 2)
    later = restored(flow, 1, pictures={"kind": "held_out", "num": 3, "first": 1})
    for one in (alone[0], later[0]):
        for key, values in together[2].items():
            torch.testing.assert_close(one[key], values, rtol=1e-4, atol=1e-5)


def test_samples_differ_and_seeds_decide_them(flow: TrainedFlow) -> None:
    (first,), (again,), (other,) = (restored(flow, 0, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first["restored"], again["restored"])
    assert not torch.equal(first["restored"][0], first["restored"][1])
    assert not torch.equal(first["restored"], other["restored"])


def test_random_holes_and_noise_belong_to_a_picture(flow: TrainedFlow) -> None:
    asked = {"operator": {"kind": "mask", "mask": {"kind": "boxes"}}, "noise": 0.1}
    first, second = restored(flow, 0, 1, **asked)
    (again,) = restored(flow, 1, **asked)
    assert not torch.equal(first["hole"], second["hole"])
    assert torch.equal(again["hole"], second["hole"])
    assert torch.equal(again["observed"], second["observed"])
    visible = ~second["hole"][0].bool()
    added = (second["observed"] - second["truth"])[:, visible]
    assert 0.05 < float(added.std()) < 0.2
    assert second["observed"][:, ~visible].abs().max() == 0


def test_noise_that_no_picture_would_show_is_no_observation(flow: TrainedFlow) -> None:
    """A blur shows nothing of the finest waves, so that all that is observed can be agreed with."""
    (found,) = restored(flow, 0, operator={"kind": "blur", "deviation": 1.5}, noise=0.2)
    assert float(found["residuals"].max()) < 1e-9
    assert (found["observed"] - found["truth"]).abs().max() > 0.1


def test_a_label_is_asked_of_the_network(flow: TrainedFlow) -> None:
    asked = {"operator": HALVED, "guidance": 2}
    (own,), (three,) = restored(flow, 0, label="own", **asked), restored(flow, 0, label=3, **asked)
    assert not torch.equal(own["restored"], three["restored"])
    labels = open_pictures(RestoreRequest().pictures, flow.config, flow.parts.space).labels
    assert labels is not None
    (same,) = restored(flow, 0, label=str(int(labels[0])), **asked)
    assert torch.equal(own["restored"], same["restored"])
    assert int(own["evaluations"]) == 2 * 2 * 4
    for found in (own, three):
        pooled = torch.nn.functional.avg_pool2d(found["restored"], 2)
        torch.testing.assert_close(pooled, found["observed"].expand_as(pooled), atol=1e-6, rtol=0)


def test_a_control_of_strength_0_changes_no_bit(flow: TrainedFlow) -> None:
    (plain,) = restored(flow, 0)
    for strength, same in ((0, True), (0.5, False)):
        (found,) = restored(flow, 0, controls=[{"kind": "pull", "strength": strength, "stop": 1.0}])
        assert torch.equal(found["restored"], plain["restored"]) == same


def test_observations_of_a_folder_have_no_truth(flow: TrainedFlow, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (4, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    folder = {"kind": "folder", "path": str(tmp_path)}
    (found,) = restored(flow, 0, operator=HALVED, observed=True, pictures=folder)
    assert found["observed"].shape == (1, 4, 4)
    assert np.allclose(found["observed"][0].numpy(), pixels / 127.5 - 1, atol=1e-6)
    assert "truth" not in found
    assert "errors" not in found


def test_coloured_pictures_under_a_painted_mask(tmp_path: Path) -> None:
    draws, folder = np.random.default_rng(0), tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(draws.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    data = {"kind": "image_folder", "path": str(folder), "size": 8, "held_out": 1, "classes": []}
    sections = {"data": ImageFolderConfig.resolved(data), "model": {**DIT, "label_dropout": 0.0}}
    coloured = drawn_from(untrained_run(tmp_path / "coloured", sections))
    mask = Image.new("L", (80, 80))
    mask.paste(255, (40, 0, 80, 80))
    mask.save(tmp_path / "mask.png")
    operator = {"kind": "mask", "mask": {"kind": "picture", "path": str(tmp_path / "mask.png")}}
    asked = {"operator": operator, "observed": True, "pictures": {"kind": "folder", "path": str(folder)}}
    (found,) = restored(coloured, 0, **asked)
    assert found["restored"].shape == (2, 3, 8, 8)
    assert torch.equal(found["restored"][..., :4], found["observed"][..., :4].expand(2, -1, -1, -1))
    assert found["observed"][..., 4:].abs().max() == 0


def test_the_example_of_an_own_operator_keeps_the_rows_that_it_shows(flow: TrainedFlow) -> None:
    (found,) = restored(flow, 0, operator={"class": "configs.examples.own_operator:Lines", "every": 2})
    assert torch.equal(found["observed"], found["truth"][:, ::2])
    assert torch.equal(found["restored"][..., ::2, :], found["truth"][:, ::2].expand(2, -1, -1, -1))
    assert not torch.equal(found["restored"][0], found["restored"][1])


class Mirrored:
    """An autoencoder whose latents are mirror images, twice as large."""

    def encode(self, images: Tensor) -> tuple[Tensor, None]:
        return 2 * images.flip(3), None

    def decode(self, latents: Tensor) -> Tensor:
        return latents.flip(3) / 2

    def to(self, device: torch.device) -> None:
        assert device.type == "cpu"


@pytest.mark.parametrize("agreement", ["hard", "soft"])
def test_pictures_of_latents_agree_where_they_are_seen(flow: TrainedFlow, agreement: str) -> None:
    parts = copy(flow.parts)
    parts.space = Latents(Mirrored(), shift=(0.1,), scale=(1.5,))
    latent = replace(flow, parts=parts)
    method = {**QUICK, "consistency": agreement}
    (found,) = restored(latent, 0, operator={"kind": "mask"}, method=method)
    visible = ~found["hole"][0].bool()
    missed = (found["restored"] - found["truth"])[..., visible].abs().max()
    assert (float(missed) < 1e-6) == (agreement == "hard")
    if agreement == "soft":
        assert torch.equal(found["decoded_residuals"], found["residuals"][1:-1])


def test_the_variance_of_samples_is_without_bias_and_0_of_one() -> None:
    samples = torch.randn(4, 3, 2, 2)
    mean = samples.mean(0)
    torch.testing.assert_close(variance(samples), ((samples - mean) ** 2).sum(0).double() / 3)
    assert variance(samples[:1]).abs().max() == 0
