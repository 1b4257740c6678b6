"""A slider on a page without a kernel: by mouse and by keyboard, wide, on a phone, in the dark, from a folder."""

import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page

from tests.book.conftest import ROOT, STEM
from tests.book.pages import LOOKS
from tools import site

pytestmark = [pytest.mark.book, pytest.mark.browser]

VALUES = ["4", "6", "10", "16", "25", "40", "63", "100"]


@pytest.fixture(scope="module")
def rendered(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small book's chapter as a page; the slider stands on it twice."""
    root = tmp_path_factory.mktemp("figures")
    shutil.copytree(finished, root, ignore=shutil.ignore_patterns("_build"), dirs_exist_ok=True)
    shutil.copytree(ROOT / "book" / "_static" / "vendor", root / "book" / "_static" / "vendor")
    path = root / "notebooks" / f"{STEM}.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    (cell,) = [c for c in notebook["cells"] if "show.slider" in "".join(c["source"])]
    copy = json.loads(json.dumps(cell))
    copy["id"] = "copy"
    copy["metadata"]["mystnb"]["figure"]["name"] = "fig-copy"
    notebook["cells"].append(copy)
    path.write_text(json.dumps(notebook), encoding="utf-8")
    assert site.build(root) == 0
    return root / "_build" / "html" / "notebooks" / f"{STEM}.html"


@pytest.fixture(params=LOOKS)
def page(request, browser, rendered) -> Iterator[Page]:
    """The page; at the end nothing may have gone wrong on it, nor may it have asked for anything."""
    context = browser.new_context(**LOOKS[request.param])
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.goto(rendered.as_uri(), wait_until="load")
    page.evaluate("() => MathJax.startup.promise")
    # the tab's icon is asked for when the browser finds time, on a busy machine after the page has loaded
    own = lambda url: url.startswith("data:image/") or url.endswith("/_static/favicon.svg")
    page.on("request", lambda r: None if own(r.url) else wrong.append(f"asked: {r.url}"))
    yield page
    assert wrong == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
    context.close()


def pixels(page: Page, at: int = 0) -> np.ndarray:
    """What the picture shows, as seen."""
    image = page.locator(".sdelib-slider img").nth(at)
    image.scroll_into_view_if_needed()
    image.evaluate("i => i.decode()")
    return np.asarray(Image.open(io.BytesIO(image.screenshot())).convert("RGB"))


def state(page: Page, at: int = 0) -> tuple[str, str, str]:
    """The value that is written, the one that is spoken, and the fingerprint of the picture's source."""
    root = page.locator(".sdelib-slider").nth(at)
    source = root.locator("img").get_attribute("src")
    return (
        root.locator("output").inner_text(),
        root.locator("input").get_attribute("aria-valuetext"),
        hashlib.sha256(source.encode()).hexdigest()[:8],
    )


def test_keys_move_the_slider_and_change_what_is_seen(page):
    slider = page.get_by_role("slider", name="steps n").first
    before, other = pixels(page), state(page, 1)
    assert state(page)[:2] == ("25", "25"), "it starts where the author said"
    slider.focus()
    seen = {state(page)[2]}
    for key, value in [("ArrowRight", "40"), ("ArrowUp", "63"), ("Home", "4"), ("ArrowRight", "6"), ("End", "100")]:
        page.keyboard.press(key)
        assert state(page)[:2] == (value, value)
        seen.add(state(page)[2])
    assert len(seen) == 6, "each value has its own picture"
    after = pixels(page)
    assert after.shape == before.shape
    # the bars of n = 25 reach to 0.08 and those of n = 100 to 0.04: a good part of the picture changes from grey to white
    assert (np.abs(after.astype(int) - before).max(axis=2) > 30).mean() > 0.02
    assert "steps n: 100" in page.locator(".sdelib-slider img").first.get_attribute("alt")
    assert state(page, 1) == other, "the second figure keeps its own state"
    page.keyboard.press("Home")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    np.testing.assert_array_equal(pixels(page), before)


def test_dragging_moves_the_second_slider(page):
    slider = page.get_by_role("slider", name="steps n").nth(1)
    slider.scroll_into_view_if_needed()
    before, other = pixels(page, 1), state(page, 0)
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 4 / 7, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 9, middle, steps=5)
    page.mouse.up()
    assert state(page, 1)[0] == VALUES[0]
    assert (np.abs(pixels(page, 1).astype(int) - before).max(axis=2) > 30).mean() > 0.02
    assert state(page, 0) == other


def test_play_waits_for_a_click_advances_and_stops_at_the_end(page):
    page.wait_for_timeout(1000)
    assert state(page)[0] == "25", "nothing moves by itself"
    button = page.get_by_role("button", name="Play").first
    size = button.bounding_box()
    assert min(size["width"], size["height"]) >= 24
    button.focus()
    page.keyboard.press("Enter")
    assert state(page)[0] == "40"
    output = page.locator(".sdelib-slider output").first
    page.wait_for_function("o => o.textContent === '100'", arg=output.element_handle())
    assert page.locator(".sdelib-slider button").first.inner_text() == "Play", "it stopped"
    button.focus()
    page.keyboard.press("Space")  # from the start again
    assert state(page)[0] == "4"
    page.wait_for_function("o => o.textContent !== '4'", arg=output.element_handle())
    page.keyboard.press("Space")
    paused = state(page)[0]
    page.wait_for_timeout(1000)
    assert state(page)[0] == paused
    assert page.locator(".sdelib-slider button").first.inner_text() == "Play"


def test_picture_and_knobs_fit_the_page(page):
    width = page.viewport_size["width"]
    for part in ("img", "input", "output", "button"):
        box = page.locator(f".sdelib-slider {part}").first.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width, part
    assert page.locator(".sdelib-slider input").first.bounding_box()["height"] >= 24
    assert page.locator(".sdelib-slider input").first.bounding_box()["width"] >= 90
    # a card in the dark as well: the picture's ground is as light as the author drew it
    assert np.median(pixels(page)) > 245
    caption = page.locator("figure:has(.sdelib-slider) figcaption").first
    assert caption.inner_text().startswith("Fig. 99.2")


def test_without_script_there_is_a_picture_and_no_dead_knob(browser, rendered):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(rendered.as_uri())
    assert page.locator(".sdelib-slider img").first.is_visible()
    assert not page.locator(".sdelib-slider input").first.is_visible()
    context.close()
