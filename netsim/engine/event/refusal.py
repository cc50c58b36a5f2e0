"""Scenes and transports that the event engine cannot simulate."""

from netsim.congestion.nscc import NsccConfig
from netsim.engine.core.shared import number
from netsim.engine.protocol import Scene
from netsim.transport.build import PACKET_TRANSPORTS
from netsim.transport.protocol import Transport

_FLOW_BITS, _SERIAL_BITS = number("FLOW_BITS"), number("SERIAL_BITS")


def refusal(scene: Scene, transport: Transport) -> str | None:
    """Why a run is not for the event engine; None if it is."""
    if type(transport) not in PACKET_TRANSPORTS.values():
        return "a transport of your own runs on simpy only"
    if len(scene.tasks) * transport.stride >> _FLOW_BITS:
        return f"more than {1 << _FLOW_BITS} flows"
    if int(scene.tasks.columns().bytes.max(initial=0)) // scene.packet.payload >> (_SERIAL_BITS - 1):
        return f"a message of more than {1 << (_SERIAL_BITS - 1)} packets"
    marks_leaving = isinstance(scene.congestion, NsccConfig) and scene.congestion.marks == "departure"
    if marks_leaving and scene.ends_early and not scene.queues:
        return "packets are marked as they leave, in a run that ends with background traffic under way"
    return None
