"""Adapters: small trained matrices beside the frozen one of a linear layer."""
