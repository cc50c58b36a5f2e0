"""Folders of runs whose networks have random weights: quick to make, and as good as any where nothing is learned."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from trainer.checkpoint.directory import step_folder
from trainer.checkpoint.manifest import Manifest, records
from trainer.config.run import RunConfig
from trainer.model.build import parameter_shapes


def untrained_run(folder: Path, sections: dict[str, Any]) -> Path:
    """Makes the folder of a run with one checkpoint.

    Args:
        folder: of the run.
        sections: of its configuration; what is left out has the defaults of quick runs.

    Returns:
        The folder.
    """
    document = {"run": {"dir": str(folder)}, "optim": {"steps": 10, "global_batch": 8}, **sections}
    config = RunConfig.model_validate(document)
    save_untrained(config, 10)
    return folder


def save_untrained(config: RunConfig, step: int, seed: int = 0) -> Path:
    """Makes a checkpoint of a run.

    Args:
        config: the run.
        step: after which it was saved.
        seed: of the weights.

    Returns:
        The folder of the checkpoint.
    """
    folder = step_folder(config.run.dir / "checkpoints", step)
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.randn(shape, generator=generator) * 0.3 * max(1, shape[-1] if shape else 1) ** -0.5
        for name, shape in parameter_shapes(config).items()
    }
    save_file(weights, folder / "ema.safetensors")
    (folder / "config.yaml").write_text(config.to_yaml())
    files = [folder / "ema.safetensors", folder / "config.yaml"]
    Manifest(step, step, {}, {}, records(folder, files)).write(folder)
    return folder
