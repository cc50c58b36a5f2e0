"""Shuffles of any length of which each place is computed by itself, so that nothing has to hold them.

A permutation of the numbers below a power of four is a Feistel network of keyed hashes; one of the numbers below any
other length walks its cycles until it is back among those. On average fewer than four steps are taken. Networks of few
bits favour some permutations, so that short shuffles are sorted by hashes instead.

Source: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002, sections 3 and 4.
"""

import torch
from torch import Tensor

from moe.seeds import fold_in

ROUNDS = 6
SORTED = 1024
"""Most numbers that are sorted."""


def keyed_order(positions: Tensor, length: int, *, key: int) -> Tensor:
    """The numbers at positions of a shuffle of `length` (1 to 2**62) numbers: int64 [B], computed place by place."""
    if length <= SORTED:
        return fold_in(torch.tensor(key), torch.arange(length)).argsort()[positions]
    half = ((length - 1).bit_length() + 1) // 2
    keys = fold_in(torch.tensor(key), torch.arange(ROUNDS))
    numbers = _permuted(positions, keys, half)
    while bool((outside := numbers >= length).any()):
        numbers[outside] = _permuted(numbers[outside], keys, half)
    return numbers


def _permuted(numbers: Tensor, keys: Tensor, half: int) -> Tensor:
    """A permutation of the numbers of 2 x `half` bits."""
    mask = (1 << half) - 1
    left, right = numbers >> half, numbers & mask
    for key in keys:
        left, right = right, left ^ (fold_in(key, right) & mask)
    return (left << half) | right
