"""Tensor names and settings of published networks. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of the red, green and blue channels of images with values from 0 to 1."""

Resize = Literal["antialiased", "bilinear", "tensorflow"]
"""How images of another size are resized, see :class:`trainer.model.feature_extractor.extractor.Extractor`."""

TokensTaken = Literal["patches", "class", "mean"]
"""What becomes the features: the token of each patch, the class token, or the mean over the patches."""


@dataclass(frozen=True)
class PublishedLayout:
    """The names of one family of files (modules without ``.weight`` and ``.bias``), and settings that no tensor shows.

    Attributes:
        registers: [1, R, D]; a file may lack them.
        positions: [1, 1 + patches, D], that of the class token first.
        block: prefix of the names of a block, with {} for its number.
        modules: for each module of an ``AttentionBlock``, those of the file; the rows of several are concatenated.
        scales: for each layer scale of an ``AttentionBlock``, that of the file; a file may lack all of them.
        unused: prefixes of the names of tensors that features do not need.
        prefix: optional prefix of all names.
        position_offset: of interpolated position embeddings if there are no registers.
    """

    class_token: str
    registers: str
    positions: str
    patches: str
    block: str
    modules: Mapping[str, tuple[str, ...]]
    scales: Mapping[str, str]
    norm: str
    unused: tuple[str, ...]
    prefix: str = ""
    eps: float = 1e-6
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    position_offset: float = 0.0


_TRANSFORMERS_ATTENTION = {
    "query_key_value": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "projection": ("attention.output.dense",),
}

_TRANSFORMERS_DINOV2 = PublishedLayout(
    class_token="embeddings.cls_token",
    registers="embeddings.register_tokens",
    positions="embeddings.position_embeddings",
    patches="embeddings.patch_embeddings.projection",
    block="encoder.layer.{}.",
    norm="layernorm",
    modules={
        "norm_1": ("norm1",),
        **_TRANSFORMERS_ATTENTION,
        "norm_2": ("norm2",),
        "expansion": ("mlp.fc1",),
        "contraction": ("mlp.fc2",),
    },
    scales={"scale_1": "layer_scale1.lambda1", "scale_2": "layer_scale2.lambda1"},
    unused=("embeddings.mask_token", "classifier."),
    prefix="dinov2.",
)

LAYOUTS: Mapping[str, PublishedLayout] = {
    "dinov2": PublishedLayout(
        class_token="cls_token",
        registers="register_tokens",
        positions="pos_embed",
        patches="patch_embed.proj",
        block="blocks.{}.",
        modules={
            "norm_1": ("norm1",),
            "query_key_value": ("attn.qkv",),
            "projection": ("attn.proj",),
            "norm_2": ("norm2",),
            "expansion": ("mlp.fc1",),
            "contraction": ("mlp.fc2",),
        },
        scales={"scale_1": "ls1.gamma", "scale_2": "ls2.gamma"},
        norm="norm",
        unused=("mask_token", "head."),
        position_offset=0.1,
    ),
    "transformers-dinov2": _TRANSFORMERS_DINOV2,
    "transformers-vit": replace(
        _TRANSFORMERS_DINOV2,
        modules={
            "norm_1": ("layernorm_before",),
            **_TRANSFORMERS_ATTENTION,
            "norm_2": ("layernorm_after",),
            "expansion": ("intermediate.dense",),
            "contraction": ("output.dense",),
        },
        scales={},
        unused=("embeddings.mask_token", "pooler.", "classifier."),
        prefix="vit.",
        eps=1e-12,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    ),
}
"""By name: the authors' files of DINOv2, whose names timm shares, and ``Dinov2Model`` and ``ViTModel`` of the package
transformers."""


@dataclass(frozen=True)
class PublishedInception:
    """An Inception v3 in a file with torchvision's names, and how images are prepared for it.

    The classifier, of no use to features, has `num_classes` rows, which tell the networks apart. `mean` is subtracted
    from images from -1 to 1, which are then divided by `std`. Tensors with a prefix in `unused` are not read.
    """

    pools: Literal["torchvision", "fid"]
    num_classes: int
    resize: Resize
    mean: float = 0.0
    std: float = 1.0
    prefix: str = ""
    unused: tuple[str, ...] = ("AuxLogits.", "fc.")


INCEPTIONS: Mapping[str, PublishedInception] = {
    "inception-torchvision": PublishedInception("torchvision", 1000, "antialiased"),
    "inception-fid": PublishedInception("fid", 1008, "bilinear"),
    "inception-fid-tensorflow": PublishedInception("fid", 1008, "tensorflow", mean=0.5 / 127.5, std=128 / 127.5),
}
"""By name: torchvision's ``inception_v3``; the network of FID that pytorch-fid publishes as
``pt_inception-2015-12-05``, with images prepared as pytorch-fid does; and the same network with images prepared as in
the graph of TensorFlow that it was taken from, whose figures papers on ImageNet give (pixels (p - 128) / 128)."""
