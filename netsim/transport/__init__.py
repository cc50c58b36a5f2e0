"""Transports: how messages become flows and which paths their packets take."""

from netsim.transport.protocol import Flow, Release, Transport

__all__ = ["Flow", "Release", "Transport"]
