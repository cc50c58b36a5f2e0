"""Feature extractors: a network in a file, and the preparation of examples; no code of a file runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, model_validator
from pydantic_core import from_json
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from netsim.foundation.complaint import first_complaint
from netsim.foundation.files import replacing
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.model.feature_extractor.layers import Layer, build_layers, describe_layers
from trainer.model.feature_extractor.published import Resize

BATCH = 128
"""Examples that go through the network at once."""


class Description(Section):
    """The description of an extractor in the metadata of its file."""

    format: Literal["flowfabric.features/1"] = "flowfabric.features/1"
    shape: Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=3)]
    """Shape of one example: [C, H, W] of an image, [D] of a point."""
    mean: Annotated[tuple[float, ...], Field(min_length=1)] = (0.0,)
    """Mean that is subtracted from each channel, in units of the run's examples; the values of images lie from -1 to
    1."""
    std: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1.0,)
    """Standard deviation that each channel is divided by after the mean is subtracted."""
    resize: Resize = "antialiased"
    """How images of another size are resized."""
    eight_bits: bool = False
    """Whether images are first clipped and rounded to the 256 values of a file of pictures."""
    layers: Annotated[tuple[Layer, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _channels_agree(self) -> "Description":
        if len(self.shape) == 2:
            raise ValueError(f"shape: {list(self.shape)} is neither an image [C, H, W] nor a point [D]; give one")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.shape[0]):
                raise ValueError(f"{name}: {len(values)} values for {self.shape[0]} channels; give 1 or as many")
        return self


class Extractor:
    """A network in evaluation mode and the preparation of examples for it; grey images are repeated.

    Images are resized by bilinear interpolation, on which figures depend (Parmar, Zhang and Zhu, 2022):
    ``antialiased``; ``bilinear``, without, as pytorch-fid does; ``tensorflow``, which aligns the corners of pixels, not
    their centres, as did the first TensorFlow, with which published FIDs are computed.
    """

    def __init__(self, network: nn.Sequential, description: Description, device: torch.device) -> None:
        self.network, self.device, self._description = network, device, description
        ones = (1,) * (len(description.shape) - 1)
        self._mean, self._std = (torch.tensor(values).view(-1, *ones) for values in (description.mean, description.std))

    @torch.no_grad()
    def features(self, examples: Tensor) -> NDArray[np.float32]:
        """Features [N, F] of examples [N, *shape], or of images [N, 1 or C, any height, any width]."""
        parts = [self(part.to(self.device)).flatten(1).cpu() for part in examples.split(BATCH)]
        return torch.cat(parts).numpy()

    @torch.no_grad()
    def together(self, batches: Sequence[Tensor]) -> Tensor:
        """The features [N, ...] of several batches, each with a shape of its own, computed in one pass."""
        return self.network(torch.cat([self.prepare(batch) for batch in batches]))

    @torch.no_grad()
    def __call__(self, examples: Tensor) -> Tensor:
        return self.network(self.prepare(examples))

    def prepare(self, examples: Tensor) -> Tensor:
        """Resizes examples, repeats grey channels and normalises; float32 [N, *shape]."""
        examples, description = examples.float(), self._description
        if description.eight_bits:
            examples = ((examples.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
        if len(description.shape) == 3:
            channels, *size = description.shape
            examples = resized(examples, tuple(size), description.resize).expand(-1, channels, -1, -1)
        return (examples - self._mean.to(examples.device)) / self._std.to(examples.device)


def resized(images: Tensor, size: tuple[int, ...], method: Resize) -> Tensor:
    """Images [N, C, H, W] at another height and width in pixels, by bilinear interpolation."""
    if tuple(images.shape[2:]) == size:
        return images
    if method != "tensorflow":
        return interpolate(images, size, mode="bilinear", antialias=method == "antialiased")
    for dimension, pixels in ((2, size[0]), (3, size[1])):
        before = images.shape[dimension]
        place = torch.arange(pixels, device=images.device) * (before / pixels)
        low = place.long()
        high = (low + 1).clamp(max=before - 1)
        share = (place - low).to(images).view(-1, *(1,) * (3 - dimension))
        one, other = (images.index_select(dimension, rows) for rows in (low, high))
        images = one + share * (other - one)
    return images


KEY = "extractor"
"""The key of the metadata that holds the description."""
_REMEDY = "write it with python -m trainer features CONFIG --out FILE, or with import-features from published weights"
_MISFITS = (RuntimeError, ValueError, TypeError, OverflowError)
"""What torch raises if sizes do not fit each other or are too large."""
FLOATING = ("F16", "BF16", "F32", "F64")
"""Types of numbers that a tensor may have."""
_COUNTER = "num_batches_tracked"
"""The step counter of batch normalisation, which only training needs; a file does not hold it."""


def write_extractor(
    network: nn.Sequential,
    path: Path,
    shape: Sequence[int],
    *,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    resize: Resize = "antialiased",
    eight_bits: bool = False,
) -> None:
    """Writes a network of modules that ``describe_layers`` takes as a feature extractor.

    Means m and standard deviations s are mostly published of images from 0 to 1; here values are from -1 to 1, so give
    2 m - 1 and 2 s. Other arguments are those of :class:`Extractor`.

    Raises:
        ValueError: a file cannot hold a module or a setting; the message names it.
        Refusal: the network does not take examples of that shape, or a weight is not finite. No file is written.
    """
    description = Description.model_validate(
        {
            **{"shape": tuple(shape), "mean": tuple(mean), "std": tuple(std)},
            **{"resize": resize, "eight_bits": eight_bits, "layers": describe_layers(network)},
        }
    )
    tensors = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in network.state_dict().items()
        if not name.endswith(_COUNTER)
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={KEY: description.model_dump_json()})
        read_extractor(temporary)


def check_extractor(path: Path, shape: Sequence[int]) -> None:
    """Refuses a file that cannot give features of examples of a shape; the tensors are not read."""
    description, _, _ = _described(path)
    wanted, present = description.shape, tuple(shape)
    images = len(wanted) == len(present) == 3
    if not images and wanted != present:
        raise Refusal(path, "shape", f"is {list(wanted)} but the run has {list(present)}", "give one made for it")
    if images and present[0] not in (1, wanted[0]):
        raise Refusal(
            path, "shape", f"has {wanted[0]} channels but the run's images have {present[0]}", "give one made for them"
        )


def read_extractor(path: Path, device: torch.device | None = None) -> Extractor:
    """Reads an extractor in evaluation mode and in float32, on the CPU if no device is given."""
    description, network, _ = _described(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    for name, value in tensors.items():
        if not bool(value.isfinite().all()):
            raise Refusal(path, name, "contains values that are not finite", _REMEDY)
    counters = {name: torch.tensor(0) for name in network.state_dict() if name.endswith(_COUNTER)}
    network.load_state_dict(tensors | counters, assign=True)
    device = torch.device("cpu") if device is None else device
    return Extractor(network.to(device), description, device)


def feature_shape(path: Path) -> tuple[int, ...]:
    """[F] or [F, rows, columns] of one example; the tensors are not read."""
    return _described(path)[2]


def describe_extractor(path: Path) -> str:
    """One line for a person: input, features and memory of the values; the tensors are not read."""
    description, network, shape = _described(path)
    values = sum(value.numel() for value in network.state_dict().values())
    return (
        f"{path}: features {list(shape)} of examples {list(description.shape)}; {values:,} values, "
        f"{4 * values / 1e6:,.1f} MB"
    )


def _described(path: Path) -> tuple[Description, nn.Sequential, tuple[int, ...]]:
    """The description, the network on the meta device and the shape of its features, checked against the tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            stored = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (OSError, SafetensorError) as error:
        raise Refusal(path, "features", f"cannot be read ({error})", _REMEDY) from error
    if KEY not in metadata:
        raise Refusal(path, f"metadata.{KEY}", "is missing", _REMEDY)
    try:
        document = from_json(metadata[KEY])
    except ValueError as error:
        raise Refusal(path, f"metadata.{KEY}", f"is not JSON ({error})", _REMEDY) from error
    try:
        description = Description.model_validate(document)
    except ValidationError as error:
        complaint = first_complaint(error, document)
        raise Refusal(path, complaint.field, complaint.problem, _REMEDY) from error
    try:
        with torch.device("meta"):
            network = build_layers(description.layers).eval().requires_grad_(False)
    except _MISFITS as error:
        raise Refusal(path, "layers", f"cannot be built ({_first_line(error)})", _REMEDY) from error
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items() if not name.endswith(_COUNTER)}
    for name in (*wanted, *stored):
        if name not in stored:
            raise Refusal(path, name, "is missing", _REMEDY)
        if name not in wanted:
            raise Refusal(path, name, "belongs to no layer", _REMEDY)
        shape, dtype = stored[name]
        if shape != wanted[name]:
            raise Refusal(path, name, f"has shape {shape} where its layer has {wanted[name]}", _REMEDY)
        if dtype not in FLOATING:
            raise Refusal(path, name, f"is of type {dtype}", f"use one of {', '.join(FLOATING)}")
    shape = description.shape
    for number, module in enumerate(network):
        try:
            shape = tuple(module(torch.empty(2, *shape, device="meta")).shape)[1:]
        except _MISFITS as error:
            problem = f"does not take {list(shape)} ({_first_line(error)})"
            raise Refusal(path, f"layers.{number}", problem, _REMEDY) from error
    if 0 in (len(shape), *shape):
        raise Refusal(path, "layers", "leave no features of an example", _REMEDY)
    return description, network, shape


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
