"""Mixture-of-experts layers on many ranks: routing, dispatch, and where the experts should live."""
