"""Slider figures: what stands in the HTML, that the frames are the pictures drawn, and that the live twin draws anew."""

import base64
import html
import io
import itertools
import json
import re
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from sdelib import plot, show
from sdelib.data import gm1

VIEW = "application/vnd.jupyter.widget-view+json"
ALT = "A grey square that grows darker from left to right along the slider."


def shade(value: float, other: float = 0.0) -> np.ndarray:
    """A picture from which the values can be read back: they are its two halves' greys."""
    picture = np.full((40, 60), value)
    picture[20:] = other
    return picture


def two_modes(distance: float):
    fig, ax = plot.panels()
    plot.line(ax, gm1(distance=distance), lim=6.0)
    ax.set_ylim(0, 0.6)
    return fig


class Shell:
    kernel = object()


@pytest.fixture
def shown(monkeypatch):
    """What a kernel would send for each call."""
    display = pytest.importorskip("IPython.display")
    import IPython

    bundles: list[dict] = []
    plt.switch_backend("Agg")
    monkeypatch.setattr(IPython, "get_ipython", Shell)
    monkeypatch.setattr(display, "display", lambda bundle, raw: bundles.append(bundle))
    return bundles


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == [], f"never closed: {self.open}"
        stored = re.search(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
        assert stored
        self.data = json.loads(stored[1])
        self.frames = [frame or self.one("img")["src"] for frame in self.data["frames"]]

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]

    def one(self, tag: str) -> dict:
        (attrs,) = self.all(tag)
        return attrs


def decoded(source: str) -> np.ndarray:
    kind, data = re.fullmatch(r"data:image/(webp|png);base64,(.*)", source).groups()
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.format == kind.upper()
    return np.asarray(picture.convert("RGB"))


# ---------------------------------------------------------------- the page
def test_frames_of_two_knobs_are_the_pictures_in_their_order(shown):
    first, second = [0.0, 0.4, 0.8], [0.2, 1.0]
    show.slider(shade, {"left": first, "right": second}, start=(0.4, 1.0), alt=ALT)
    page = Page(shown[0]["text/html"])
    assert page.data["texts"] == [["left", ["0", "0.4", "0.8"]], ["right", ["0.2", "1"]]]
    for source, (a, b) in zip(page.frames, itertools.product(first, second), strict=True):
        picture = decoded(source)
        assert picture.shape == (240, 360, 3)  # six times as large, so that it is seen
        # 8 bits a channel, and 64 colours are more than these pictures have
        assert picture[0, 0].tolist() == [round(255 * a)] * 3
        assert picture[-1, -1].tolist() == [round(255 * b)] * 3
    assert page.data["frames"].index(None) == 3, "the starting frame is stored once, in the picture"


def test_page_names_its_picture_and_its_knobs(shown):
    show.slider(shade, {"left < right": [0.0, 0.5]}, start=0.5, alt=ALT + ' "Dark"', play=True, format="{:.2f}")
    text = shown[0]["text/html"]
    page = Page(text)
    assert page.one("img")["alt"] == ALT + ' "Dark" (left < right: 0.50)'
    assert (page.one("img")["width"], page.one("img")["height"]) == ("360", "240")
    knob = page.one("input")
    assert {"type": "range", "min": "0", "max": "1", "value": "1", "aria-valuetext": "0.50"}.items() <= knob.items()
    assert re.search(r"<label>left &lt; right <input", text), "the range has a label of its own"
    assert "Play" in text
    assert "id" not in {name for _, attrs in page.tags for name in attrs}, "two copies on a page must not collide"
    assert "hidden" in next(a for a in page.all("div") if a["class"] == "sdelib-knobs"), "no dead knobs without script"
    assert not re.search(r"""["'(]\s*(https?:)?//""", re.sub(r"base64,[^\"]*", "", text)), "nothing is fetched"
    show.slider(shade, {"left": [0.0, 0.5]}, alt=ALT)
    assert Page(shown[1]["text/html"]).all("button") == []


