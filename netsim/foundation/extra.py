"""Packages that an extra of the installation brings, and the line that names the extra where one is missing."""

import importlib.util

_OF_EXTRA = {
    "train": (
        "deepspeed",
        "fsspec",
        "megatron",
        "ot",
        "safetensors",
        "sklearn",
        "tensorboard",
        "threadpoolctl",
        "torch",
        "torchdiffeq",
    ),
    "hf": ("datasets", "diffusers", "tokenizers", "transformers"),
    "science": ("ase",),
    "wandb": ("wandb",),
}
EXTRAS = {package: extra for extra, packages in _OF_EXTRA.items() for package in packages}
"""Extra of each package, by the package's import name."""


def require(package: str, *, field: str, otherwise: str = "") -> None:
    """Refuses `field` if its package of `EXTRAS` is missing, without importing it; `otherwise`: a way without it."""
    if importlib.util.find_spec(package) is None:
        without = f", or {otherwise}" if otherwise else ""
        raise ValueError(
            f"{field}: the package {package} is not installed here; "
            f"pip install 'flowfabric[{EXTRAS[package]}]'{without}"
        )


def remedy(error: ModuleNotFoundError) -> str | None:
    """Returns a line about a package that is missing; None: no extra brings it."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        return None
    return f"needs the package {package}, which is not installed here; pip install 'flowfabric[{EXTRAS[package]}]'"
