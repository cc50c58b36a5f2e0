"""Mixture-of-experts layers on many ranks: routing, dispatch, and placement of experts."""
