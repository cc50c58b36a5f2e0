"""Experts that move between ranks while a run goes on."""
