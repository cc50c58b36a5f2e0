"""Seeds that are a function of names, so that a draw never depends on what was drawn before it."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Hashes its arguments to a seed.

    The same arguments give the same seed on every machine, in every process and at every world size.

    Args:
        *parts: purpose of the draw, for example ``(run_seed, "expert", layer, expert)``.

    Returns:
        A seed in [0, 2**63).
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
