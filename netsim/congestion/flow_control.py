"""Flow control: what switches do when a queue is full. Acknowledgements: how they travel."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from netsim.documents import Section
from netsim.units import Size


class NoFlowControlConfig(Section, frozen=True):
    """Section ``flow_control`` of kind ``none``: a packet that does not fit into a queue is dropped."""

    kind: Literal["none"] = "none"


class TrimConfig(Section, frozen=True):
    """Section ``flow_control`` of kind ``trim``: a packet that does not fit into a queue is cut to its header.

    Handley et al.: Re-architecting datacenter networks and stacks for low latency and high performance, SIGCOMM 2017.

    Args:
        header: Size of a trimmed packet; it travels like an acknowledgement in the control lane.
    """

    kind: Literal["trim"]
    header: Annotated[Size, Field(gt=0)] = 64


class PfcConfig(Section, frozen=True):
    """Section ``flow_control`` of kind ``pfc``: a switch stops the link that fills it. IEEE 802.1Qbb.

    A switch counts the bytes that it holds by the link they came in on, each class by itself. Above `pause_above` it
    pauses that link for that class, at or below `resume_at` it resumes it; either signal takes the link's delay to
    arrive.

    Args:
        pause_above: Bytes held from one link at which that link is paused. dynamic: topology.buffer.alpha times the
            memory that is free, without the headroom of all links.
        resume_at: Bytes held at which it is resumed.
        resume_below: dynamic: bytes below the threshold at which it is resumed, looked at when one of its packets
            leaves.
        headroom: Room beyond `pause_above` for packets that are still on their way; auto: 2 delays at the link's rate
            and 2 packets, so that nothing is lost.
    """

    kind: Literal["pfc"]
    pause_above: Annotated[Size, Field(gt=0)] | Literal["dynamic"] = 100_000
    resume_at: Size = 90_000
    resume_below: Size = 10_000
    headroom: Annotated[Size, Field(ge=0)] | Literal["auto"] = "auto"

    @property
    def dynamic(self) -> bool:
        """Whether thresholds follow the shared memory that is free."""
        return self.pause_above == "dynamic"

    @model_validator(mode="after")
    def _below(self) -> "PfcConfig":
        given = self.model_fields_set
        if self.pause_above == "dynamic":
            if "resume_at" in given:
                raise ValueError("resume_at is for a fixed pause_above; write resume_below")
        elif "resume_below" in given:
            raise ValueError("resume_below is for pause_above: dynamic; write resume_at")
        elif self.resume_at >= self.pause_above:
            raise ValueError("resume_at is not below pause_above; lower it")
        return self


FlowControlConfig = Annotated[NoFlowControlConfig | TrimConfig | PfcConfig, Field(discriminator="kind")]


class AcknowledgementConfig(Section, frozen=True):
    """Section ``acknowledgement``: one for each packet, if congestion control, recovery or transport need them.

    Args:
        size: Bytes on the wire.
        lane: control: the limit of strict priority, an acknowledgement waits for nothing and nothing waits for it;
            priority: it waits for others of its lane alone, and data that comes after it waits for it too; data: it
            waits in the same queues as data, on its way back over the same cables. Trimmed packets wait for no data.
    """

    size: Annotated[Size, Field(gt=0)] = 64
    lane: Literal["control", "priority", "data"] = "control"
