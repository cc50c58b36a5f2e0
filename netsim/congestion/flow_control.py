"""What switches do when a queue is full, other than to drop, and how acknowledgements travel."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from netsim.section import Section
from netsim.units import Size


class NoFlowControlConfig(Section, frozen=True):
    """Section ``flow_control`` of kind ``none``: what does not fit is dropped."""

    kind: Literal["none"] = "none"


class TrimConfig(Section, frozen=True):
    """Section ``flow_control`` of kind ``trim``: of what does not fit only the header goes on.

    Handley et al.: Re-architecting datacenter networks and stacks for low latency and high performance, SIGCOMM 2017.

    Args:
        header: What is left of a packet; it travels like an acknowledgement in the control lane.
    """

    kind: Literal["trim"]
    header: Annotated[Size, Field(gt=0)] = 64


class PfcConfig(Section, frozen=True):
    """Section ``flow_control`` of kind ``pfc``: a switch stops the link that fills it. IEEE 802.1Qbb.

    A switch counts the bytes that it holds by the link they came in on. Above `pause_above` it stops that link, at or
    below `resume_at` it lets it go on; either takes the link's delay to arrive.

    Args:
        pause_above: Bytes held from one link at which that link is stopped.
        resume_at: Bytes held at which it goes on.
        headroom: Room beyond `pause_above` for what is still on its way; auto: 2 delays at the link's rate and 2
            packets, with which nothing is lost.
    """

    kind: Literal["pfc"]
    pause_above: Annotated[Size, Field(gt=0)] = 100_000
    resume_at: Size = 90_000
    headroom: Annotated[Size, Field(ge=0)] | Literal["auto"] = "auto"

    @model_validator(mode="after")
    def _below(self) -> "PfcConfig":
        if self.resume_at >= self.pause_above:
            raise ValueError("resume_at is not below pause_above; lower it")
        return self


FlowControlConfig = Annotated[NoFlowControlConfig | TrimConfig | PfcConfig, Field(discriminator="kind")]


class AcknowledgementConfig(Section, frozen=True):
    """Section ``acknowledgement``: one for each packet, where anything listens.

    Args:
        size: Bytes on the wire.
        lane: control: strict priority taken to its limit, an acknowledgement waits for nothing, nothing waits for it;
            data: it stands in the same queues as data, on its way back over the same cables.
    """

    size: Annotated[Size, Field(gt=0)] = 64
    lane: Literal["control", "data"] = "control"
