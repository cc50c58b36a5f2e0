"""Inception in files: torchvision's own network as the reference, and that of FID put together from its blocks."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from netsim.foundation.refusal import Refusal
from tests.each import each
from tests.trainer.commands import refused
from trainer.model.feature_extractor.extractor import describe_extractor, read_extractor, resized
from trainer.model.feature_extractor.importing import import_extractor

inception = pytest.importorskip("torchvision.models.inception")


class PoolA(inception.InceptionA):
    def _forward(self, x: Tensor) -> list[Tensor]:
        *others, _ = super()._forward(x)
        return [*others, self.branch_pool(functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False))]


class PoolC(inception.InceptionC):
    def _forward(self, x: Tensor) -> list[Tensor]:
        *others, _ = super()._forward(x)
        return [*others, self.branch_pool(functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False))]


class PoolE1(inception.InceptionE):
    def _forward(self, x: Tensor) -> list[Tensor]:
        *others, _ = super()._forward(x)
        return [*others, self.branch_pool(functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False))]


class PoolE2(inception.InceptionE):
    def _forward(self, x: Tensor) -> list[Tensor]:
        *others, _ = super()._forward(x)
        return [*others, self.branch_pool(functional.max_pool2d(x, 3, 1, 1))]


def reference(layout: str) -> nn.Module:
    """A network of torchvision's blocks with random weights and statistics, whose classifier passes features on."""
    fid = layout != "inception-torchvision"
    a, c = (PoolA, PoolC) if fid else (inception.InceptionA, inception.InceptionC)
    blocks = [inception.BasicConv2d, a, inception.InceptionB, c, inception.InceptionD, inception.InceptionE, None]
    network = inception.Inception3(1008 if fid else 1000, aux_logits=False, inception_blocks=blocks, init_weights=False)
    if fid:
        network.Mixed_7b, network.Mixed_7c = PoolE1(1280), PoolE2(2048)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in (*network.named_parameters(), *network.named_buffers()):
            if name.endswith("conv.weight"):
                value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
            elif name.endswith(("bn.weight", "running_var")):
                value.uniform_(0.8, 1.2, generator=generator)
            elif name.endswith(("bn.bias", "running_mean")):
                value.normal_(0, 0.1, generator=generator)
    return network.eval()


def features_of(network: nn.Module, images: Tensor) -> Tensor:
    network.fc = nn.Identity()
    with torch.no_grad():
        return network(images)


LAYOUTS = [
    "inception-fid",
    pytest.param("inception-torchvision", marks=pytest.mark.slow),
    pytest.param("inception-fid-tensorflow", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=LAYOUTS)
def imported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, nn.Module, Path]:
    folder = tmp_path_factory.mktemp("inception")
    network = reference(request.param)
    save_file(network.state_dict(), folder / "published.safetensors")
    import_extractor(folder / "published.safetensors", request.param, folder / "features.safetensors")
    (folder / "published.safetensors").unlink()
    return request.param, network, folder / "features.safetensors"


def test_the_network_is_torchvisions(imported: tuple[str, nn.Module, Path]) -> None:
    """On small images, which the convolutions and pools take as well; the pools make a difference."""
    _, network, path = imported
    images = torch.randn(2, 3, 91, 83, generator=torch.Generator().manual_seed(1))
    extractor = read_extractor(path)
    expected = features_of(network, images)
    with torch.no_grad():
        found = extractor.network(images)
    assert found.shape == (2, 2048)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert expected.std() > 0.01
    assert describe_extractor(path).startswith(f"{path}: features [2048] of examples [3, 299, 299]; ")


@pytest.mark.slow
def test_images_are_prepared_as_the_published_code_prepares_them(imported: tuple[str, nn.Module, Path]) -> None:
    layout, network, path = imported
    pixels = torch.randint(0, 256, (2, 3, 64, 48), generator=torch.Generator().manual_seed(2))
    examples = pixels / 127.5 - 1 + 0.2 / 127.5  # less than half a level: rounded away
    if layout == "inception-torchvision":  # torchvision's transform_input takes the mean of ImageNet out again
        prepared = functional.interpolate(pixels / 127.5 - 1, (299, 299), mode="bilinear", antialias=True)
    elif layout == "inception-fid":
        prepared = 2 * functional.interpolate(pixels / 255, (299, 299), mode="bilinear", align_corners=False) - 1
    else:
        prepared = (by_hand(pixels.double().numpy(), 299, 299).float() - 128) * 0.0078125
    found = read_extractor(path).features(examples)
    np.testing.assert_allclose(found, features_of(network, prepared).numpy(), rtol=2e-4, atol=2e-5)


