"""The checkpoint that a run will go on from, as far as one process can tell before the ranks join."""

from pathlib import Path

from trainer.checkpoint.contents import identity_of
from trainer.checkpoint.directory import complete_steps
from trainer.checkpoint.intact import newest_apparently_intact
from trainer.checkpoint.manifest import Manifest
from trainer.config.run import RunConfig


def origin(config: RunConfig, *, read_bytes: int = 0) -> tuple[Path | None, list[str]]:
    """The checkpoint that a run resumes from, unless its ranks find damage beyond `read_bytes` of a checkpoint.

    The lengths of its files are always compared. None if the run starts; a line for each newer one that is damaged.

    Raises:
        ValueError: the run may not resume and there are checkpoints.
        Refusal: none of the checkpoints is intact, or the newest that is belongs to another run.
    """
    run, root = config.run, config.run.dir / "checkpoints"
    if run.resume == "never" and complete_steps(root):
        raise ValueError(f"run.dir: {run.dir} already holds checkpoints; choose another, or run.resume=auto")
    folder, skipped = newest_apparently_intact(root, allow_rng_loss=run.allow_rng_loss, read_bytes=read_bytes)
    if folder is not None:
        Manifest.read(folder).check_identity(folder, identity_of(config))
    return folder, skipped
