"""The section that names another run, whose trained network is used without being trained further."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from netsim.foundation.settings import Section


class ReferenceConfig(Section):
    """Another run, whose averaged weights are frozen."""

    run: Path
    """Folder of the run; its newest intact checkpoint is used."""
    digest: str | None = None
    """SHA-256 of its averaged weights; filled when the run begins, after which other weights are refused."""


def _of_folder(written: Any) -> Any:
    return {"run": written} if isinstance(written, str | Path) else written


RunReference = Annotated[ReferenceConfig, BeforeValidator(_of_folder, json_schema_input_type=ReferenceConfig | Path)]
"""Another run; its folder will do in place of the section."""
