"""Feature extractors of published vision transformers: torch.nn's encoder, Pillow, other packages, refusals."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import interpolate

from netsim.foundation.refusal import Refusal
from tests.each import each
from tests.trainer.model.feature_extractor.vision_transformers import Weights, dinov2_weights, renamed, tokens_of
from trainer.model.feature_extractor.extractor import (
    Extractor,
    check_extractor,
    describe_extractor,
    feature_shape,
    read_extractor,
)
from trainer.model.feature_extractor.importing import import_extractor, resized_positions

IMAGENET = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])


def images(number: int, channels: int, height: int, width: int) -> Tensor:
    """From -1 to 1, as a run has them."""
    return 2 * torch.rand(number, channels, height, width, generator=torch.Generator().manual_seed(5)) - 1


def normalised(examples: Tensor) -> Tensor:
    mean, std = IMAGENET[:, :, None, None]
    return ((examples + 1) / 2 - mean) / std


def assert_near(found: Tensor, expected: Tensor) -> None:
    """Within the rounding of float32 of features whose spread is about 1."""
    torch.testing.assert_close(found.double(), expected.double(), rtol=0.0, atol=2e-5)


def imported(weights: Weights, folder: Path, layout: str = "dinov2", **settings: Any) -> Extractor:
    save_file(weights, folder / "weights.safetensors")
    import_extractor(folder / "weights.safetensors", layout, folder / "features.safetensors", **settings)
    return read_extractor(folder / "features.safetensors")


def with_positions(weights: Weights, rows: int, columns: int, *, antialias: bool, **size: Any) -> Tensor:
    """The positions [1, 1 + patches, D] of a file, interpolated to another grid."""
    class_position, rest = weights["pos_embed"].split([1, weights["pos_embed"].shape[1] - 1], 1)
    side = round(rest.shape[1] ** 0.5)
    grid = rest.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    found = interpolate(grid, mode="bicubic", antialias=antialias, **(size or {"size": (rows, columns)}))
    assert found.shape[2:] == (rows, columns)
    return torch.cat([class_position, found.permute(0, 2, 3, 1).reshape(1, rows * columns, -1)], 1)


def test_the_published_shape_gives_what_the_encoder_of_torch_gives(tmp_path: Path) -> None:
    """DINOv2 ViT-S/14, trained at 518 pixels, on the grid of 16 x 16 patches that 32 x 32 latents have too."""
    weights = dinov2_weights(width=384, depth=12, patch=14, grid=37)
    assert weights["pos_embed"].shape == (1, 1370, 384)
    extractor = imported(weights, tmp_path, image_size=[224])
    path = tmp_path / "features.safetensors"
    assert feature_shape(path) == (384, 16, 16)
    examples = images(2, 3, 224, 224)
    positions = with_positions(weights, 16, 16, antialias=False, scale_factor=(16.1 / 37, 16.1 / 37))
    expected = tokens_of(weights, normalised(examples), positions, num_heads=6)[:, 1:].mT.unflatten(2, (16, 16))
    assert_near(extractor(examples), expected)
    unused = weights["mask_token"].numel() + (1370 - 257) * 384 + 384  # the class token and its position are one
    values = sum(value.numel() for value in weights.values()) - unused
    line = f"features [384, 16, 16] of examples [3, 224, 224]; {values:,} values, {4 * values / 1e6:,.1f} MB"
    assert describe_extractor(path) == f"{path}: {line}"


@each("tokens", ["patches", "class", "mean"])
@each("registers", [0, 4])
@each("scales", [True, False], ids=["layer scale", "no layer scale"])
def test_tokens_are_those_of_the_encoder_of_torch(tokens: Any, registers: int, scales: bool, tmp_path: Path) -> None:
    weights = dinov2_weights(registers=registers, scales=scales)
    extractor = imported(weights, tmp_path, tokens=tokens, num_heads=4)
    examples = images(5, 3, 12, 12)
    found = tokens_of(weights, normalised(examples), weights["pos_embed"], num_heads=4)
    patches = found[:, 1 + registers :]
    expected = {"patches": patches.mT.unflatten(2, (3, 3)), "class": found[:, 0], "mean": patches.mean(1)}[tokens]
    assert_near(extractor(examples), expected)
    assert extractor.features(examples).shape == (5, expected[0].numel())


@each(("size", "grid"), [([8], (2, 2)), ([12, 20], (3, 5)), ([32, 8], (8, 2))])
@each("registers", [0, 2])
def test_another_image_size_interpolates_the_positions(
    size: list[int], grid: tuple[int, int], registers: int, tmp_path: Path
) -> None:
    """As DINOv2 does: by a scale with 0.1 patches added, or to a size without aliasing where there are registers."""
    weights = dinov2_weights(registers=registers, grid=5)
    extractor = imported(weights, tmp_path, image_size=size)
    rows, columns = grid
    height, width = size if len(size) == 2 else (size[0], size[0])
    examples = images(3, 3, height, width)
    by = {} if registers else {"scale_factor": ((rows + 0.1) / 5, (columns + 0.1) / 5)}
    positions = with_positions(weights, rows, columns, antialias=registers > 0, **by)
    found = tokens_of(weights, normalised(examples), positions, num_heads=1)[:, 1 + registers :]
    assert_near(extractor(examples), found.mT.unflatten(2, grid))


def test_interpolated_positions_are_those_of_cubic_convolution() -> None:
    """Keys, "Cubic convolution interpolation", 1981, equation 4 with a = -3/4, repeated at the edges."""
    positions = torch.randn(25, 3, generator=torch.Generator().manual_seed(0))
    found = resized_positions(positions, 3, 7, offset=0.1, antialias=False)
    by_row, by_column = (cubic_convolution(5, size, 5 / (size + 0.1)) for size in (3, 7))
    expected = np.einsum("ri,cj,ijd->drc", by_row, by_column, positions.double().numpy().reshape(5, 5, 3))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def cubic_convolution(old: int, new: int, step: float, a: float = -0.75) -> NDArray[np.float64]:
    """Matrix [new, old]."""
    matrix = np.zeros((new, old))
    for row in range(new):
        centre = (row + 0.5) * step - 0.5
        for place in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            s = abs(centre - place)
            near, far = (a + 2) * s**3 - (a + 3) * s**2 + 1, a * (s**3 - 5 * s**2 + 8 * s - 4)
            matrix[row, min(max(place, 0), old - 1)] += near if s <= 1 else far
    return matrix


def test_interpolated_positions_without_aliasing_are_those_of_pillow() -> None:
    positions = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    found = resized_positions(positions, 3, 5, offset=0.0, antialias=True)
    for values, own in zip(positions.T.reshape(2, 8, 8).numpy(), found.numpy(), strict=True):
        expected = np.asarray(Image.fromarray(values).resize((5, 3), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(own, expected, atol=1e-5)


def test_the_same_grid_keeps_its_positions_and_another_shape_of_as_many_patches_takes_them_as_they_are() -> None:
    positions = torch.randn(16, 2)
    same = resized_positions(positions, 4, 4, offset=0.1, antialias=False)
    assert torch.equal(same.flatten(1).T, positions)
    oblong = resized_positions(positions[:15], 3, 5, offset=0.1, antialias=False)
    assert torch.equal(oblong.flatten(1).T, positions[:15])


@each("registers", [0, 2])
@each("prefix", ["", "dinov2."])
def test_the_names_of_transformers_give_the_same_dinov2(prefix: str, registers: int, tmp_path: Path) -> None:
    weights, examples = dinov2_weights(registers=registers), images(2, 3, 12, 12)
    other = {prefix + name: value for name, value in renamed(weights, "dinov2").items()}
    expected = imported(weights, tmp_path)(examples)
    assert torch.equal(imported(other, tmp_path, "transformers-dinov2")(examples), expected)


def test_the_names_of_transformers_give_the_same_plain_transformer(tmp_path: Path) -> None:
    """Its images are normalised to lie from -1 to 1, and its head is left out."""
    weights, examples = dinov2_weights(scales=False), images(2, 3, 12, 12)
    other = {f"vit.{name}": value for name, value in renamed(weights, "vit").items()}
    other |= {"vit.pooler.dense.weight": torch.ones(2, 2), "classifier.bias": torch.ones(7)}
    found = imported(other, tmp_path, "transformers-vit")(examples)
    expected = tokens_of(weights, examples, weights["pos_embed"], num_heads=1, eps=1e-12)[:, 1:]
    assert_near(found, expected.mT.unflatten(2, (3, 3)))


@each("size", [12, 20])
@each("kind", ["Dinov2", "Dinov2WithRegisters", "ViT"])
def test_tokens_are_those_of_the_package_transformers(kind: str, size: int, tmp_path: Path) -> None:
    package = pytest.importorskip("transformers")
    settings = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 256}
    config = getattr(package, f"{kind}Config")(**settings, image_size=12, patch_size=4)
    torch.manual_seed(0)
    model = getattr(package, f"{kind}Model")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "saved")  # in the names of published files, whatever the package calls them
    weights = load_file(tmp_path / "saved" / "model.safetensors")
    layout, ways = (
        ("transformers-vit", {"interpolate_pos_encoding": True}) if kind == "ViT" else ("transformers-dinov2", {})
    )
    extractor = imported(weights, tmp_path, layout, num_heads=2, image_size=[size])
    examples = images(2, 3, size, size)
    with torch.no_grad():
        found = model(pixel_values=examples if kind == "ViT" else normalised(examples), **ways).last_hidden_state
    patches = found[:, -((size // 4) ** 2) :].mT.unflatten(2, (size // 4, size // 4))
    assert_near(extractor(examples), patches)


@pytest.mark.parametrize("size", [12, 20])
def test_tokens_are_those_of_the_package_timm(size: int, tmp_path: Path) -> None:
    """The names of its transformers are those of DINOv2."""
    package = pytest.importorskip("timm.models.vision_transformer")
    torch.manual_seed(0)
    model = package.VisionTransformer(12, 4, embed_dim=64, depth=2, num_heads=2, num_classes=0, init_values=0.5).eval()
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    if size != 12:
        weights |= {"pos_embed": with_positions(weights, 5, 5, antialias=True)}
        model.set_input_size((size, size))
        model.load_state_dict(weights)
    extractor, examples = imported(weights, tmp_path, num_heads=2), images(2, 3, size, size)
    with torch.no_grad():
        expected = model.forward_features(normalised(examples))[:, 1:].mT.unflatten(2, (size // 4, size // 4))
    assert_near(extractor(examples), expected)


def test_grey_images_of_another_size_are_resized_and_repeated(tmp_path: Path) -> None:
    weights = dinov2_weights()
    extractor = imported(weights, tmp_path, mean=[0.25], std=[0.125])
    check_extractor(tmp_path / "features.safetensors", (1, 6, 6))
    grey = images(2, 1, 6, 6)
    large = interpolate(grey, (12, 12), mode="bilinear", antialias=True).expand(-1, 3, -1, -1)
    scaled = ((large + 1) / 2 - 0.25) / 0.125
    expected = tokens_of(weights, scaled, weights["pos_embed"], num_heads=1)[:, 1:].mT.unflatten(2, (3, 3))
    assert_near(extractor(grey), expected)


def test_halves_become_floats_and_nothing_learns(tmp_path: Path) -> None:
    weights = {name: value.bfloat16() for name, value in dinov2_weights().items()}
    extractor, examples = imported(weights, tmp_path), images(2, 3, 12, 12).requires_grad_()
    floats = {name: value.float() for name, value in weights.items()}
    assert torch.equal(extractor(examples), imported(floats, tmp_path)(examples))
    assert not extractor(examples).requires_grad


Change = Callable[[Weights], object]
REFUSED: dict[str, tuple[Change, dict[str, Any], str]] = {
    "a missing tensor": (lambda w: w.pop("blocks.1.attn.proj.bias"), {}, "blocks.1.attn.proj.bias: is missing"),
    "a missing block": (
        lambda w: [w.pop(name) for name in list(w) if name.startswith("blocks.0.")],
        {},
        "blocks.0.norm1.weight: is missing",
    ),
    "half the layer scales": (lambda w: w.pop("blocks.1.ls2.gamma"), {}, "blocks.1.ls2.gamma: is missing"),
    "another width": (lambda w: w.update(cls_token=torch.ones(1, 1, 3)), {}, "cls_token: has shape [1, 1, 3]"),
    "another hidden width": (
        lambda w: w.update({"blocks.1.mlp.fc1.weight": torch.ones(8, 64)}),
        {},
        "blocks.1.mlp.fc1.weight: has shape [8, 64] where [256, 64] is needed",
    ),
    "positions of no patch": (
        lambda w: w.update(pos_embed=torch.ones(1, 1, 64)),
        {},
        "pos_embed: has positions of 0 patches",
    ),
    "an oblong grid": (
        lambda w: w.update(pos_embed=torch.ones(1, 7, 64)),
        {},
        "pos_embed: has positions of 6 patches, which form no square; give --image-size",
    ),
    "an oblong grid of another size": (
        lambda w: w.update(pos_embed=torch.ones(1, 7, 64)),
        {"image_size": [8, 16]},
        "pos_embed: has positions of 6 patches, which form no square that could be interpolated",
    ),
    "whole numbers": (lambda w: w.update(cls_token=torch.ones(1, 1, 64).int()), {}, "cls_token: is of type I32"),
    "no number": (lambda w: w["cls_token"].fill_(float("nan")), {}, "cls_token: contains values that are not finite"),
    "a gated perceptron": (
        lambda w: w.update({"blocks.0.mlp.w12.weight": torch.ones(2)}),
        {},
        "blocks.0.mlp.w12.weight: belongs to no part of a network of layout dinov2",
    ),
}


@each("case", REFUSED)
def test_other_weights_are_refused_in_one_line(case: str, tmp_path: Path) -> None:
    change, settings, words = REFUSED[case]
    weights = dinov2_weights()
    change(weights)
    with pytest.raises(Refusal) as refusal:
        imported(weights, tmp_path, **settings)
    line = str(refusal.value)
    assert line.startswith(f"{tmp_path / 'weights.safetensors'}: {words}")
    assert "\n" not in line
    assert "; " in line
    assert not (tmp_path / "features.safetensors").exists()


def test_the_grid_of_an_oblong_file_is_given_by_the_image_size(tmp_path: Path) -> None:
    weights = dinov2_weights() | {"pos_embed": torch.randn(1, 7, 64)}
    extractor, examples = imported(weights, tmp_path, image_size=[8, 12]), images(2, 3, 8, 12)
    expected = tokens_of(weights, normalised(examples), weights["pos_embed"], num_heads=1)[:, 1:]
    assert_near(extractor(examples), expected.mT.unflatten(2, (2, 3)))


@pytest.mark.parametrize("layout", ["dinov2", "transformers-vit"])
def test_another_layout_is_refused_and_the_others_are_named(layout: str, tmp_path: Path) -> None:
    weights = renamed(dinov2_weights(), "dinov2")
    with pytest.raises(Refusal, match=rf"is missing; .* layout {layout}, or another --layout \(.*transformers-dinov2"):
        imported(weights, tmp_path, layout)


@each(
    ("settings", "words"),
    [
        ({"layout": "clip"}, "--layout: clip is unknown; use dinov2, transformers-dinov2, transformers-vit"),
        ({"image_size": [13]}, "--image-size: 13 is not a multiple of the 4 pixels of a patch; use 12"),
        ({"image_size": [12, 1]}, "--image-size: 1 is not a multiple of the 4 pixels of a patch; use 4"),
        ({"image_size": [0]}, "--image-size: 0 is not a multiple"),
        ({"image_size": [4, 4, 4]}, "--image-size: 3 numbers"),
        ({"num_heads": 3}, "--num-heads: 3 heads do not divide the width 64"),
        ({"num_heads": 0}, "--num-heads: 0 heads"),
        ({"mean": [0.1, 0.2]}, "--mean: 2 values for 3 channels; give 1 or 3"),
        ({"mean": [float("nan")]}, "--mean: [nan] are not all finite"),
        ({"std": [0.0]}, "--std: 0.0 is not a standard deviation"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^(?=.*; ){re.escape(words)}"):
        imported(dinov2_weights(), tmp_path, **settings)
    assert not (tmp_path / "features.safetensors").exists()


def test_heads_of_a_width_that_is_no_multiple_of_64_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^--num-heads: is needed because the width 48"):
        imported(dinov2_weights(width=48), tmp_path)


def test_the_weights_are_never_overwritten_and_a_pickle_is_never_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(dinov2_weights(), path)
    with pytest.raises(ValueError, match=r"^--out: .* is the file of the weights"):
        import_extractor(path, "dinov2", path)
    torch.save(dinov2_weights(), path)
    with pytest.raises(Refusal, match=r"is a pickle, which can run any code .*weights_only=True.*-converted"):
        import_extractor(path, "dinov2", tmp_path / "out")
    for file in (tmp_path / "none", tmp_path):
        with pytest.raises(Refusal, match=r"weights: cannot be read .*; give a file that safetensors"):
            import_extractor(file, "dinov2", tmp_path / "features.safetensors")