def by_hand(images: Any, height: int, width: int) -> Tensor:
    """The first TensorFlow's bilinear interpolation, pixel by pixel."""
    result = np.zeros((*images.shape[:2], height, width))
    for row in range(height):
        for column in range(width):
            y, x = row * images.shape[2] / height, column * images.shape[3] / width
            top, left = int(y), int(x)
            bottom, right = min(top + 1, images.shape[2] - 1), min(left + 1, images.shape[3] - 1)
            upper = images[..., top, left] * (1 - (x - left)) + images[..., top, right] * (x - left)
            lower = images[..., bottom, left] * (1 - (x - left)) + images[..., bottom, right] * (x - left)
            result[..., row, column] = upper * (1 - (y - top)) + lower * (y - top)
    return torch.from_numpy(result)


@pytest.mark.parametrize(("height", "width"), [(9, 13), (3, 4), (6, 20)])
def test_the_first_tensorflows_interpolation(height: int, width: int) -> None:
    images = torch.randn(2, 3, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        resized(images, (height, width), "tensorflow"), by_hand(images.numpy(), height, width), rtol=1e-6, atol=1e-6
    )
    assert resized(images, (6, 8), "tensorflow") is images


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    with torch.device("meta"):
        network = inception.Inception3(1008, aux_logits=False, init_weights=False)
    return {name: torch.zeros(value.shape, dtype=torch.bfloat16) for name, value in network.state_dict().items()}


@each(
    ("name", "shape", "complaint"),
    [
        ("Mixed_6c.branch_pool.conv.weight", None, "is missing; give a whole file of layout inception-fid"),
        ("Mixed_7a.branch3x3_1.conv.weight", (192, 768, 3, 3), "has shape [192, 768, 3, 3] where [192, 768, 1, 1]"),
        ("Mixed_8a.conv.weight", (1,), "belongs to no part of a network of layout inception-fid"),
        ("fc.weight", (1000, 2048), "names 1000 classes, "),
        ("Conv2d_1a_3x3.bn.running_var", (32,), "contains values that are not finite"),
    ],
)
def test_other_weights_are_refused(
    name: str, shape: tuple[int, ...] | None, complaint: str, published: dict[str, Tensor], tmp_path: Path
) -> None:
    weights = {other: value for other, value in published.items() if shape or other != name}
    if shape:
        weights[name] = torch.full(shape, torch.inf if "running_var" in name else 0.0)
    save_file(weights, tmp_path / "weights")
    with pytest.raises(Refusal, match=re.escape(f"{name}: {complaint}")) as refusal:
        import_extractor(tmp_path / "weights", "inception-fid", tmp_path / "out")
    assert (name != "fc.weight") or "use --layout inception-torchvision" in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_a_pickle_is_refused_with_the_line_that_converts_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pickle = tmp_path / "pt_inception.pth"
    torch.save({"fc.weight": torch.arange(6.0).view(2, 3).T}, pickle)
    said = refused(capsys, "import-features", pickle, "--layout", "inception-fid", "--out", tmp_path / "out")
    start = f"{pickle}: weights: is a pickle, which can run any code when it is read; convert it once: python -c "
    assert said.startswith(start)
    code = said.removeprefix(start).strip('"')
    exec(code, {})
    said = refused(
        capsys,
        *("import-features", tmp_path / "pt_inception.safetensors", "--layout", "inception-fid"),
        *("--out", tmp_path / "out"),
    )
    assert "Conv2d_1a_3x3.conv.weight: is missing" in said


def test_settings_of_transformers_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("import-features", tmp_path / "weights", "--layout", "inception-fid", "--out", tmp_path / "out")
    assert refused(capsys, *words, "--num-heads", "2") == (
        "--num-heads: inception-fid has settings of its own; leave it out"
    )
