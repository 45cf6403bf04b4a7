"""`pnp report` without a browser: what is in the page, that text stays text, how large it gets, what is refused."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from report_page import Page, noise, result

from pnp.io import SavedResult
from pnp.metrics import nrmse, pearson_r, psnr, ssim
from pnp.report import find_panels, render, write_report
from pnp.report.history import HEIGHT, WIDTH, charts
from pnp.report.images import MAX_ITEMS, block_mean, plan, quantise
from pnp.report.text import number

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u202e\x00\ud800"
SIDES = st.integers(1, 9)


def mass_map(channels: int = 1) -> SavedResult:
    std = np.ones((1, 2, 24, 24), "float32")
    std[..., :6] = np.inf
    return result((1, channels, 24, 24), operator="kaiser_squires", parameters={"shape": (24, 24)}, noise_std=std)


@settings(max_examples=30, deadline=None)
@given(
    shape=st.one_of(st.tuples(SIDES, SIDES), st.tuples(st.integers(1, 3), st.integers(1, 3), SIDES, SIDES)),
    bits=st.sampled_from((8, 16)),
    power=st.integers(-60, 60),
    seed=st.integers(0, 99),
)
def test_codes_hold_the_values_in_any_unit(shape, bits, power, seed):
    unit = 2.0**power
    values = noise(*shape, seed=seed) * unit
    values.flat[:: 1 + seed] = np.nan
    codes, unscaled = quantise(values, bits), quantise(values / np.float32(unit), bits)
    assert codes.text == unscaled.text
    stored = np.frombuffer(base64.b64decode(codes.text), "<u2" if bits == 16 else "u1").reshape(shape)
    assert np.array_equal(stored == 0, np.isnan(values))
    inside = values[stored > 0]
    if inside.size and not codes.clipped:
        error = np.abs(codes.low + (stored[stored > 0].astype(float) - 1) * codes.step - inside)
        assert error.max() <= 0.5001 * codes.step + 1e-7 * np.abs(inside).max()


def test_eight_bits_resolve_what_is_not_an_outlier():
    values = noise(1, 200, 200)
    values[0, 0, 0] = 1e6
    codes = quantise(values, 8)
    assert codes.clipped and codes.step < 10 / 254
    assert base64.b64decode(codes.text)[0] == 255


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 600), shape=st.lists(st.integers(1, 90), min_size=2, max_size=3), panels=st.integers(1, 4),
    limit=st.integers(3000, 10**6),
)  # fmt: skip
def test_pages_are_bounded(n, shape, panels, limit):
    stored = plan((n, *shape), panels, limit=limit)
    size = panels * math.prod(stored.shape) * stored.bits // 8
    assert size <= limit and len(stored.items) == stored.shape[0] <= MAX_ITEMS
    if stored.factor > 1:  # no finer one fits
        finer = math.prod(math.ceil(side / (stored.factor - 1)) for side in shape)
        assert panels * stored.shape[0] * finer > limit


@settings(max_examples=20, deadline=None)
@given(shape=st.tuples(st.integers(1, 2), SIDES, SIDES, SIDES), factor=st.integers(2, 4))
def test_blocks_are_averaged_over_finite_values(shape, factor):
    values = noise(*shape)
    values[..., ::3] = np.inf
    means = block_mean(values, factor)
    for index in np.ndindex(*means.shape):
        block = values[(index[0], *(slice(i * factor, (i + 1) * factor) for i in index[1:]))]
        inside = block[np.isfinite(block)]
        if not inside.size:
            assert np.isnan(means[index])
        else:
            assert means[index] == pytest.approx(inside.mean(dtype=float), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("shape", [(5, 7), (2, 5, 7), (1, 1, 5, 7), (2, 3, 5, 7), (1, 1, 4, 5, 6), (1, 1, 1, 1)])
def test_pictures_are_those_of_the_file(shape):
    r = result(shape)
    seen = Page(render(r, first={"fbp": 2 * r.x}, baselines={"tv": 3 * r.x}))
    assert list(seen.pictures) == ["fbp", "tv", "reconstruction", "truth"]
    size = shape[-3:] if len(shape) == 5 else shape[-2:]
    for name, values in (("fbp", 2 * r.x), ("tv", 3 * r.x), ("reconstruction", r.x), ("truth", r.reference)):
        assert seen.pictures[name].shape[1:] == size
        tolerance = np.ptp(values) / 65534 + 1e-6 * np.abs(values).max()
        assert np.abs(seen.pictures[name] - values.reshape(seen.pictures[name].shape)).max() <= tolerance
    assert len(seen.data["items"]) == math.prod(shape[: -len(size)])


def test_large_volumes_are_averaged_and_the_page_says_so():
    r = result((1, 1, 24, 20, 18), operator="spect", parameters={"voxel_size": (4.0, 6.0)}, reference=None)
    text = render(r, limit=1000)
    seen = Page(text)
    assert (seen.data["factor"], seen.data["bits"], seen.data["shape"]) == (3, 16, [1, 8, 7, 6])
    assert "means over blocks of 3 × 3 × 3, 8 × 7 × 6 of 24 × 20 × 18" in text and "MiB of pixels" in text
    assert seen.data["spacing"] == [1.0, 1.0, 1.5]


def test_long_batches_are_thinned():
    text = render(result((600, 1, 2, 2)))
    seen = Page(text)
    assert len(seen.data["items"]) == 200 and seen.data["items"][1] == "image 4 of 600"
    assert "200 of 600 images" in text


def test_the_page_says_how_the_result_was_made():
    text = render(result(), title="Slice 7", units="1/mm")
    for part in ("Slice 7", "pnp reconstruct y.h5 -o x.h5", "It converged.", "version_torch", "0.125", "radon · image"):
        assert part in text
    assert "array (9,), from 0 to 8" in text and "noise level of the denoiser" in text
    assert Page(text).data["units"] == "1/mm"


def test_steps_have_a_list_of_their_own():
    page = render(result((1, 1, 8, 8)), steps=["The axis is at bin 3.", EVIL])
    assert "<li>The axis is at bin 3.</li>" in page and "<img" not in page
    assert "From the measurements" in page and "From the measurements" not in render(result((1, 1, 8, 8)))


def test_figures_of_merit_follow_their_conventions():
    r = result((2, 1, 16, 20))
    text = render(r)
    x, truth = r.x, r.reference
    peak = float(truth.max() - truth.min())
    wanted = (nrmse(x, truth), psnr(x, truth, data_range=peak), ssim(x, truth, data_range=peak), pearson_r(x, truth))
    row = "".join(f"<td>{number(figure)}</td>" for figure in wanted)
    assert f'<th scope="row">reconstruction</th>{row}' in text
    assert f"data_range = {number(peak)} (the range of the truth)" in text
    unit = replace(r, x=np.abs(np.tanh(x)), reference=np.abs(np.tanh(truth)))
    assert "data_range = 1 (the truth lies in [0, 1])" in render(unit)


def test_mass_maps_are_compared_where_observed_without_their_mean():
    r = mass_map()
    mask = np.isfinite(r.noise_std).all(1, keepdims=True)
    other = replace(r, x=np.where(mask, r.x + 5, 1e3))
    a, b = r.x[mask].astype(float), r.reference[mask].astype(float)
    for text in (render(r), render(other)):
        assert f"<td>{number(nrmse(a, b, centred=True))}</td>" in text and "over the observed pixels" in text
        assert "SSIM is left out: the map has holes." in text


def test_e_and_b_modes_stand_side_by_side():
    both = mass_map(2)
    seen = Page(render(both, first={"Kaiser-Squires": both.x}))
    assert [(p["name"], p["mode"]) for p in seen.data["panels"]] == [
        ("Kaiser-Squires, E mode", "E"), ("Kaiser-Squires, B mode", "B"), ("reconstruction, E mode", "E"),
        ("reconstruction, B mode", "B"), ("truth, E mode", "E"), ("truth, B mode", "B"),
    ]  # fmt: skip
    assert np.allclose(seen.pictures["reconstruction, B mode"][0], both.x[0, 1], atol=1e-4)
    single = Page(render(mass_map(), b_mode=noise(1, 1, 24, 24)))
    assert [p["mode"] for p in single.data["panels"]] == ["E", "B", "E"]


def test_peaks_are_marked_inside_the_survey():
    r = mass_map()
    r.x[...] = 0.01 * noise(1, 1, 24, 24)
    r.x[0, 0, 10, 15], r.x[0, 0, 12, 2] = 1.0, 2.0  # the second is outside
    data = Page(render(r)).data
    (panel, _), seen = data["panels"], np.unpackbits(np.frombuffer(base64.b64decode(data["seen"]), "u1"))
    assert np.array_equal(seen.reshape(24, 24), np.isfinite(r.noise_std[0, 0]))
    assert panel["peaks"]["0"][0] == [10.5, 15.5]
    assert all(column > 6 for _, column in panel["peaks"]["0"])


def test_text_of_files_stays_text(tmp_path):
    evil = result(
        operator=EVIL,
        parameters={EVIL: EVIL, "list": [EVIL] * 60},
        history={EVIL: np.arange(3.0)},
        attributes={name: EVIL for name in ("command", "stop", "denoiser", "n_iter", EVIL)} | {"misfit": EVIL},
        warnings=(EVIL,),
    )
    text = render(evil, title=EVIL, units=EVIL, baselines={EVIL: evil.x}, first={EVIL + "2": evil.x})
    tame = result(
        operator="o",
        parameters={"p": "p", "list": ["p"] * 60},
        history={"h": np.arange(3.0)},
        attributes=dict.fromkeys(("command", "stop", "denoiser", "n_iter", "z"), "a") | {"misfit": "a"},
        warnings=("a",),
    )
    benign = render(tame, title="t", units="u", baselines={"b": tame.x}, first={"f": tame.x})
    tags = [[(tag, sorted(attributes)) for tag, attributes in Page(t).tags] for t in (text, benign)]
    assert tags[0] == tags[1]
    assert "\u202e" not in text and "\x00" not in text and "alert(1)</script>" not in text
    write_report(tmp_path / "evil.html", evil, title=EVIL)
    assert "alert(1)" in (tmp_path / "evil.html").read_text(encoding="utf-8")


def test_long_text_is_cut():
    text = render(result(attributes={f"a{i}": "x" * 10**5 for i in range(300)}))
    assert len(text) < 2e6 and "more characters" in text and "and 100 more" in text


def test_the_page_may_run_its_own_script_and_load_nothing():
    seen = Page(render(result()))
    (policy,) = (a["content"] for tag, a in seen.tags if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy and "http" not in policy
    scripts = [a for tag, a in seen.tags if tag == "script"]
    (script,) = (t for t, a in zip(seen.inside["script"], scripts, strict=True) if not a)
    assert all(a.get("type") in ("application/json", "text/plain") for a in scripts if a)
    for kind, code in (("script", script), ("style", seen.inside["style"][0])):
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert not re.search(
        r"\beval\(|new Function|fetch\(|XMLHttpRequest|import\(|url\(|@import", script + seen.inside["style"][0]
    )
    for _, attributes in seen.tags:
        assert "style" not in attributes and not any(name.startswith("on") for name in attributes)
        assert all(
            (attributes[name] or "").startswith(("data:", "#")) for name in ("src", "href") if name in attributes
        )


def test_the_same_result_gives_the_same_page():
    assert render(result()) == render(result())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reference": None}, "holds no truth"),
        ({"history": {}}, "holds no history"),
        ({"history": {"sigma": np.full(3, np.nan), "text": np.array(["a"]), "grid": np.ones((2, 2))}}, "no history"),
        ({"history": {}, "attributes": {"slices": "3 of 3"}}, "Slices of a volume"),
        ({"attributes": {}}, "The file does not say"),
        ({"operator": "", "parameters": {}, "noise_std": None}, "not named"),
        ({"reference": np.full((1, 1, 16, 20), np.nan)}, "nowhere finite"),
        ({"reference": np.zeros((1, 1, 16, 20))}, "Pearson"),
        ({"x": np.full((1, 1, 16, 20), np.nan)}, "320"),
        ({"x": np.full((1, 1, 16, 20), 1e300), "reference": np.full((1, 1, 16, 20), 1e-300)}, "Pearson"),
        ({"x": np.array([[[[-1.7e308, 1.7e308] * 10] * 16]])}, "Pearson"),
        ({"x": np.zeros((1, 1, 16, 20), bool), "reference": None}, "radon"),
        ({"x": np.full((1, 1, 16, 20), np.iinfo(np.int64).max)}, "Pearson"),
    ],
)  # fmt: skip
def test_what_is_missing_or_odd_is_said_or_drawn(changes, said):
    text = render(result(**changes))
    assert said in text
    Page(text)


def test_pixels_without_a_value_are_left_out_and_counted():
    r = result()
    r.x[0, 0, :2] = np.nan
    text = render(r)
    assert "compared where both are finite, 280 of 320" in text and "“no value”" in text
    assert np.isnan(Page(text).pictures["reconstruction"][0, :2]).all()


@pytest.mark.parametrize(
    ("changes", "options", "error", "part"),
    [
        ({"x": noise(1, 1, 4, 4) + 1j}, {}, TypeError, "complex"),
        ({"x": np.array(["a"])}, {}, TypeError, "real numbers"),
        ({"x": noise(4)}, {}, ValueError, "(B, C, H, W)"),
        ({"x": noise(1, 0, 4, 4)}, {}, ValueError, "not empty"),
        ({"x": noise(1, 1, 4, 4)}, {}, ValueError, "same grid"),
        ({}, {"baselines": {"tv": noise(1, 1, 8, 8)}}, ValueError, "'tv' must have the shape"),
        ({"operator": "spect"}, {"first": {"bp": noise(4, 4)}}, ValueError, "(B, C, nx, ny, nz)"),
    ],
)
def test_what_cannot_be_shown_is_refused(changes, options, error, part):
    with pytest.raises(error, match=re.escape(part)) as caught:
        find_panels(result(**changes), **options)
    assert len(str(caught.value)) < 400


@settings(max_examples=60, deadline=None)
@example(values=[5e-324])
@given(values=st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=30))
def test_charts_stay_inside_their_frame(values):
    drawn = charts({"sigma": np.array(values)})
    assert bool(drawn) == any(abs(v) < 1e300 for v in values)
    for svg in drawn:
        for points in re.findall(r'<path class="line-0" d="([^"]*)"', svg):
            numbers = np.array(re.findall(r"[ML]([-\d.a-z]+) ([-\d.a-z]+)", points), dtype=float).reshape(-1, 2)
            assert ((numbers >= 0) & (numbers <= (WIDTH, HEIGHT))).all()


def test_charts_are_logarithmic_over_decades_and_break_where_there_is_no_value():
    (svg,) = charts({"sigma": np.array([1.0, 0.1, np.nan, 0.01])})
    assert "logarithmic" in svg
    points = np.array(re.findall(r"[ML]([\d.]+) ([\d.]+)", svg), dtype=float)
    steps = np.diff(points[:, 1])
    assert steps[0] == pytest.approx(steps[1], abs=0.2) and steps[0] > 0  # a decade each, downwards
    assert re.search(r'd="M[\d. ]+L[\d. ]+M[\d. ]+"', svg)
    (linear,) = charts({"inner": np.arange(9)})
    assert "linear" in linear
    assert charts({"inner": np.zeros(9)}) == []


def test_charts_of_a_batch_show_the_lowest_and_the_highest_of_its_images():
    levels = np.array([[1.0, 20.0, 3.0], [0.5, np.inf, 2.0], [np.nan, np.nan, np.nan]])
    (svg,) = charts({"sigma": levels.tolist()})
    assert "lowest of the images</span> ends at 0.5" in svg and "highest of the images</span> ends at 2" in svg
    low, high = (re.search(rf'<path class="line-{i}" d="([^"]*)"', svg)[1] for i in range(2))
    lows, highs = (np.array(re.findall(r"[ML]([\d.]+) ([\d.]+)", path), dtype=float) for path in (low, high))
    assert len(lows) == len(highs) == 2 and (lows[:, 1] > highs[:, 1]).all()  # downwards
    assert charts({"sigma": np.full((2, 3), np.nan), "alpha": np.ones((0, 3)), "inner": np.zeros((3, 2))}) == []
