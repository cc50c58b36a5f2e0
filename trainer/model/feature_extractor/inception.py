"""Inception v3 up to its pooled features, put together from the plain layers of a feature extractor.

Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", arXiv 1512.00567, with the names
and sizes of torchvision's ``inception_v3``. The network that the figure FID is defined by (Heusel et al., 2017) is the
same, but for its pools: means that leave out the zeros around the image, and a maximum in the last block.
"""

from collections.abc import Mapping
from typing import Literal

from torch import nn

from trainer.model.feature_extractor.layers import Branches
from trainer.model.feature_extractor.published_weights import PublishedWeights

Pools = Literal["torchvision", "fid"]
FEATURES = 2048
EPS = 1e-3
"""Epsilon of batch normalisation."""
SIDE = 299
"""Pixels of the images that the weights were trained on, in each direction."""

Kernel = int | tuple[int, int]


class Inception:
    """Network from images [N, 3, H, W], H and W from 75, to features [N, 2048], and convolutions by published name."""

    def __init__(self, pools: Pools) -> None:
        """Makes the modules with torchvision's or FID's pools, on the default device."""
        self.convolutions: dict[str, tuple[nn.Conv2d, nn.BatchNorm2d]] = {}
        self._counts_zeros = pools == "torchvision"
        self.network = nn.Sequential(
            *self._convolution("Conv2d_1a_3x3", 3, 32, 3, stride=2, padded=False),
            *self._convolution("Conv2d_2a_3x3", 32, 32, 3, padded=False),
            *self._convolution("Conv2d_2b_3x3", 32, 64, 3),
            nn.MaxPool2d(3, 2),
            *self._convolution("Conv2d_3b_1x1", 64, 80, 1),
            *self._convolution("Conv2d_4a_3x3", 80, 192, 3, padded=False),
            nn.MaxPool2d(3, 2),
            self._wide("Mixed_5b", 192, 32),
            self._wide("Mixed_5c", 256, 64),
            self._wide("Mixed_5d", 288, 64),
            self._first_reduction("Mixed_6a", 288),
            self._factored("Mixed_6b", 768, 128),
            self._factored("Mixed_6c", 768, 160),
            self._factored("Mixed_6d", 768, 160),
            self._factored("Mixed_6e", 768, 192),
            self._second_reduction("Mixed_7a", 768),
            self._expanded("Mixed_7b", 1280, self._mean()),
            self._expanded("Mixed_7c", 2048, nn.MaxPool2d(3, 1, 1) if pools == "fid" else self._mean()),
            nn.AdaptiveAvgPool2d((1, 1)),
            nn.Flatten(),
        ).eval()

    def fill(self, weights: PublishedWeights) -> None:
        for name, (convolution, norm) in self.convolutions.items():
            kernel = weights.take(f"{name}.conv.weight", tuple(convolution.weight.shape))
            convolution.load_state_dict({"weight": kernel}, assign=True)
            parts = ("weight", "bias", "running_mean", "running_var")
            values = {part: weights.take(f"{name}.bn.{part}", (norm.num_features,)) for part in parts}
            norm.load_state_dict(values, strict=False, assign=True)

    def _convolution(
        self, name: str, inputs: int, outputs: int, kernel: Kernel, *, stride: int = 1, padded: bool = True
    ) -> list[nn.Module]:
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, width // 2) if padded else (0, 0)
        convolution = nn.Conv2d(inputs, outputs, (height, width), stride, padding, bias=False)
        norm = nn.BatchNorm2d(outputs, eps=EPS)
        self.convolutions[name] = convolution, norm
        return [convolution, norm, nn.ReLU()]

    def _chain(
        self, inputs: int, convolutions: Mapping[str, tuple[int, Kernel]], *, reduces: bool = False
    ) -> nn.Sequential:
        """Convolutions one after the other, by name; a reducing chain's last one has stride 2 and no padding."""
        layers: list[nn.Module] = []
        for number, (name, (outputs, kernel)) in enumerate(convolutions.items(), start=1):
            last = reduces and number == len(convolutions)
            layers += self._convolution(name, inputs, outputs, kernel, stride=1 + last, padded=not last)
            inputs = outputs
        return nn.Sequential(*layers)

    def _mean(self) -> nn.Module:
        return nn.AvgPool2d(3, 1, 1, count_include_pad=self._counts_zeros)

    def _pooled(self, name: str, inputs: int, outputs: int, pool: nn.Module) -> nn.Sequential:
        return nn.Sequential(pool, *self._convolution(f"{name}.branch_pool", inputs, outputs, 1))

    def _wide(self, name: str, inputs: int, pooled: int) -> Branches:
        """Figure 5 of the paper, with one branch of 5 x 5."""
        double = f"{name}.branch3x3dbl"
        return _side_by_side(
            self._chain(inputs, {f"{name}.branch1x1": (64, 1)}),
            self._chain(inputs, {f"{name}.branch5x5_1": (48, 1), f"{name}.branch5x5_2": (64, 5)}),
            self._chain(inputs, {f"{double}_1": (64, 1), f"{double}_2": (96, 3), f"{double}_3": (96, 3)}),
            self._pooled(name, inputs, pooled, self._mean()),
        )

    def _first_reduction(self, name: str, inputs: int) -> Branches:
        """Figure 10 of the paper: a grid of half the places."""
        double = f"{name}.branch3x3dbl"
        chain = {f"{double}_1": (64, 1), f"{double}_2": (96, 3), f"{double}_3": (96, 3)}
        return _side_by_side(
            self._chain(inputs, {f"{name}.branch3x3": (384, 3)}, reduces=True),
            self._chain(inputs, chain, reduces=True),
            nn.Sequential(nn.MaxPool2d(3, 2)),
        )

    def _factored(self, name: str, inputs: int, inner: int) -> Branches:
        """Figure 6 of the paper: 7 x 7 as 1 x 7 and 7 x 1."""
        one, two = f"{name}.branch7x7", f"{name}.branch7x7dbl"
        flat, tall = (1, 7), (7, 1)
        first = {f"{two}_1": (inner, 1), f"{two}_2": (inner, tall)}
        last = {f"{two}_3": (inner, flat), f"{two}_4": (inner, tall), f"{two}_5": (192, flat)}
        return _side_by_side(
            self._chain(inputs, {f"{name}.branch1x1": (192, 1)}),
            self._chain(inputs, {f"{one}_1": (inner, 1), f"{one}_2": (inner, flat), f"{one}_3": (192, tall)}),
            self._chain(inputs, first | last),
            self._pooled(name, inputs, 192, self._mean()),
        )

    def _second_reduction(self, name: str, inputs: int) -> Branches:
        long = f"{name}.branch7x7x3"
        chain = {f"{long}_1": (192, 1), f"{long}_2": (192, (1, 7)), f"{long}_3": (192, (7, 1)), f"{long}_4": (192, 3)}
        return _side_by_side(
            self._chain(inputs, {f"{name}.branch3x3_1": (192, 1), f"{name}.branch3x3_2": (320, 3)}, reduces=True),
            self._chain(inputs, chain, reduces=True),
            nn.Sequential(nn.MaxPool2d(3, 2)),
        )

    def _expanded(self, name: str, inputs: int, pool: nn.Module) -> Branches:
        """Figure 7 of the paper: 3 x 3 as 1 x 3 beside 3 x 1."""
        one, two = f"{name}.branch3x3", f"{name}.branch3x3dbl"
        return _side_by_side(
            self._chain(inputs, {f"{name}.branch1x1": (320, 1)}),
            nn.Sequential(*self._chain(inputs, {f"{one}_1": (384, 1)}), self._cross(f"{one}_2")),
            nn.Sequential(*self._chain(inputs, {f"{two}_1": (448, 1), f"{two}_2": (384, 3)}), self._cross(f"{two}_3")),
            self._pooled(name, inputs, 192, pool),
        )

    def _cross(self, name: str) -> Branches:
        return _side_by_side(
            self._chain(384, {f"{name}a": (384, (1, 3))}), self._chain(384, {f"{name}b": (384, (3, 1))})
        )


def _side_by_side(*branches: nn.Sequential) -> Branches:
    return Branches(branches, "concatenate")
