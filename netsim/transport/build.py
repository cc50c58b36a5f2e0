"""From the names in a scenario, or the class of a user, to transports."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from netsim.transport.config import PACKET_TRANSPORTS, OwnConfig, TransportConfig
from netsim.transport.protocol import Transport


def own_transport(path: str) -> Callable[..., Transport]:
    """Imports the transport class that ``module:Class`` names; ValueError if that is not possible."""
    module_name, _, class_name = path.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), class_name)):
        raise ValueError(f"{path!r} does not name a class; write module:Class")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the code of a user's module leads to
        reason = " ".join(f"{type(error).__name__}: {error}".split()).replace("; ", ", ")
        raise ValueError(
            f"{module_name} cannot be imported ({reason}); run from the folder that contains it, or install it"
        ) from None
    transport_class = getattr(module, class_name, None)
    if not isinstance(transport_class, type) or not issubclass(transport_class, Transport):
        remedy = "name a class that extends netsim.transport.Transport"
        raise ValueError(f"{class_name} of {module_name} is not a transport; {remedy}")
    return transport_class


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
