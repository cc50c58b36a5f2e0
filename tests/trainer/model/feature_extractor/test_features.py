"""Feature extractors in files: closed forms, torch's own modules, refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from netsim.foundation.refusal import Refusal
from tests.each import each
from trainer.evaluation.judgement import judge_features
from trainer.evaluation.quality import frechet_distance
from trainer.model.feature_extractor.extractor import KEY, check_extractor, read_extractor, write_extractor
from trainer.model.feature_extractor.layers import PLAIN_LAYERS, Branches
from trainer.model.feature_extractor.transformer import AttentionBlock, FirstToken, PatchMap, PatchTokens


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def identity(features: int) -> nn.Sequential:
    linear = nn.Linear(features, features)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(features))
        linear.bias.zero_()
    return nn.Sequential(nn.Flatten(), linear)


def every_layer() -> nn.Sequential:
    """A small network with each kind of layer, in the manner of Inception, residual networks and transformers."""
    torch.manual_seed(0)
    mixed = Branches(
        [
            nn.Sequential(nn.Conv2d(8, 4, 1, bias=False), nn.BatchNorm2d(4, eps=1e-3), nn.ReLU()),
            nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.Conv2d(8, 6, (1, 3), padding=(0, 1))),
        ],
        "concatenate",
    )
    residual = Branches([nn.Sequential(), nn.Sequential(nn.Conv2d(10, 10, 3, padding=1, groups=2), nn.SiLU())], "add")
    pooled = [PatchMap(4, 3), nn.AdaptiveAvgPool2d((1, 2)), nn.Flatten()]
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, dilation=1),
        nn.BatchNorm2d(8),
        nn.LeakyReLU(0.2),
        nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
        mixed,
        nn.GELU("tanh"),
        residual,
        nn.Tanh(),
        nn.Dropout(0.5),
        PatchTokens(10, 4, 3, leading_tokens=2),
        AttentionBlock(10, num_heads=2, hidden=12, eps=1e-6),
        nn.LayerNorm(10, bias=False),
        Branches([nn.Sequential(FirstToken()), nn.Sequential(*pooled)], "concatenate"),
        nn.Identity(),
        nn.Linear(30, 5),
        nn.Sigmoid(),
    )
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("leading", "positions", "scale_1", "scale_2")):
                parameter.normal_()
    network.train()
    for number in range(3):
        network(images(16, 3, 12, 10, seed=number))  # gives batch normalisation statistics of its own
    return network.eval()


def test_a_file_gives_the_features_of_the_network_that_was_written(tmp_path: Path) -> None:
    network, path, examples = every_layer(), tmp_path / "features.safetensors", images(200, 3, 12, 10)
    used = {type(module) for module in network.modules()}
    assert {kind.module for kind in PLAIN_LAYERS} <= used, "no kind of layer is left out"
    mean, std = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
    write_extractor(network.train(), path, (3, 12, 10), mean=mean, std=std)
    check_extractor(path, (3, 12, 10))
    scaled = (examples - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        expected = network.eval()(scaled).numpy()
    np.testing.assert_allclose(read_extractor(path).features(examples), expected, rtol=1e-5, atol=1e-6)
    assert list(tmp_path.iterdir()) == [path]


def test_the_distance_on_identical_features_is_that_on_pixels(tmp_path: Path) -> None:
    path = tmp_path / "identity.safetensors"
    write_extractor(identity(12), path, (3, 2, 2))
    extractor = read_extractor(path)
    samples, real = images(60, 3, 2, 2), 0.7 * images(90, 3, 2, 2, seed=1) + 0.2
    figures = judge_features(extractor.features(samples), extractor.features(real), seed=0)
    distance = frechet_distance(samples.numpy(), real.numpy())
    assert figures["frechet_distance_on_features_unguided"] == pytest.approx(distance, rel=1e-6)
    assert 0 < figures["frechet_distance_on_features_floor"] < distance


def test_images_of_another_size_are_resized_without_aliasing_and_grey_ones_repeated(tmp_path: Path) -> None:
    path = tmp_path / "pixels.safetensors"
    write_extractor(nn.Sequential(nn.Flatten()), path, (3, 4, 6))
    grey = images(3, 1, 16, 12)
    resized = read_extractor(path).prepare(grey)
    assert resized.shape == (3, 3, 4, 6)
    for picture, found in zip(grey[:, 0].numpy(), resized, strict=True):
        expected = np.asarray(Image.fromarray(picture).resize((6, 4), Image.Resampling.BILINEAR))
        for channel in found.numpy():
            np.testing.assert_allclose(channel, expected, atol=1e-5)


@each(
    ("module", "words"),
    [
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "padding_mode reflect"),
        (nn.MaxPool2d(2, return_indices=True), "return_indices True"),
        (nn.BatchNorm2d(1, track_running_stats=False), "track_running_stats False"),
        (nn.Conv2d(1, 1, 3, padding="same"), "padding"),
        (nn.Softmax(1), "Softmax is not supported"),
    ],
)
def test_what_a_file_cannot_hold_is_not_written(module: nn.Module, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^network\.1: .*{words}"):
        write_extractor(nn.Sequential(nn.Identity(), module), tmp_path / "x.safetensors", (1, 4, 4))
    with pytest.raises(Refusal, match=r"layers\.1: does not take \[4\]"):
        write_extractor(nn.Sequential(nn.Flatten(), nn.Linear(5, 2)), tmp_path / "x.safetensors", (1, 2, 2))
    assert list(tmp_path.iterdir()) == []


def described(**changes: Any) -> str:
    layers = [{"kind": "flatten"}, {"kind": "linear", "in_features": 4, "out_features": 2}]
    return json.dumps({"format": "flowfabric.features/1", "shape": [1, 2, 2], "layers": layers, **changes})


Tensors = dict[str, torch.Tensor]
WEIGHTS: Tensors = {"1.weight": torch.ones(2, 4), "1.bias": torch.ones(2)}
MALFORMED: dict[str, tuple[dict[str, str], Tensors, str]] = {
    "no description": (
        {},
        WEIGHTS,
        r"metadata\.extractor: is missing; write it with python -m trainer features CONFIG --out FILE",
    ),
    "no JSON": ({KEY: "{"}, WEIGHTS, r"metadata\.extractor: is not JSON"),
    "nested without end": ({KEY: "[" * 100_000}, WEIGHTS, r"metadata\.extractor: is not JSON"),
    "no object": ({KEY: "[]"}, WEIGHTS, "document: "),
    "another version": ({KEY: described(format="flowfabric.features/2")}, WEIGHTS, "format: "),
    "an unknown layer": ({KEY: described(layers=[{"kind": "pickle"}])}, WEIGHTS, r"layers\.0"),
    "an unknown field": ({KEY: described(code="x")}, WEIGHTS, "code: is not a known key"),
    "no layers": ({KEY: described(layers=[])}, WEIGHTS, "layers: "),
    "half an image": ({KEY: described(shape=[2, 2])}, WEIGHTS, "shape: "),
    "no deviation": ({KEY: described(std=[0.0])}, WEIGHTS, r"std\.0: "),
    "means of other channels": ({KEY: described(mean=[0.0, 1.0])}, WEIGHTS, "mean: 2 values"),
    "another input": ({KEY: described(shape=[1, 3, 3])}, WEIGHTS, r"layers\.1: does not take \[9\]"),
    "a missing tensor": ({KEY: described()}, {"1.weight": torch.ones(2, 4)}, r"1\.bias: is missing"),
    "a tensor too many": ({KEY: described()}, {**WEIGHTS, "2.bias": torch.ones(2)}, r"2\.bias: belongs to no layer"),
    "a tensor of another shape": (
        {KEY: described()},
        {**WEIGHTS, "1.bias": torch.ones(3)},
        r"1\.bias: has shape \(3,\)",
    ),
    "whole numbers": ({KEY: described()}, {**WEIGHTS, "1.bias": torch.ones(2).long()}, r"1\.bias: is of type I64"),
    "sizes beyond measure": (
        {KEY: described(layers=[{"kind": "linear", "in_features": 2, "out_features": 2**62}])},
        WEIGHTS,
        "layers: cannot be built|: is missing",
    ),
}


@each("case", MALFORMED)
def test_a_malformed_file_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    metadata, tensors, words = MALFORMED[case]
    path = tmp_path / "features.safetensors"
    save_file(tensors, path, metadata=metadata)
    refused_by(lambda: check_extractor(path, (1, 2, 2)), path, words)
    refused_by(lambda: read_extractor(path), path, words)


def refused_by(action: Callable[[], object], path: Path, words: str) -> None:
    with pytest.raises(Refusal, match=words) as refusal:
        action()
    line = str(refusal.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    assert "; " in line


def test_a_file_that_is_none_and_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "features.safetensors"
    refused_by(lambda: check_extractor(path, (1, 2, 2)), path, "features: cannot be read")
    path.write_bytes(b"\x80\x04 not safetensors")
    refused_by(lambda: check_extractor(path, (1, 2, 2)), path, "features: cannot be read")
    save_file({**WEIGHTS, "1.bias": torch.tensor([1.0, float("nan")])}, path, metadata={KEY: described()})
    refused_by(lambda: read_extractor(path), path, r"1\.bias: contains values that are not finite")


@pytest.mark.parametrize(
    ("shape", "run", "words"),
    [
        ((3, 4, 4), (4, 8, 8), "has 3 channels but the run's images have 4"),
        ((3, 4, 4), (2,), "but the run has [2]"),
        ((2,), (3,), "but the run has [3]"),
    ],
)
def test_an_extractor_of_other_examples_is_refused(
    shape: tuple[int, ...], run: tuple[int, ...], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "features.safetensors"
    write_extractor(nn.Sequential(nn.Identity()), path, shape)
    with pytest.raises(Refusal) as refusal:
        check_extractor(path, run)
    assert words in str(refusal.value)


def test_halves_are_read_as_floats(tmp_path: Path) -> None:
    path = tmp_path / "features.safetensors"
    write_extractor(identity(4).half(), path, (4,))
    assert load_file(path)["1.weight"].dtype == torch.float16
    examples = images(5, 4)
    np.testing.assert_array_equal(read_extractor(path).features(examples), examples.numpy())
