"""From messages to flows, by each transport's rule; all messages at once, in the order of their flows' ids."""

from typing import NamedTuple

import numpy as np

from netsim.draws import Purpose
from netsim.engine.exact.balance import balance
from netsim.engine.exact.hashes import crc32_hashes, draws
from netsim.engine.exact.layout import Layout
from netsim.engine.exact.messages import Messages, numbers_of
from netsim.transport.config import EcmpConfig, EtherealConfig, SubflowsConfig, TransportConfig


class Flows(NamedTuple):
    """Flows by id. Arrays with an entry a flow."""

    id: np.ndarray  # as in `netsim.transport.protocol.Flow`
    key: np.ndarray  # as in `netsim.transport.protocol.Transport.key_of`
    message: np.ndarray  # index of its message
    bytes: np.ndarray  # payload
    route: np.ndarray  # route of all its packets, as a row of `FabricArrays.route_links`; -1 if each packet chooses
    delay_ps: np.ndarray  # how long after the release it joins the others of its host
    # Sort key, before the flow's number, among flows that its host releases together; empty: the nic decides
    turn: np.ndarray


def admit(layout: Layout, messages: Messages, transport: TransportConfig, seed: int) -> Flows:
    """The flows of all messages, as `Transport.admit` would make them."""
    if isinstance(transport, EtherealConfig):
        return Flows(*balance(layout, messages, transport, seed))
    parts = transport.count if isinstance(transport, SubflowsConfig) else 1
    stride = parts if isinstance(transport, SubflowsConfig) else layout.most_paths
    pieces = np.minimum(messages.bytes, parts)
    message = np.repeat(np.arange(len(pieces)), pieces)
    part = np.arange(len(message)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    each, longer = np.divmod(messages.bytes[message], parts)
    src, dst = messages.src[message], messages.dst[message]
    match transport:
        case EcmpConfig(hash="crc32"):
            route = _hashed(layout, messages, message, crc32_hashes(seed, src, dst))
        case EcmpConfig():
            route = _hashed(layout, messages, message, draws(seed, Purpose.ECMP_PATH, src, dst))
        case SubflowsConfig():
            route = _hashed(layout, messages, message, draws(seed, Purpose.SUBFLOW_PATH, src << 32 | dst, part))
        case _:
            route = np.full(len(message), -1)
    numbers, size_bytes = numbers_of(messages, message, part, stride), each + (part < longer)
    return Flows(*numbers, message, size_bytes, route, np.zeros_like(message), np.empty(0, dtype=np.int64))


def _hashed(layout: Layout, messages: Messages, message: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """The route of each flow: its hash picks one of the usable routes."""
    begin = layout.fabric.usable_begin
    row = messages.usable[message]
    count = (begin[row + 1] - begin[row]).astype(np.uint64)
    choice = layout.fabric.usable[begin[row] + (hashes % count).astype(np.int64)]
    return layout.fabric.route_begin[messages.pair[message]] + choice
