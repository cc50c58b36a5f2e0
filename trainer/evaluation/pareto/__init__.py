"""How well objects with several rewards trade these off: front, indicators, what the evaluate verb shows of them."""
