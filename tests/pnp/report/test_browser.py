"""The page of `pnp report` in a real, headless Chromium: pictures move, keys work, nothing is fetched."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pnp.io import SavedResult
from pnp.report import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="needs the test extra playwright")

NAMES = ("chromium", "chromium-browser", "google-chrome")
SHAPE = (7, 6, 5)
PLANES = {"2": (2, (6, 7)), "1": (1, (5, 7)), "0": (0, (5, 6))}
"""Value of the choice of planes: the axis across, and (rows, columns) of a slice."""
BAD = (125, 141, 181)
"""The colour of pixels without a value, or not observed."""
PIXELS = """([selector]) => {
    const canvas = document.querySelector(selector), {width, height} = canvas;
    const copy = new OffscreenCanvas(width, height).getContext("2d", {willReadFrequently: true});
    copy.drawImage(canvas, 0, 0);
    return [width, height, Array.from(copy.getImageData(0, 0, width, height).data)];
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no Chromium: none of {', '.join(NAMES)} is installed")
    with playwright.sync_playwright() as running:
        root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        chromium = running.chromium.launch(executable_path=path, args=root)
        yield chromium
        chromium.close()


class Visit:
    """A page that is open, what it asked for and what it complained of."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.url = path.resolve().as_uri()
        self.page.goto(self.url)
        self.settle()

    def settle(self) -> None:
        self.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def press(self, selector: str, *keys: str) -> None:
        self.page.locator(selector).focus()
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()

    def choose(self, selector: str, value: str) -> None:
        self.page.locator(selector).select_option(value)
        self.settle()

    def pixels(self, selector: str = "#over canvas") -> np.ndarray:
        """Return the red, green and blue of a canvas, (H, W, 3)."""
        width, height, values = self.page.evaluate(PIXELS, [selector])
        return np.array(values).reshape(height, width, 4)[..., :3]

    def seen(self) -> bytes:
        """Return the stage as it is on the screen."""
        picture: bytes = self.page.locator("#stage").screenshot()
        return picture

    def checked(self) -> None:
        """Close the page, which has loaded itself alone and complained of nothing."""
        self.context.close()
        assert self.requests == [self.url]
        assert self.complaints == []


def grey(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip(np.floor((values - low) / (high - low) * 256), 0, 255)


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 1, SHAPE)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, volume: np.ndarray) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("report page")
    history = {"sigma": np.geomspace(1, 0.01, 9), "primal": np.geomspace(1, 1e-3, 9)}
    image = np.add.outer(np.linspace(0, 1, 30), np.linspace(0, 1, 40))[None, None]
    rng = np.random.default_rng(1)
    maps = 0.1 * rng.standard_normal((1, 2, 24, 24))
    maps[0, 0, 10, 15] = 3.0
    std = np.ones((1, 2, 24, 24))
    std[..., :6] = np.inf
    colour = rng.uniform(0, 1, (1, 3, 16, 16))
    long = "pnp reconstruct " + "a_very_long_name_without_a_space" * 8
    results = {
        "image": SavedResult(image, "radon", {"shape": (30, 40)}, 0.1, history, 2 - image),
        "volume": SavedResult(
            volume[None, None],
            "spect",
            {"voxel_size": (1.0, 2.0)},
            reference=1 - volume[None, None],
            history=history,
            attributes={"command": long, long: long},
        ),
        "lensing": SavedResult(maps, "kaiser_squires", noise_std=std),
        "colour": SavedResult(colour, attributes={"denoiser": "mlpatch:color"}),
    }
    for name, result in results.items():
        baselines = {"baseline": 0.5 * result.x} if name == "image" else None
        write_report(folder / f"{name}.html", result, baselines=baselines, title=f"{name} result")
    return {name: folder / f"{name}.html" for name in results}


def test_the_wipe_moves_by_key_and_by_pointer(browser, pages):
    visit = Visit(browser, pages["image"])
    middle = visit.seen()
    visit.press("#wipe", "Home")
    right = visit.seen()
    visit.press("#wipe", "End")
    left = visit.seen()
    assert len({left, middle, right}) == 3
    visit.press("#wipe", "ArrowLeft")
    assert visit.page.locator("#wipe").input_value() == "99" and visit.seen() != left
    assert "99 % baseline" in visit.page.locator("#wipe").get_attribute("aria-valuetext")
    box = visit.page.locator("#stage").bounding_box()
    visit.page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
    visit.page.mouse.down()
    visit.page.mouse.up()
    assert abs(float(visit.page.locator("#wipe").input_value()) - 25) <= 1
    readout = visit.page.locator("#readout").inner_text()
    assert "row 15" in readout and "reconstruction 0." in readout and "baseline 0." in readout
    visit.checked()


def test_the_colour_scale_is_shared_and_in_the_units_of_the_data(browser, pages):
    visit = Visit(browser, pages["image"])
    image = np.add.outer(np.linspace(0, 1, 30), np.linspace(0, 1, 40))
    visit.page.locator("#level-value").fill("0.8")
    visit.page.locator("#window-value").fill("1.2")
    visit.settle()
    assert (
        visit.page.locator("#bar-low").inner_text() == "0.2" and visit.page.locator("#bar-high").inner_text() == "1.4"
    )
    for selector, values in (
        ("#over canvas", image),
        ("#under canvas", image / 2),
        (".gallery figure:last-child canvas", 2 - image),
    ):
        assert np.abs(visit.pixels(selector) - grey(values, 0.2, 1.4)[..., None]).max() <= 1
    before = visit.pixels()
    visit.press("#window", "ArrowLeft", "ArrowLeft", "ArrowLeft")
    visit.press("#level", "PageUp")
    assert (visit.pixels() != before).any()
    visit.choose("#colour", "inferno")
    coloured = visit.pixels()
    assert (coloured[..., 0] != coloured[..., 2]).any()
    visit.page.locator("#auto").click()
    visit.settle()
    assert (visit.pixels() != coloured).any()
    visit.checked()


def test_differences_have_a_scale_around_zero(browser, pages):
    visit = Visit(browser, pages["image"])
    visit.choose("#left", "1")  # the reconstruction itself
    visit.press("#difference", "Space")
    assert len(np.unique(visit.pixels().reshape(-1, 3), axis=0)) == 1
    assert visit.page.locator("#bar-middle").inner_text() == "0" and not visit.page.locator("#wipe").is_visible()
    visit.choose("#left", "2")
    assert len(np.unique(visit.pixels().reshape(-1, 3), axis=0)) > 20
    visit.checked()


def test_slices_are_those_of_the_volume(browser, pages, volume):
    visit = Visit(browser, pages["volume"])
    visit.choose("#colour", "gray")
    visit.page.locator("#level-value").fill("0.5")
    visit.page.locator("#window-value").fill("1")
    visit.settle()
    for plane, (axis, size) in PLANES.items():
        visit.choose("#axis", plane)
        middle = SHAPE[axis] // 2
        for keys, k in (((), middle), (("ArrowRight",), middle + 1), (("Home",), 0)):
            visit.press("#slice", *keys)
            wanted = volume.take(k, axis).T if axis == 2 else volume.take(k, axis).T[::-1]
            shown = visit.pixels()
            assert shown.shape[:2] == size == wanted.shape
            assert np.abs(shown - grey(wanted, 0, 1)[..., None]).max() <= 1
            assert visit.page.locator("#slice-text").inner_text() == f"{k + 1} of {SHAPE[axis]}"
        box = visit.page.locator("#stage").bounding_box()
        ratio = size[1] / size[0] / (1 if axis == 2 else 2)  # voxels are twice as high as wide
        assert box["width"] / box["height"] == pytest.approx(ratio, rel=0.02)
    visit.checked()


def test_three_planes_stand_side_by_side_and_a_click_moves_the_others(browser, pages, volume):
    visit = Visit(browser, pages["volume"])
    visit.choose("#colour", "gray")
    visit.page.locator("#level-value").fill("0.5")
    visit.page.locator("#window-value").fill("1")
    visit.settle()
    places = [n // 2 for n in SHAPE]
    for clicked in (False, True):
        if clicked:
            axial = visit.page.locator(".planes figure .layer").first.bounding_box()
            visit.page.mouse.click(axial["x"] + axial["width"] * 1.5 / 7, axial["y"] + axial["height"] * 4.5 / 6)
            visit.settle()
            places[:2] = 1, 4
        for k, (axis, _) in enumerate(PLANES.values()):
            wanted = volume.take(places[axis], axis).T if axis == 2 else volume.take(places[axis], axis).T[::-1]
            shown = visit.pixels(f".planes figure:nth-child({k + 1}) canvas")
            assert np.abs(shown - grey(wanted, 0, 1)[..., None]).max() <= 1
    visit.checked()


def test_peaks_lie_on_their_pixels_with_b_beside_e(browser, pages):
    visit = Visit(browser, pages["lensing"])
    figures = visit.page.locator(".gallery figure")
    e, b = figures.nth(0).bounding_box(), figures.nth(1).bounding_box()
    assert e["y"] == b["y"] and e["x"] + e["width"] <= b["x"]
    ring, canvas = (figures.nth(0).locator(s).first.bounding_box() for s in ("circle.halo", "canvas"))
    assert (ring["x"] + ring["width"] / 2 - canvas["x"]) / canvas["width"] == pytest.approx(15.5 / 24, abs=0.01)
    assert (ring["y"] + ring["height"] / 2 - canvas["y"]) / canvas["height"] == pytest.approx(10.5 / 24, abs=0.01)
    shown = visit.pixels()
    assert (shown[:, :6] == BAD).all() and (shown[:, 6:] != BAD).any(axis=-1).all()
    visit.press("#observed", "Space")
    assert (visit.pixels() != BAD).any(axis=-1).all()
    visit.press("#peaks", "Space")
    assert visit.page.locator("circle.halo").count() == 0
    visit.checked()


def test_three_channels_are_a_colour_or_three_pictures(browser, pages):
    visit = Visit(browser, pages["colour"])
    colour = visit.pixels()
    visit.press("#rgb", "Space")
    red = visit.pixels()
    assert np.ptp(red, axis=2).max() == 0 and np.abs(red[..., 0] - colour[..., 0]).max() <= 1
    visit.press("#item", "End")
    assert np.abs(visit.pixels()[..., 0] - colour[..., 2]).max() <= 1
    visit.checked()


def test_every_control_has_a_name_and_is_reached_by_tab_with_a_ring(browser, pages):
    visit = Visit(browser, pages["volume"])
    controls = "[...document.querySelectorAll('input, select, button')].filter((e) => e.offsetParent)"
    nameless = f"{controls}.filter((e) => !(e.labels?.length || e.ariaLabel || e.textContent.trim())).map((e) => e.id)"
    assert visit.page.evaluate(nameless) == []
    wanted = set(visit.page.evaluate(f"{controls}.map((e) => e.id)"))
    assert {"wipe", "slice", "axis", "left", "right", "level", "window", "theme"} <= wanted
    reached: set[str] = set()
    for _ in range(len(wanted) + 8):
        visit.page.keyboard.press("Tab")
        name, ring = visit.page.evaluate(
            "[document.activeElement.id, getComputedStyle(document.activeElement).outlineStyle]"
        )
        reached.add(name)
        assert ring != "none" or not name, f"{name} shows no focus"
    assert wanted <= reached
    visit.checked()


def luminance(visit: Visit) -> tuple[int, int]:
    """Return the sums of red, green and blue of the page's background and text."""
    colours = visit.page.evaluate("['backgroundColor', 'color'].map((c) => getComputedStyle(document.body)[c])")
    a, b = (sum(int(v) for v in colour.strip("rgb()").split(",")) for colour in colours)
    return a, b


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_dark_and_light_follow_the_system_and_the_button(browser, pages, scheme):
    visit = Visit(browser, pages["image"], color_scheme=scheme)
    page, text = luminance(visit)
    assert (page < text) == (scheme == "dark") and abs(page - text) > 300
    assert visit.page.locator("#theme").get_attribute("aria-pressed") == str(scheme == "dark").lower()
    visit.press("#theme", "Enter")
    page, text = luminance(visit)
    assert (page < text) == (scheme == "light")
    visit.page.emulate_media(media="print")
    page, text = luminance(visit)
    assert page > text and not visit.page.locator("#wipe").is_visible()
    visit.checked()


@pytest.mark.parametrize("name", ["volume", "lensing"])
def test_a_phone_shows_all_of_it_without_scrolling_sideways(browser, pages, name):
    visit = Visit(browser, pages[name], viewport={"width": 375, "height": 700}, has_touch=True)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 375
    wide = (
        "[...document.querySelectorAll('main *')].filter((e) => e.offsetParent && !e.closest('.scroll, svg, .stage'))"
    )
    out = f"{wide}.filter((e) => e.getBoundingClientRect().right > 375.5).map((e) => e.tagName + e.id)"
    assert visit.page.evaluate(out) == []
    box = visit.page.locator("#stage").bounding_box()
    before = visit.seen()
    visit.page.touchscreen.tap(box["x"] + box["width"] * 0.1, box["y"] + box["height"] / 2)
    assert visit.seen() != before
    visit.checked()


def test_the_policy_forbids_what_the_page_does_not_do(browser, pages):
    visit = Visit(browser, pages["image"])
    tried = visit.page.evaluate(
        """async () => {
            const script = document.createElement("script");
            script.textContent = "window.ran = true";
            document.body.append(script);
            let fetched = true;
            try { await fetch("http://127.0.0.1:9/"); } catch { fetched = false; }
            const image = new Image();
            const loaded = await new Promise((done) => {
                [image.onload, image.onerror] = [() => done(true), () => done(false)];
                image.src = "http://127.0.0.1:9/x.png";
            });
            return [Boolean(window.ran), fetched, loaded];
        }"""
    )
    visit.context.close()
    assert tried == [False, False, False]
    assert len(visit.complaints) >= 3 and all("Content Security Policy" in text for text in visit.complaints[:2])
