"""Times from a table of measurements: between sizes and beyond, their error, and what is said of it."""

import json
import math
import random
from collections import Counter
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from netsim import simulate
from netsim.foundation.page import Table
from netsim.report.tables import computed_sections
from netsim.workload.device import DeviceConfig, Product, Work
from netsim.workload.device_table import Measured, read_measured
from tests.each import each
from tests.netsim.model_steps import scenario

GOLDEN = Path("tests/files/measured.csv")


def law(size: int) -> float:
    """A launch, then a rate: ps."""
    return 5e6 + size / 400


def test_a_power_of_the_size_is_found_between_and_above_and_the_smallest_time_below():
    rows = [(10**exponent, 3.0 * 10**exponent) for exponent in range(4, 14)]
    table = Measured(rows)
    for size in (10**4, 54_321, 10**9 + 1, 7 * 10**15):
        assert table.time_ps(size) == pytest.approx(3.0 * size)
    assert table.time_ps(17) == pytest.approx(3e4)
    assert table.time_ps(0) == 0
    assert table.error == pytest.approx(10, rel=0.01)  # the smallest row, from the next one, is the worst


def test_sizes_between_those_of_a_smooth_law_are_near_it():
    table = Measured([(2**exponent, law(2**exponent)) for exponent in range(16, 44)])
    for exponent in np.arange(20, 43, 0.37):
        size = round(2**exponent)
        assert table.time_ps(size) == pytest.approx(law(size), rel=0.06)


def test_nine_of_ten_times_that_were_not_measured_lie_within_the_error():
    draws = random.Random(1)

    def drawn(count: int) -> list[tuple[int, float]]:
        sizes = [round(2 ** draws.uniform(24, 42)) for _ in range(count)]
        return [(size, law(size) * math.exp(draws.gauss(0, 0.1))) for size in sizes]

    within = []
    for _ in range(40):
        table = Measured(drawn(60))
        within += [abs(math.log(time / table.time_ps(size))) <= math.log(table.error) for size, time in drawn(60)]
    assert 0.87 < np.mean(within) < 0.93


def test_a_work_takes_its_products_one_by_one_or_its_memory_if_that_is_longer():
    table, device = read_measured(GOLDEN, None), DeviceConfig.model_validate({"table": str(GOLDEN)})
    products = Product("gemm", 2 * 4096**3, 2), Product("attention", 4 * 32 * 2048**2 * 128)
    expected = 2 * 238.0e6 + 150.0e6
    assert device.compute_ps(Work(1, 1, products)) == pytest.approx(expected, abs=1)
    assert device.compute_ps(Work(0, 2**31)) == pytest.approx(770.0e6, abs=1)
    assert device.compute_ps(Work(2 * 4096**3, 0)) == pytest.approx(238.0e6, abs=1)
    assert device.compute_ps(Work()) == 0
    assert set(table) == {"gemm", "attention", "memory"}


def test_what_lies_outside_and_how_far_times_are_off_is_said():
    shape = {"kind": "model", "layers": 2, "hidden": 64, "tokens": 64, "vocabulary": 99, "division": {"data": 2}}
    results = simulate(scenario(shape | {"device": str(GOLDEN)}, 2))
    said = results.notices
    assert len(said) == 3
    assert "with 90 % a time is longer or shorter than simulated by a factor of" in said[0]
    assert "extrapolated to 4 of 4 sizes of gemm" in said[1]
    assert "extrapolated to 1 of 1 sizes of attention" in said[2]
    document = results.to_dict()
    jsonschema.validate(document, json.loads(Path("configs/schemas/results.schema.json").read_text()))
    table = read_measured(GOLDEN, None)
    for one in document["computed"]:
        measured = table[one["kind"]]
        assert one["time_ns"] == pytest.approx(measured.time_ps(one["size"]) / 1000)
        assert one["high_ns"] / one["time_ns"] == pytest.approx(measured.error, rel=1e-5)
        assert one["time_ns"] / one["low_ns"] == pytest.approx(measured.error, rel=1e-5)
    outside = Counter(one["kind"] for one in document["computed"] if one["extrapolated"])
    assert outside == {"gemm": 4, "attention": 1}
    (section,) = computed_sections(results)
    (shown,) = section.blocks
    assert isinstance(shown, Table)
    sizes = Counter(one["kind"] for one in document["computed"])
    assert [row[:2] for row in shown.rows] == [(kind, str(sizes[kind])) for kind in ("attention", "gemm", "memory")]
    peaks = simulate(scenario(shape | {"device": "h100"}, 2))
    assert "computed" not in peaks.to_dict()
    assert not computed_sections(peaks)


@each("memory, told", [(None, "takes no time"), (3350, None)])
def test_a_table_without_memory_takes_a_peak_or_says_so(tmp_path, memory, told):
    rows = [line for line in GOLDEN.read_text().splitlines() if not line.startswith(("memory", "attention"))]
    (tmp_path / "d.csv").write_text("\n".join(rows) + "\n")
    device = DeviceConfig.model_validate({"table": str(tmp_path / "d.csv"), "memory_gbps": memory})
    work = Work(0, 10**9, (Product("attention", 2 * 4096**3),))
    assert any("takes no time" in line for line in device.notices(device.computed([work]))) == (told is not None)
    longest = 238.0e6 if memory is None else 1e12 / (3350 * 0.8)
    assert device.compute_ps(work) == pytest.approx(longest, rel=1e-6)
