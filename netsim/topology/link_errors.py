"""The key ``link_errors`` of all topologies: packets that are corrupted on a cable."""

from typing import Literal

from pydantic import Field

from netsim.section import Section


class LinkErrorsConfig(Section, frozen=True):
    """Section ``topology.link_errors``: packets that are corrupted on the way over a cable, each drawn by itself.

    Links inside hosts have no errors, nor has the control lane. With retry the link sends a corrupted packet again
    after its round trip, and packets behind it wait: go-back-N, as link-level retry of Ultra Ethernet 1.0 does it.

    Args:
        rate: Share of packets that are corrupted on each link.
        retry: link: the link sends again; none: the packet is lost, and its sender has to repeat it.
    """

    rate: float = Field(gt=0, le=0.1)
    retry: Literal["link", "none"] = "link"
