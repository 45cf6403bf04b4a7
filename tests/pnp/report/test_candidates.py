"""The chart of the strengths that were tried, and the sentence on the one that was chosen."""

from __future__ import annotations

import math
import re

import pytest
from report_page import Page, result

from pnp.report import render
from pnp.report.candidates import MAX_IMAGES, candidate_charts, choice
from pnp.report.history import BOTTOM, HEIGHT, TOP

TRIED = ((1.0, 8, 1.0897, 0.021), (1.0, 24, 1.141, 0.024), (1.0, 12, 1.0963, 0.022), (10**0.5, 8, 1.138, 0.02))
SOURCE = {"strength": 1.0, "strength_source": "by 5% of the measurements, held out in blocks", "misfit": 1.0}


def test_marks_stand_at_their_errors_from_weak_to_strong_with_bars():
    (svg,) = candidate_charts(result(candidates=(TRIED,)))
    marks = [(colour, float(x), float(y)) for colour, x, y in re.findall(r'"dot-(\d)" cx="(\S+)" cy="(\S+)"', svg)]
    assert [x for _, x, _ in marks] == sorted(x for _, x, _ in marks)
    order = [TRIED[1], TRIED[2], TRIED[0], TRIED[3]]  # 24, 12 and 8 iterations, then the stronger one
    assert [colour for colour, _, _ in marks] == ["0", "0", "1", "0"]
    bars = [tuple(map(float, pair)) for pair in re.findall(r'"line-\d" d="M\S+ (\S+)V(\S+)"', svg)]
    # Heights are linear in the errors: two marks give the scale, and all others and the bars' ends follow.
    scale = (marks[1][2] - marks[0][2]) / (order[1][2] - order[0][2])
    for (_, _, y), (below, above), (_, _, error, se) in zip(marks, bars, order, strict=True):
        assert y == pytest.approx(marks[0][2] + scale * (error - order[0][2]), abs=0.3)
        assert below - above == pytest.approx(-2 * scale * se, abs=0.3)
        assert TOP <= above < below <= HEIGHT - BOTTOM
    assert "strength 1, 8 iterations: 1.09 ± 0.021 where the noise alone gives 1" in svg


def test_the_page_says_what_was_chosen_and_shows_it_first_among_the_charts():
    text = render(result(attributes=SOURCE, candidates=(TRIED,)))
    Page(text)
    assert "Prior strength 1, by 5% of the measurements, held out in blocks: prediction" in text
    assert "prediction error 1.09 ± 0.021" in text
    assert text.index("prediction error of what was tried") < text.index("noise level of the denoiser")
    assert choice(result()) == "" and candidate_charts(result()) == []
    default = {"strength": 1.0, "strength_source": "the default: too few <measurements>"}
    assert "Prior strength 1, the default: too few &lt;measurements&gt;." in render(result(attributes=default))


def test_each_image_of_a_batch_has_a_chart_up_to_a_limit():
    charts = candidate_charts(result(candidates=(TRIED, TRIED[1:])))
    assert len(charts) == 2 and "image 2 of 2" in charts[1]
    assert len(candidate_charts(result(candidates=(TRIED,) * (MAX_IMAGES + 3)))) == MAX_IMAGES
    attributes = SOURCE | {"strength": (1.0, 1.0)}
    assert "for each image by 5%" in render(result((2, 1, 8, 8), attributes=attributes, candidates=(TRIED,) * 2))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
def test_numbers_that_cannot_be_drawn_leave_a_page(bad):
    tried = ((1.0, 8, bad, bad), (bad, 12, 1.0, bad), (1.0, 24, 1.0, 0.0))
    text = render(result(attributes=SOURCE | {"strength": bad}, candidates=(tried, (), (tried[0],))))
    Page(text)
    assert "nan" not in "".join(re.findall(r'(?:cy|y1|d)="[^"]*"', text).__str__()).lower()
