"""The section that names what a run learns."""

from typing import Annotated, Literal

from pydantic import Field

from moe.validation.section import Section


class FlowTaskConfig(Section):
    """The field of a flow, put together from the parts in the section ``flow``."""

    kind: Literal["flow"] = "flow"


class NextTokenTaskConfig(Section):
    """The next byte of a text."""

    kind: Literal["next_token"] = "next_token"


class ReconstructionTaskConfig(Section):
    """Images from their latents."""

    kind: Literal["reconstruction"] = "reconstruction"


AnyTaskConfig = FlowTaskConfig | NextTokenTaskConfig | ReconstructionTaskConfig
TaskConfig = Annotated[AnyTaskConfig, Field(discriminator="kind")]
