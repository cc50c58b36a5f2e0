"""Sizes of memories as a person writes them."""

import pytest

from tests.each import each
from trainer.experiment.check import parse_bytes


@each(
    ("text", "size"),
    [("80GB", 80 * 10**9), ("64GiB", 64 * 2**30), ("1.5 MB", 1_500_000), (" 512KiB ", 2**19), ("2TB", 2 * 10**12)],
)
def test_decimal_and_binary_units(text: str, size: int) -> None:
    assert parse_bytes(text, "--fit") == size


@each("text", ["80", "GB", "80gb", "-1GB", "0GB", "80 G B", "1e3GB", "nanGB"])
def test_anything_else_is_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(ValueError, match=r"^--fit: .*80GB"):
        parse_bytes(text, "--fit")
