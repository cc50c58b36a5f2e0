"""Quantities and draws: what they read, write and promise."""

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netsim.draws import Draws, Purpose, mix
from netsim.foundation.units import (
    format_rate,
    format_size,
    format_time,
    parse_rate,
    parse_size,
    parse_time,
    service_ps,
    split_bytes,
)
from tests.each import each


@each(
    "parse, text, value",
    [
        (parse_rate, "100Gbps", 10**11),
        (parse_rate, "0.4 Tbps", 4 * 10**11),
        (parse_size, "4000B", 4000),
        (parse_size, "4.096MB", 4_096_000),
        (parse_size, "1KB", 1000),
        (parse_size, "1KiB", 1024),
        (parse_time, "500ns", 500_000),
        (parse_time, "1.5us", 1_500_000),
        (parse_time, "0us", 0),
        (parse_time, "1ps", 1),
    ],
)
def test_reads_quantities(parse, text, value):
    assert parse(text) == value


@each("parse", [parse_rate, parse_size, parse_time])
@each("value", [5, 5.0, True, None, "5", "", "ns", "-5ns", "5 parsecs", "0.1B", "0.0001ns", "1e", [1]])
def test_refuses_anything_else(parse, value):
    with pytest.raises(ValueError, match="write a number and one of"):
        parse(value)


@given(st.integers(0, 10**18))
def test_writing_is_the_inverse_of_reading(value):
    assert parse_rate(format_rate(value)) == value
    assert parse_size(format_size(value)) == value
    assert parse_time(format_time(value)) == value


@given(st.integers(0, 10**9), st.integers(1, 10**13))
def test_service_is_the_exact_time_rounded_up(size, rate):
    exact = Fraction(8 * size * 10**12, rate)
    assert exact <= service_ps(size, rate) < exact + 1


@given(st.integers(0, 10**12), st.integers(1, 300))
def test_split_keeps_the_sum_and_is_even_to_a_byte(total, parts):
    cut = split_bytes(total, parts)
    assert sum(cut) == total
    assert len(cut) == parts
    assert max(cut) - min(cut) <= 1


def test_mix_is_splitmix64():
    """Published outputs of SplitMix64 for seed 1234567."""
    state, step = 1234567, 0x9E3779B97F4A7C15
    outputs = [mix((state + k * step) % 2**64) for k in range(3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_draws_are_uniform_and_purposes_independent():
    draws = [Draws(3, purpose) for purpose in (Purpose.ECMP_PATH, Purpose.SPRAY_PATH)]
    pairs = Counter((draws[0](flow, 0) % 8, draws[1](flow, 0) % 8) for flow in range(64 * 200))
    chi_square = sum((pairs[i, j] - 200) ** 2 / 200 for i in range(8) for j in range(8))
    assert chi_square < 104  # 63 degrees of freedom: exceeded by chance once in a thousand


def test_every_argument_of_a_draw_matters():
    base = Draws(1, Purpose.ECMP_PATH)(2, 3)
    others = [
        Draws(2, Purpose.ECMP_PATH)(2, 3),
        Draws(1, Purpose.SPRAY_PATH)(2, 3),
        Draws(1, Purpose.ECMP_PATH)(3, 3),
        Draws(1, Purpose.ECMP_PATH)(2, 4),
        Draws(1, Purpose.ECMP_PATH)(3, 2),
    ]
    assert base not in others
    assert base == Draws(1, Purpose.ECMP_PATH)(2, 3)
