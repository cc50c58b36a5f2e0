"""The section that names another run whose trained network a run asks."""

from pathlib import Path

from moe.validation.section import Section


class ReferenceConfig(Section):
    """Another run, whose averaged weights are frozen."""

    run: Path
    """Folder of the run; its newest intact checkpoint is used."""
    digest: str | None = None
    """SHA-256 of its averaged weights; filled when the run begins, after which other weights are refused."""
