"""Congestion: how much a flow may send, what happens to what is lost, and how links push back."""

from netsim.congestion.protocol import Congestion, RoundTrip

__all__ = ["Congestion", "RoundTrip"]
