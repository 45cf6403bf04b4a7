"""The order of files by the numbers in their names, and what is said of names that do not fit."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
import tifffile
from reader_files import refused

from pnp.readers import read_tiff_stack


def write(folder, names):
    """Files in a random order, whose pixels are the place of their name in the list."""
    for k, name in random.Random(0).sample(list(enumerate(names)), len(names)):
        (folder / name).parent.mkdir(exist_ok=True)
        tifffile.imwrite(folder / name, np.full((2, 3), k, np.uint16))
    return folder


ORDERS = {
    "plain": [f"p_{k}.tif" for k in range(12)],
    "mixed padding": ["p_8.tif", "p_09.tif", "p_010.tif", "p_11.tif"],
    "decimals": [f"p_{a}.tif" for a in np.arange(0, 2.01, 0.25)],
    "decimals of one length": [f"p_{a:.2f}.tif" for a in np.arange(0, 12, 0.5)],
    "decimal commas": ["p_0,25.tif", "p_0,5.tif", "p_0,75.tif", "p_1.tif"],
    "no decimals": [f"scan_1.{k}.tif" for k in range(1, 13)],
    "behind a point": [f"scan.{k:04d}.tif" for k in range(8, 12)],
    "dates": [f"2024.01.{day:02d}_{k}.tif" for day in (5, 12) for k in (1,)],
    "negative": [f"tilt_{a}.tif" for a in range(-6, 7, 3)],
    "negative decimals": [f"tilt_{a}.tif" for a in (-1.5, -0.75, 0.0, 0.75, 1.5)],
    "all negative": [f"tilt_{a}.tif" for a in range(-12, -2, 3)],
    "signed": [f"tilt_{a:+d}.tif" for a in range(-6, 7, 3)],
    "signs behind letters": [f"tilt{a}.tif" for a in range(-6, 7, 3)],
    "hyphens": [f"scan-{k:03d}.tif" for k in range(8, 12)],
    "hyphens behind a line": [f"scan_-{k:03d}.tif" for k in range(8, 12)],
    "hyphens between numbers": [f"2024-01-05-{k}.tif" for k in range(8, 12)],
    "exponents": ["p_1e-05.tif", "p_0.001.tif", "p_0.25.tif", "p_2.5e+01.tif", "p_1e+02.tif"],
    "letters that are no exponents": [f"s{k}e{k}.tif" for k in range(8, 12)],
    "by degrees": [f"p_{a}deg.tif" for a in range(0, 360, 90)],
    "number and angle": [f"p_{k:04d}_{(137.5 * k) % 360}.tif" for k in range(6)],
    "other suffix": ["p_1.tif", "p_2.TIFF", "p_3.Tif"],
}


@pytest.mark.parametrize("names", ORDERS.values(), ids=ORDERS)
def test_files_come_in_the_order_of_their_numbers(tmp_path, names):
    write(tmp_path, names)
    for path in (tmp_path, tmp_path / "*"):
        np.testing.assert_array_equal(read_tiff_stack(path)[:, 0, 0], range(len(names)))


def test_folders_with_numbers(tmp_path):
    write(tmp_path, [f"{a}/p.tif" for a in (1, 2, 10)])
    np.testing.assert_array_equal(read_tiff_stack(tmp_path / "*" / "p.tif")[:, 0, 0], range(3))


@pytest.mark.parametrize("pattern", [".", "Sample_*.tif"])
@pytest.mark.parametrize("strays", [["Sample_180deg.tif", "Sample_360deg.tif"], ["Sample_0000_180 degrees.tif"]])
def test_views_beside_the_series_are_left_out(tmp_path, pattern, strays):
    write(tmp_path, [*(f"Sample_{k:03d}.tif" for k in range(200)), *strays])
    with pytest.warns(UserWarning, match=strays[-1]):
        stack = read_tiff_stack(tmp_path / pattern)
    np.testing.assert_array_equal(stack[:, 0, 0], range(200))


@pytest.mark.parametrize("pattern", [".", "*.tif"])
@pytest.mark.parametrize(
    ("names", "part"),
    [
        (["p_1.tif", "p_2.tif", "flat_1.tif"], "flat_#, p_#"),
        (["p_1.tif", "p_2.tif", "p_2b.tif"], "p_#, p_#b"),
        (["p_1.tif", "p_180deg.tif"], "p_#, p_#deg"),
        (["p_1.tif", "p_01.tif", "p_2.tif"], "p_1.tif have the same numbers"),
        (["p_0.5.tif", "p_00.5.tif"], "have the same numbers"),
        (["scan-001.tif", "scan001.tif"], "scan#, scan-#"),
    ],
)
def test_names_that_are_no_series(tmp_path, pattern, names, part):
    assert part in refused(read_tiff_stack, write(tmp_path, names) / pattern)


@pytest.mark.parametrize(
    ("numbers", "missing"),
    [
        ([*range(5), *range(7, 12)], "without 5, 6;"),
        ([*range(5), *range(50, 100)], "without 5, 6, 7, 8, 9, 10 and 39 more;"),
        (range(-9, 7, 3), ""),
        ([-9, -6, 0, 3, 6], "without -3;"),
        ([0.14, 0.28, 0.42, 0.56, 0.70, 0.85], ""),
        ([0.25, 0.5, 1.0, 1.25, 1.5], "without 0.75;"),
        ([1, 2, 3, 5, 8, 13, 21], ""),  # no even step
        ([7], ""),
    ],
)
def test_missing_numbers_are_named(tmp_path, numbers, missing):
    write(tmp_path, [f"p_{n}.tif" for n in numbers])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(read_tiff_stack(tmp_path)) == len(numbers)
    assert [missing in str(w.message) and "test_tiff_names" in w.filename for w in caught] == [True] * bool(missing)


def test_two_numbers_that_leave_the_order_open(tmp_path):
    write(tmp_path, [f"z{z}_t{t}.tif" for z in range(2) for t in range(3)])
    with pytest.warns(UserWarning, match="differ in 2 numbers"):
        np.testing.assert_array_equal(read_tiff_stack(tmp_path)[:, 0, 0], range(6))
