"""The exact engine, for open loops: hosts send independently of the fabric, and links feed each other in no circle."""
