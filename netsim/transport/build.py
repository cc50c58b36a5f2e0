"""From the names in a scenario to transports."""

from netsim.transport.config import OwnConfig, TransportConfig
from netsim.transport.detouring import Ugal, Valiant
from netsim.transport.ecmp import Ecmp
from netsim.transport.ethereal import Ethereal
from netsim.transport.flowlet import Flowlet
from netsim.transport.own import own_transport
from netsim.transport.protocol import Transport
from netsim.transport.reps import Reps
from netsim.transport.spray import DestinationRotation, SprayRandom, SprayRoundRobin
from netsim.transport.subflows import Subflows
from netsim.transport.switched import AdaptiveFlow, Drill, JoinShortestQueue

PACKET_TRANSPORTS: dict[str, type[Transport]] = {
    "adaptive_flow": AdaptiveFlow,
    "drb": DestinationRotation,
    "drill": Drill,
    "ecmp": Ecmp,
    "ethereal": Ethereal,
    "flowlet": Flowlet,
    "jsq": JoinShortestQueue,
    "reps": Reps,
    "spray_random": SprayRandom,
    "spray_round_robin": SprayRoundRobin,
    "subflows": Subflows,
    "ugal": Ugal,
    "valiant": Valiant,
}


def build_transport(config: TransportConfig, seed: int, most_paths: int) -> Transport:
    """The transport of one run; None for ideal, which has no packets."""
    if isinstance(config, OwnConfig):
        transport_class = own_transport(config.path)
        try:
            return transport_class(seed, most_paths, **config.options())
        except TypeError as error:
            raise ValueError(f"{config.path} refuses its options ({error}); correct options") from None
        except SystemExit as error:
            raise ValueError(f"{config.path} ends the program when it is made; raise an error instead") from error
    return PACKET_TRANSPORTS[config.kind](seed, most_paths, **config.options())
