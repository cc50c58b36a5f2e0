"""Random numbers without state: a draw is a hash of seed, purpose, flow and sequence, so every engine gets the same."""

from enum import IntEnum
from typing import TypeVar

import numpy as np

Bits = TypeVar("Bits", int, np.ndarray)
"""A number of 64 bits, or an array of uint64."""
_MASK = (1 << 64) - 1


class Purpose(IntEnum):
    """The decision that a draw is for; two purposes never share draws."""

    ECMP_PATH = 1
    SPRAY_PATH = 2
    SPRAY_START = 3
    DESTINATION_ORDER = 4
    ETHEREAL_FLOWS = 5
    ETHEREAL_PATHS = 6
    SUBFLOW_PATH = 7
    FLOWLET_PATH = 8
    ROTATION_START = 9
    REPS_PATH = 10
    DRILL_SAMPLE = 11
    REPATH = 12
    MARK = 13
    START_DELAY = 14
    ETHEREAL_LEAVES = 15
    SPLITS = 16
    DETOUR = 17
    MINIMAL = 18
    ENTROPY_PATH = 40
    JSQ_TIE = 41
    BACKGROUND = 42
    LINK_ERROR = 43


def mix(value: Bits) -> Bits:
    """One step of SplitMix64 from the state `value`: 64 bits in, 64 well-mixed bits out.

    Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014, figure 17.
    """
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def stream(seed: int, purpose: int) -> int:
    """State of the draws of one seed for one purpose."""
    return mix(mix(seed) + purpose)


class Draws:
    """The draws of one seed for one purpose: mix(mix(mix(mix(seed) + purpose) + flow) + sequence)."""

    def __init__(self, seed: int, purpose: Purpose) -> None:
        self._stream = stream(seed, purpose)

    def __call__(self, flow: Bits, sequence: Bits | int = 0) -> Bits:
        """A uniform integer in [0, 2**64) that depends on (seed, purpose, flow, sequence) alone."""
        return mix(mix(self._stream + flow) + sequence)