def test_words_for_a_terminal_name_knobs_and_start(shown, capsys, monkeypatch):
    show.slider(shade, {"left": torch.tensor([-1.0, 0.5])}, alt=ALT)
    assert shown[0]["text/plain"] == f"{ALT}\n[left: −1 to 0.5 in 2 steps, at −1]"
    import IPython

    monkeypatch.setattr(IPython, "get_ipython", lambda: None)
    show.slider(shade, {"left": [0.0, 0.5]}, start=0.5, alt=ALT)
    assert capsys.readouterr().out == f"{ALT}\n[left: 0 to 0.5 in 2 steps, at 0.5]\n"


def test_figures_are_drawn_once_closed_and_the_same_twice(shown):
    with plot.style():
        for _ in range(2):
            show.slider(two_modes, {"distance": [1.0, 4.0]}, alt=ALT)
        assert plt.get_fignums() == []
        assert shown[0]["text/html"] == shown[1]["text/html"]
        frames = [decoded(source) for source in Page(shown[0]["text/html"]).frames]
        figure = two_modes(4.0)
    stored = io.BytesIO()
    figure.savefig(stored, format="png")
    plt.close(figure)
    drawn = np.asarray(Image.open(stored).convert("RGB"))
    assert frames[1].shape == drawn.shape
    # 64 colours hold a line drawing to a few of 255 levels at the worst pixel; another frame is off by far more
    assert np.abs(frames[1].astype(int) - drawn).max() <= 24
    assert np.abs(frames[0].astype(int) - drawn).max() > 150


def test_frames_made_beforehand_are_taken_as_they_are(shown):
    with plot.style():
        show.slider([two_modes(1.0), two_modes(4.0)], {"distance": ["near", "far"]}, start="far", alt=ALT)
        show.slider(two_modes, {"distance": [1.0, 4.0]}, alt=ALT)
    near, drawn = (Page(bundle["text/html"]).frames for bundle in shown)
    assert near == drawn
    assert plt.get_fignums() == []
    pictures = np.random.default_rng(0).integers(0, 2, (3, 8, 8, 3)).astype(np.uint8) * 255
    show.slider(pictures, {"step": [0, 10, 20]}, alt=ALT)
    for source, picture in zip(Page(shown[2]["text/html"]).frames, pictures, strict=True):
        np.testing.assert_array_equal(decoded(source)[22::45, 22::45], picture)


# ---------------------------------------------------------------- bad input
KNOB = {"left": [0.0, 0.5]}


@pytest.mark.parametrize(
    "draw, knobs, more, error, said",
    [
        (shade, {}, {}, ValueError, "knobs: needs at least one"),
        (shade, [1, 2], {}, ValueError, "knobs: needs at least one"),
        (shade, {" ": [1, 2]}, {}, ValueError, "label must be words"),
        (shade, {"left": 3}, {}, TypeError, "values of 'left' must be a list"),
        (shade, {"left": "ab"}, {}, TypeError, "values of 'left' must be a list"),
        (shade, {"left": [1, "b"]}, {}, TypeError, "finite numbers, or all strings"),
        (shade, {"left": [0.0, float("nan")]}, {}, TypeError, "finite numbers, or all strings"),
        (shade, {"left": [0.5]}, {}, ValueError, "at least two values"),
        (shade, {"left": [0.5, 0.5]}, {}, ValueError, "a value twice"),
        (shade, KNOB, {"start": 0.3}, ValueError, "start: 0.3 is not among the values of 'left'"),
        (shade, KNOB, {"start": (0.0, 0.5)}, ValueError, "start: needs one value for each of the 1 knobs"),
        (shade, KNOB, {"alt": ""}, ValueError, "alt: needs a sentence"),
        (shade, {"left": list(range(7)), "right": list(range(7))}, {}, ValueError, "7 × 7 = 49 frames, allowed are 48"),
        ([shade(0.0)], KNOB, {}, ValueError, "draw: 1 frames, but the knobs have 2 settings"),
        (lambda x: None, KNOB, {}, TypeError, "draw: must return a matplotlib figure"),
        (lambda x: np.zeros(3), KNOB, {}, ValueError, r"shape \(h, w\) or \(h, w, 3\), got \(3,\)"),
        ([np.zeros((4, 4)), np.zeros((4, 5))], KNOB, {}, ValueError, "all frames must have one size"),
    ],
)
def test_bad_input_meets_a_clear_error(shown, draw, knobs, more, error, said):
    with pytest.raises(error, match=said):
        show.slider(draw, knobs, **{"alt": ALT, **more})
    assert shown == []


