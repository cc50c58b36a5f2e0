"""Seeds that are a function of names, and draws that are a function of a key: neither depends on what was drawn before,
on which rank, or in what order.

Counters are hashed with the finaliser of splitmix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number
Generators", 2014, section 5), in int64 whose products wrap around.
"""

import hashlib

import torch
from torch import Tensor

_INCREMENT = 0x9E3779B97F4A7C15 - 2**64
_FACTORS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
_DROPOUT_BITS = 24


def derive_seed(*parts: int | str) -> int:
    """Hashes its arguments, such as ``(run_seed, "expert", layer, expert)``, to a seed in [0, 2**63).

    The same arguments give the same seed on every machine, in every process and at every world size.
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def fold_in(keys: Tensor, counters: Tensor | int) -> Tensor:
    """Derives an int64 key, all of whose bits look drawn, from each key and counter, int64 of shapes that broadcast."""
    x = keys + (torch.as_tensor(counters) + 1) * _INCREMENT
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _FACTORS[0]
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _FACTORS[1]
    return x ^ ((x >> 31) & (2**33 - 1))


def uniform(keys: Tensor) -> Tensor:
    """A number in [0, 1) for each key, float64."""
    return ((keys >> 11) & (2**53 - 1)).double() * 2.0**-53


def normal(keys: Tensor) -> Tensor:
    """A standard normal number for each key, float64, by the inverse of the distribution function."""
    return torch.special.ndtri(uniform(keys) + 2.0**-54)


def keyed_dropout(values: Tensor, keys: Tensor, share: float) -> Tensor:
    """Drops a share in [0, 1) of values [T, D] and scales the others up; equal keys int64 [T] drop equal columns."""
    columns = torch.arange(values.shape[1], device=values.device)
    drawn = fold_in(keys[:, None], columns) & (2**_DROPOUT_BITS - 1)
    return values * (drawn >= round(share * 2**_DROPOUT_BITS)) / (1 - share)
