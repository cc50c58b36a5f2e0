"""Builds the congestion control and the loss recovery of a flow from the configuration."""

from netsim.congestion.credit import Credited, NdpConfig, ReceiverCreditConfig
from netsim.congestion.dcqcn import Dcqcn, DcqcnConfig
from netsim.congestion.dctcp import Dctcp, DctcpConfig
from netsim.congestion.flow_control import AcknowledgementConfig
from netsim.congestion.nscc import Nscc, NsccConfig
from netsim.congestion.protocol import Congestion, RoundTrip
from netsim.congestion.recovery import GoBackN, GoBackNConfig, Recovery, RecoveryConfig, Selective, SelectiveConfig
from netsim.congestion.swift import Swift, SwiftConfig
from netsim.congestion.window import FixedWindow, NoneConfig, WindowConfig, initial
from netsim.topology.protocol import Link
from netsim.units import service_ps

CongestionKind = (
    NoneConfig | WindowConfig | DctcpConfig | DcqcnConfig | SwiftConfig | NsccConfig | ReceiverCreditConfig | NdpConfig
)


def congestion_of(config: CongestionKind, round_trip: RoundTrip, start_ps: int, trims: bool = False) -> Congestion:
    match config:
        case NoneConfig():
            return FixedWindow()
        case WindowConfig(window=window):
            return FixedWindow(initial(window, round_trip))
        case DctcpConfig():
            return Dctcp(config, round_trip)
        case SwiftConfig():
            return Swift(config, round_trip)
        case NsccConfig():
            return Nscc(config, round_trip, trims)
        case ReceiverCreditConfig() | NdpConfig():
            return Credited(config, round_trip)
        case DcqcnConfig():
            return Dcqcn(config, round_trip, start_ps)


def recovery_of(config: RecoveryConfig, packets: int) -> Recovery:
    """Loss recovery of one flow of `packets` packets."""
    match config:
        case GoBackNConfig():
            return GoBackN(packets)
        case SelectiveConfig(reordering=reordering):
            return Selective(packets, reordering)
        case _:
            return Selective(packets)


def round_trip(links: list[Link], packet_bytes: int, acknowledgement: AcknowledgementConfig) -> RoundTrip:
    """The round trip of a flow in an otherwise empty network; the way back has the same nominal rates and delays."""
    there = sum(service_ps(packet_bytes, link.rate_bps) + link.delay_ps for link in links)
    back = sum(service_ps(acknowledgement.size, link.rate_bps) + link.delay_ps for link in links)
    slowest = max(service_ps(packet_bytes, link.rate_bps) for link in links)
    time_ps = there + back
    return RoundTrip(time_ps, -(-time_ps // slowest), links[0].rate_bps, len(links), packet_bytes)