def test_a_figure_beyond_its_budget_is_refused_with_its_sizes(shown):
    noise = np.random.default_rng(0).random((4, 400, 400))
    with pytest.raises(
        ValueError, match=r"the figure has \d+ kB of HTML, allowed are 300: 4 frames of 400 × 400 pixels"
    ):
        show.slider(noise, {"left": [1, 2, 3, 4]}, alt=ALT)


# ---------------------------------------------------------------- the live twin
@pytest.fixture
def widgets(shown):
    pytest.importorskip("ipywidgets")

    def made(*args, **kwargs):
        show.slider(*args, alt=ALT, **kwargs)
        from ipywidgets.widgets import widget

        box = widget._instances[shown[-1][VIEW]["model_id"]]
        image, fault, *knobs, words = box.children
        assert html.escape(ALT) in words.value
        return image, fault, knobs

    return made


def live(image) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image.value)).convert("RGB"))


def test_live_knob_of_floats_is_continuous_and_draws_anew(widgets):
    image, fault, (knob,) = widgets(shade, {"left": [0.0, 0.5, 1.0]}, start=0.5)
    assert (type(knob).__name__, knob.min, knob.max, knob.value) == ("FloatSlider", 0.0, 1.0, 0.5)
    assert live(image)[0, 0, 0] == 128
    knob.value = 0.2  # between the page's values
    assert live(image)[0, 0, 0] == 51
    assert fault.value == ""


def test_live_knob_follows_the_spacing_of_its_values(widgets):
    _, _, (knob, other) = widgets(shade, {"noise": [0.01, 0.1, 1.0], "n": [1, 2]}, start=(0.1, 2))
    assert (type(knob).__name__, knob.min, knob.max) == ("FloatLogSlider", -2.0, 0.0)
    assert knob.value == pytest.approx(0.1, rel=1e-12)  # ten to the minus one
    assert type(other).__name__ == "SelectionSlider", "integers may index what was made beforehand"
    assert (other.options, other.value) == ((("1", 1), ("2", 2)), 2)
    assert (knob.description, other.description) == ("noise", "n")


def test_live_frames_made_beforehand_switch_and_play(widgets):
    pictures = np.stack([shade(v) for v in (0.0, 0.4, 1.0)])
    image, _, (clock, knob) = widgets(pictures, {"step": [0, 10, 20]}, play=True)
    seen = [live(image)[0, 0, 0]]
    knob.value = 10
    seen.append(live(image)[0, 0, 0])
    clock.value = 2
    assert knob.value == 20
    seen.append(live(image)[0, 0, 0])
    assert seen == [0, 102, 255]


def test_live_error_is_said_and_goes_away(widgets):
    def fragile(value):
        if 0 < value < 0.5:
            raise ValueError("no <such> picture")
        return shade(value)

    image, fault, (knob,) = widgets(fragile, {"left": [0.0, 0.5, 1.0]})
    knob.value = 0.2
    assert "ValueError: no &lt;such&gt; picture" in fault.value
    assert live(image)[0, 0, 0] == 0
    knob.value = 1.0
    assert fault.value == ""
    assert live(image)[0, 0, 0] == 255


def test_without_a_kernel_there_is_no_widget(shown, monkeypatch):
    monkeypatch.setattr(Shell, "kernel", None)
    show.slider(shade, KNOB, alt=ALT)
    assert set(shown[0]) == {"text/plain", "text/html"}


def test_flat_colours_stay_as_they_are_drawn(shown):
    with plot.style():
        show.slider(two_modes, {"distance": [1.0, 4.0]}, alt=ALT)
    frame = decoded(Page(shown[0]["text/html"]).frames[1])
    card = [int(plot.CARD[i : i + 2], 16) for i in (1, 3, 5)]
    share = (frame == card).all(axis=2).mean()
    assert share > 0.9, "the card has one colour, not shades of it"
