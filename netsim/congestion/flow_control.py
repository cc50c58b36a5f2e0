"""Flow control: what switches do when a queue is full. Acknowledgements: how they travel."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from netsim.foundation.settings import Section
from netsim.foundation.units import Size


class NoFlowControlConfig(Section):
    """Section ``flow_control`` of kind ``none``: a packet that does not fit into a queue is dropped."""

    kind: Literal["none"] = "none"


class TrimConfig(Section):
    """Section ``flow_control`` of kind ``trim``: a packet that does not fit into a queue is cut to its header.

    Handley et al.: Re-architecting datacenter networks and stacks for low latency and high performance, SIGCOMM 2017.

    Args:
        header: Size of a trimmed packet; it travels like an acknowledgement in the control lane.
    """

    kind: Literal["trim"]
    header: Annotated[Size, Field(gt=0)] = 64


class PfcConfig(Section):
    """Section ``flow_control`` of kind ``pfc``, IEEE 802.1Qbb: a switch pauses the ingress link that fills it.

    A switch counts the bytes that it holds by ingress link and class. Above `pause_above` it pauses that link for that
    class, at or below `resume_at` it resumes the link. Either signal takes the link's delay to arrive.

    Args:
        pause_above: Bytes held from an ingress link above which that link is paused. dynamic: topology.buffer.alpha
            times the memory that is free, without the headroom of all links.
        resume_at: Bytes held from a paused link at or below which it is resumed.
        resume_below: With pause_above dynamic: bytes below the threshold at which a paused link is resumed, checked
            when one of its packets leaves.
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


class AcknowledgementConfig(Section):
    """Section ``acknowledgement``: each packet has one, if congestion control, recovery or transport need them.

    Args:
        size: Size of an acknowledgement on the wire.
        lane: Lane in which acknowledgements travel. control: as the limit of strict priority, they wait for nothing and
            nothing waits for them; priority: they wait for others of their lane alone, and data that comes after them
            waits for them too; data: they wait in the same queues as data, on their way back over the same cables.
            Trimmed packets wait for no data.
    """

    size: Annotated[Size, Field(gt=0)] = 64
    lane: Literal["control", "priority", "data"] = "control"
