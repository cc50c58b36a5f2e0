"""From the names in a scenario, or the class of a user, to transports."""

from collections.abc import Callable

from netsim.foundation.contract import imported_member
from netsim.transport.config import PACKET_TRANSPORTS, OwnConfig, TransportConfig
from netsim.transport.protocol import Transport


def own_transport(path: str) -> Callable[..., Transport]:
    """Imports the transport class that ``module:Class`` names; ValueError if that is not possible."""
    member = imported_member(path)
    if not isinstance(member, type) or not issubclass(member, Transport):
        module_name, _, class_name = path.partition(":")
        remedy = "name a class that extends netsim.transport.Transport"
        raise ValueError(f"{class_name} of {module_name} is not a transport; {remedy}")
    return member


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
