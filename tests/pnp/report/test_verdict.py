"""The box at the top of a page, and the pictures of the measurements that were taken for outliers."""

from __future__ import annotations

import re

import numpy as np
import pytest
from report_page import Page, result

from pnp.report import render
from pnp.report.history import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from pnp.report.verdict import MAX_CELLS, MAX_WARNINGS, mask_pictures, verdict


def said(**changes) -> str:
    misfit = changes.pop("misfit", 1.016)
    return verdict(result(attributes={} if misfit is None else {"misfit": misfit}, **changes))


def test_the_verdict_stands_above_the_pictures():
    text = render(result(attributes={"misfit": 16.34}, warnings=("noise_std is too low.", "3 outliers <remain>.")))
    assert text.index("Verdict: 2 warnings") < text.index('id="viewer"')
    assert "Misfit 16.3;" in text and "3 outliers &lt;remain&gt;." in text and 'class="verdict alarm"' in text
    Page(text)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"warnings": ()}, "Nothing looked wrong."),
        ({"warnings": None}, "does not say whether anything looked wrong"),
        ({"misfit": None}, "does not say how well"),
        ({"misfit": "text"}, "does not say how well"),
        ({"misfit": float("nan")}, "Misfit not a number;"),
        ({"rejected": np.zeros((1, 1, 4, 5), bool)}, "No measurement was rejected"),
        ({"rejected": np.eye(4, 5, dtype=bool), "n_rejected": 4}, "4 of 20 (20 %) measurements were rejected"),
        ({"warnings": ("a",) * (MAX_WARNINGS + 3)}, "and 3 more"),
    ],
)
def test_what_the_file_says_is_said_and_no_more(changes, part):
    text = said(**changes)
    assert part in text and ("alarm" in text) == bool(changes.get("warnings"))


def marked(svg: str, shape: tuple[int, int]) -> np.ndarray:
    """Return the cells that the path of a picture covers."""
    cells = np.zeros(shape, bool)
    for x, y, w, back in re.findall(r"M(\d+) (\d+)h(\d+)v1h-(\d+)z", svg):
        assert w == back
        cells[int(y), int(x) : int(x) + int(w)] = True
    return cells


def test_the_picture_of_a_mask_is_the_mask():
    mask = np.random.default_rng(0).random((60, 90)) < 0.2
    (svg,) = mask_pictures(result(rejected=mask[None, None]))
    np.testing.assert_array_equal(marked(svg, mask.shape), mask)
    scale = [float(part) for part in re.search(r"scale\((\S+) (\S+)\)", svg).groups()]
    assert scale == pytest.approx([(WIDTH - LEFT - RIGHT) / 90, (HEIGHT - TOP - BOTTOM) / 60], rel=1e-5)
    assert f"{mask.sum()} of 5400" in svg and "bin 0 to 89; view 0 to 59, downwards" in svg
    assert svg in render(result(rejected=mask[None, None]))


def test_one_rejected_measurement_of_many_can_be_seen():
    mask = np.zeros((2, 1, 1000, 725), bool)
    mask[1, 0, 999, 724] = True
    (svg,) = mask_pictures(result(rejected=mask, operator="mask"))
    cells = marked(svg, (143, 182))  # blocks of 7 x 4
    assert cells.sum() == 1 and cells[-1, -1] and all(n <= most for n, most in zip(cells.shape, MAX_CELLS, strict=True))
    assert "a mark stands for 7 × 4 of them" in svg and "all images and channels" in svg and "column 0 to 724" in svg


def test_masks_without_marks_or_with_more_axes_have_no_picture():
    assert mask_pictures(result()) == []
    assert mask_pictures(result(rejected=np.zeros((1, 1, 4, 5), bool))) == []
    assert mask_pictures(result(rejected=np.ones((1, 1, 3, 4, 5), bool))) == []
    parts = (np.eye(4, dtype=bool)[None, None], None, np.ones((1, 1, 2, 2), bool))
    first, third = mask_pictures(result(rejected=parts))
    assert "part 1" in first and "part 3" in third
    assert "no history" in render(result(history={}, rejected=parts))
