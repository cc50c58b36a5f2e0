"""The protocol of a transport: how it cuts messages into flows, and which path each packet takes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import Field

from netsim.foundation.settings import Section
from netsim.topology.protocol import Path

Entropies = Annotated[int, Field(ge=1, le=2**16)] | None
Label = Annotated[str, Field(pattern=r"^[\w.+-]{1,40}$")]


class Release(NamedTuple):
    """A message that its source host may send now."""

    task: int  # index of the task
    src: int  # source rank
    dst: int  # destination rank
    dst_leaf: int  # first switch of the destination host
    bytes: int  # payload, at least 1
    paths: tuple[Path, ...]  # all paths of the fabric; one if there is no choice
    usable: tuple[int, ...]  # indices of the paths that the routing takes as usable at this moment
    src_leaf: int  # first switch of the source host
    src_place: int  # place of the source host among the hosts of its leaf
    dst_place: int  # place of the destination host among the hosts of its leaf
    minimal: int = 2**31  # number of minimal paths, which come first; the others are detours
    like: int | None = None  # index of the task whose draws the message has; None: its own

    @property
    def key(self) -> int:
        """Number that draws depend on in place of the task's index; equal for messages with the same draws."""
        return self.task if self.like is None else self.like


class Flow(NamedTuple):
    """A queue pair's share of a message; its packets leave in order."""

    id: int  # task * stride + piece: unique in a run, and the same in every engine
    message: Release  # the message that it belongs to
    bytes: int  # payload, at least 1
    path: int | None  # index into the message's paths if all packets share it, otherwise None
    delay_ps: int = 0  # delay between the release and its entry into its host's ring


class Transport:
    """Path choice of one run; the base of all transports, your own included.

    Draws depend on (seed, purpose, `key_of` the flow, serial) alone. A packet's serial counts the transmissions of its
    flow from 0; without losses it is the packet's place in the flow. A subclass overrides `choose_path`, or
    `choose_link` and `at_switch`, or gives its flows a path in `admit`.

    Args:
        seed: Seed of the run.
        most_paths: Largest number of paths between two hosts that talk to each other.
    """

    at_switch = False
    """Whether switches choose the next link of each packet, by `choose_link`."""
    at_first_switch = False
    """Whether the first switch chooses the whole path of each packet, by `choose_path_at_switch`."""
    takes_detours = False
    """Whether paths include those that are not minimal, on fabrics that have them."""
    needs_acknowledgements = False
    """Whether `on_ack` must be called even if nothing else needs acknowledgements."""
    orders_flows = False
    """Whether flows join their host's ring in the order that `admit` returns, instead of the order of the nic."""
    needs_packets = False
    """Whether path choice depends on queues or pauses, so that the flow-level engine cannot simulate it."""
    forgives_last_link = False
    """Whether a mark does not count if the packet was trimmed in front of its receiver's own link, which no path
    avoids."""
    mark_above: int | None = None
    """Queue in bytes above which packets are marked, if the congestion control sets no threshold."""

    def __init__(self, seed: int, most_paths: int) -> None:
        self.seed = seed
        self.most_paths = most_paths

    @property
    def stride(self) -> int:
        """Largest number of flows into which a message is cut."""
        return self.most_paths

    def constants(self) -> Mapping[str, int | float | str]:
        """Constants for the core: values of `Rules` fields, or names of its numbers; empty for a user's class."""
        return {}

    def key_of(self, flow: Flow) -> int:
        """Number that a flow's draws depend on: its id, unless its message has the draws of another message."""
        return flow.id + (flow.message.key - flow.message.task) * self.stride

    def admit(self, released: Sequence[Release], now_ps: int) -> list[Flow]:  # noqa: ARG002
        """Turns the messages that one host releases in one instant into flows, which carry all their bytes.

        Args:
            released: Messages of one source host, by task index.
            now_ps: That instant.

        Returns:
            The flows. By default one flow for each message, whose packets choose their paths by `choose_path`.
        """
        return [Flow(m.task * self.stride, m, m.bytes, None) for m in released]

    def choose_path(self, flow: Flow, serial: int, usable: tuple[int, ...], now_ps: int) -> int:
        """Path of a packet, as an index into the message's paths.

        Called for each packet of a flow without a path, in the order in which its host sends them; for a flow with a
        path only when that path is no longer usable.

        Args:
            flow: Its flow.
            serial: Number of the transmission in the flow, from 0.
            usable: Indices of the paths that the routing takes as usable now.
            now_ps: When the packet leaves.
        """
        raise NotImplementedError(f"{type(self).__name__} chooses no paths; override choose_path")

    def choose_link(
        self, flow: Flow, serial: int, switch: int, links: Sequence[int], backlog_ps: Callable[[int], int], now_ps: int
    ) -> int:
        """Next link of a packet at a switch that has a choice, one of `links`; only if `at_switch`.

        Args:
            flow: Its flow.
            serial: Number of the transmission in the flow.
            switch: Number of the switch, from 0.
            links: Usable next links of the switch, in order; the set depends on destination and time.
            backlog_ps: Unfinished work in front of a link, in picoseconds.
            now_ps: When the packet has arrived.
        """
        raise NotImplementedError(f"{type(self).__name__} is at_switch and chooses no links; override choose_link")

    def choose_path_at_switch(
        self, flow: Flow, serial: int, usable: tuple[int, ...], backlog_ps: Callable[[int], int]
    ) -> int:
        """Path of a packet that has arrived at its first switch; only if `at_first_switch`.

        Args:
            flow: Its flow.
            serial: Number of the transmission in the flow.
            usable: Indices of the paths that the routing took as usable when it left its host.
            backlog_ps: Unfinished work in front of a link, in picoseconds.
        """
        raise NotImplementedError(
            f"{type(self).__name__} is at_first_switch and chooses no path; override choose_path_at_switch"
        )

    def on_ack(self, flow: Flow, path: int, marked: bool) -> None:
        """An acknowledgement has arrived at the sender.

        Args:
            flow: Of the packet.
            path: Path that the packet took.
            marked: A queue on its way had marked it.
        """

    def on_timeout(self, flow: Flow, path: int | None, usable: tuple[int, ...], now_ps: int) -> int | None:  # noqa: ARG002
        """The retransmission timer of a flow has run out.

        Returns:
            The flow's path from now on, if it has one. By default unchanged.
        """
        return path


class TransportSettings(Section):
    """An entry of ``transports``: a kind and its options, which are the arguments of the class besides seed and paths.

    Args:
        kind: Name of the transport.
        label: Name of the transport in results and reports; null: its kind.
    """

    transport: ClassVar[type[Transport] | None] = None
    """Class that the section makes; None: the flow level, which has no packets."""

    kind: str
    label: Label | None = None

    @property
    def name(self) -> str:
        """Name in results and reports."""
        return self.label or self.kind

    def options(self) -> dict[str, Any]:
        """Arguments of the transport besides seed and number of paths."""
        return {name: getattr(self, name) for name in type(self).model_fields if name not in ("kind", "label")}
