"""Congestion: how much a flow may send, what happens to what is lost, and how links push back."""

from typing import Annotated

from pydantic import Field

from netsim.congestion.credit import NdpConfig, ReceiverCreditConfig
from netsim.congestion.dcqcn import DcqcnConfig
from netsim.congestion.dctcp import DctcpConfig
from netsim.congestion.nscc import NsccConfig
from netsim.congestion.protocol import Ack, Congestion, CongestionSettings, RoundTrip
from netsim.congestion.swift import SwiftConfig
from netsim.congestion.window import NoneConfig, WindowConfig

CongestionConfig = Annotated[
    NoneConfig | WindowConfig | DctcpConfig | DcqcnConfig | SwiftConfig | NsccConfig | ReceiverCreditConfig | NdpConfig,
    Field(discriminator="kind"),
]

__all__ = ["Ack", "Congestion", "CongestionConfig", "CongestionSettings", "RoundTrip"]
