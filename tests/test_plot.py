"""The language of pictures: colours that can be told apart, scales that are shared, pictures that fit a page."""

import itertools
import math
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.text import Text

from sdelib import VP, data, plot


@pytest.fixture(autouse=True)
def _styled():
    plt.switch_backend("agg")
    with plot.style():
        yield
        plt.close("all")


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def png(fig, tmp_path):
    """Size in bytes and in pixels of what a notebook would store."""
    path = tmp_path / "picture.png"
    fig.savefig(path, bbox_inches="tight")
    height, width = plt.imread(path).shape[:2]
    return path.stat().st_size, width, height


# --- colours ----------------------------------------------------------------------------------------------------

# Machado, Oliveira and Fernandes (2009), table 1, severity 1.0; they act on linear RGB.
SEEN_BY = {
    "everybody": np.eye(3),
    "protanopes": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopes": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopes": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear_rgb(hex_color):
    v = np.array([int(hex_color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIELAB under D65 from linear sRGB."""
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    x = np.array(to_xyz) @ rgb / [0.95047, 1.0, 1.08883]
    f = np.where(x > (6 / 29) ** 3, np.cbrt(x), x / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_the_lab_of_known_colours():
    np.testing.assert_allclose(lab(linear_rgb("#FF0000")), [53.24, 80.09, 67.20], atol=0.02)  # Lindbloom's tables
    np.testing.assert_allclose(lab(linear_rgb("#FFFFFF")), [100.0, 0.0, 0.0], atol=0.02)


@pytest.mark.parametrize("viewer", SEEN_BY)
def test_any_two_roles_can_be_told_apart_by(viewer):
    """At least 20 CIELAB units; 2 are just noticeable side by side, the Okabe-Ito palette with grey keeps 9.5."""
    seen = {r: lab(np.clip(SEEN_BY[viewer] @ linear_rgb(c), 0, 1)) for r, c in plot.COLORS.items()}
    gap, one, other = min((float(np.linalg.norm(seen[a] - seen[b])), a, b) for a, b in itertools.combinations(seen, 2))
    assert gap >= 20, f"{one} and {other} are {gap:.1f} apart for {viewer}"


def contrast(one, other):
    low, high = sorted(float(linear_rgb(c) @ [0.2126, 0.7152, 0.0722]) + 0.05 for c in (one, other))
    return high / low


@pytest.mark.parametrize("role", plot.COLORS)
def test_marks_and_letters_stand_out_from_the_card(role):
    assert contrast(plot.COLORS[role], plot.CARD) >= 2.8
    _, ax = plot.panels()
    words = plot.label(ax, 0, 0, "x", role)
    assert contrast(words.get_color(), plot.CARD) >= 4.5  # WCAG 2, level AA, for text


def test_roles_differ_in_line_too_where_they_are_compared():
    assert plot.look("exact")["linestyle"] == "-"
    assert len({str(plot.look(role)["linestyle"]) for role in ("exact", "learned", "wrong")}) == 3
    with pytest.raises(ValueError, match="role: needs one of 'data', .*, got 'blue'"):
        plot.color("blue")


# --- scales -----------------------------------------------------------------------------------------------------


def test_densities_that_are_compared_share_one_scale_and_one_bar():
    law, sde = data.gm2(), VP()
    laws = [law.at(sde, t) for t in (0.05, 0.3, 0.9)]
    fig, axs = plot.panels(1, 3, square=True)
    top = plot.density(axs, laws)
    assert len(fig.axes) == 4  # three panels, one bar
    drawn = [ax.collections[0] for ax in axs]
    for other in drawn[1:]:
        np.testing.assert_array_equal(drawn[0].levels, other.levels)
    side = torch.linspace(-3, 3, 161)
    points = torch.cartesian_prod(side, side)
    highest = max(float(one.log_prob(points).exp().max()) for one in laws)
    assert highest <= top < 2 * highest
    assert (drawn[0].levels[0], drawn[0].levels[-1]) == (0, pytest.approx(top))


def test_a_density_lies_where_its_law_does():
    """Contours of a narrow law far off the diagonal: x1 runs right, x2 up."""
    from sdelib import Gaussian

    _, ax = plot.panels(square=True)
    plot.density(ax, Gaussian(torch.tensor([1.5, -1.0]), 0.04), bar=False)
    highest = [p for p in ax.collections[0].get_paths() if len(p.vertices)][-1]
    np.testing.assert_allclose(highest.vertices.mean(0), [1.5, -1.0], atol=0.1)


def test_values_above_the_scale_are_said_to_be():
    fig, ax = plot.panels(square=True)
    assert plot.density(ax, data.gm2(), vmax=0.1) == 0.1
    fig.canvas.draw()
    assert fig.axes[1].get_yticklabels()[-1].get_text() == "≥ 0.1"


def test_signed_values_are_centred_on_the_card():
    _, ax = plot.panels(square=True)
    top = plot.density(ax, lambda x: x[:, 0] / 3, signed=True)
    drawn = ax.collections[0]
    assert drawn.levels[0] == -top
    assert to_hex(drawn.cmap(drawn.norm(0.0))).upper() == plot.CARD


def test_arrows_are_the_score_up_to_the_stated_length():
    law = data.gm2()
    _, ax = plot.panels(square=True)
    top = plot.arrows(ax, law, n=12)
    quiver = ax.collections[0]
    shown, true = np.stack([quiver.U, quiver.V], 1), law.score(torch.tensor(quiver.XY)).numpy()
    length, size = np.linalg.norm(true, axis=1), np.linalg.norm(shown, axis=1)
    unit = size[length < top] / length[length < top]
    np.testing.assert_allclose(unit, unit[0], rtol=1e-5)  # float32 scores
    np.testing.assert_allclose(size[length >= top], unit[0] * top, rtol=1e-5)
    np.testing.assert_allclose((shown * true).sum(1), size * length, rtol=1e-5)  # parallel
    assert (size <= 2 * 3 / 12).all()  # no arrow reaches beyond its own cell
    assert f"|score| ≥ {top:g}" in ax.texts[0].get_text()


def test_arrows_that_are_compared_share_one_length():
    sde, law = VP(), data.gm2()
    fig, axs = plot.panels(1, 2, square=True)
    top = plot.arrows(axs, [law.at(sde, 0.1), law.at(sde, 0.9)], n=6)
    one, two = (ax.collections[0] for ax in axs)
    for quiver, t in ((one, 0.1), (two, 0.9)):
        true = law.at(sde, t).score(torch.tensor(quiver.XY)).numpy()
        short = np.linalg.norm(true, axis=1) < top
        np.testing.assert_allclose(
            np.hypot(quiver.U, quiver.V)[short], np.linalg.norm(true, axis=1)[short] * 0.92 / top, rtol=1e-4
        )
    assert f"{top:g}" in fig._supxlabel.get_text()


def test_a_score_that_takes_time_is_asked_at_that_time():
    asked = []
    _, ax = plot.panels(square=True)
    plot.arrows(ax, lambda x, t: asked.append(t) or -x, t=0.25, n=3)
    assert torch.equal(asked[0], torch.full((9,), 0.25))


def test_histograms_are_densities():
    x = torch.tensor([0.1, 0.2, 0.9, 5.0])
    _, ax = plot.panels()
    steps = plot.hist(ax, x, lim=(0.0, 1.0), bins=4)
    values, edges, _ = steps.get_data()
    np.testing.assert_allclose(values, [2.0, 0.0, 0.0, 1.0])  # counts over 4 samples over a width of 1/4
    assert float((values * np.diff(edges)).sum()) == pytest.approx(0.75)  # the share inside


def test_lines_are_the_law_or_the_function():
    _, ax = plot.panels()
    x, y = plot.line(ax, data.g1(), lim=2).get_data()
    np.testing.assert_allclose(y, np.exp(-((x - 0.5) ** 2) / 0.5) / math.sqrt(0.5 * math.pi), rtol=1e-5)
    x, y = plot.line(ax, torch.tanh, "learned", lim=(0.0, 1.0)).get_data()
    np.testing.assert_allclose(y, np.tanh(x), atol=1e-6)


def test_marginals_stand_at_their_times():
    """Under VP the mean of N(0.5, 0.25) falls to 0: the ridge of the heat map follows 0.5 scale(t)."""
    _, ax = plot.panels()
    seen = {}
    original = ax.contourf
    ax.contourf = lambda x, y, z, **kw: seen.update(x=x, y=y, z=z) or original(x, y, z, **kw)
    plot.marginals(ax, data.g1(), VP(), lim=2.0, n=401)
    ridge = seen["y"][seen["z"].argmax(0)]
    np.testing.assert_allclose(ridge, 0.5 * VP().scale(torch.tensor(seen["x"])), atol=0.006)  # one cell of the grid


def test_paths_run_left_to_right_and_end_in_a_dot():
    times, xs = torch.linspace(1, 0, 11), torch.linspace(5, 7, 11)[:, None, None].repeat(1, 4, 1)
    _, ax = plot.panels()
    plot.paths(ax, times, xs, "backward", n=3)
    assert len(ax.lines) == 4  # three paths and their ends
    assert set(ax.lines[-1].get_xdata()) == {0.0}
    assert set(ax.lines[-1].get_ydata()) == {7.0}


# --- what a person sees -----------------------------------------------------------------------------------------


def score_field():
    fig, ax = plot.panels(square=True)
    plot.density(ax, data.gm2())
    plot.arrows(ax, data.gm2())
    plot.dots(ax, data.gm2().sample(500, generator=gen()))
    return fig


def three_fields():
    laws = [data.gm2().at(VP(), t) for t in (0.05, 0.2, 0.6)]
    fig, axs = plot.panels(1, 3, square=True, titles=("a", "b", "c"))
    plot.density(axs, laws)
    plot.arrows(axs, laws)
    return fig


def histogram():
    fig, ax = plot.panels()
    plot.hist(ax, data.gm1().sample(2000, generator=gen()))
    plot.line(ax, data.gm1(), fill=True)
    plot.label(ax, 0, 0.2, "samples", "data", to=(1, 0.1))
    return fig


def spreading():
    fig, ax = plot.panels()
    plot.marginals(ax, data.gm1(), VP())
    plot.paths(ax, torch.linspace(0, 1, 200), torch.randn(200, 6, 1, generator=gen()).cumsum(0) / 14)
    return fig


def two_strips():
    images = data.digits(split="test").images[:16].reshape(2, 8, 1, 8, 8)
    return plot.strip(images, [f"{k / 8:g}" for k in range(8)], rows=["x", "guess"], caption="time t").figure


@pytest.mark.parametrize("picture", [score_field, three_fields, histogram, spreading, two_strips])
def test_a_picture_fits_a_page_and_a_phone(picture, tmp_path):
    fig = picture()
    size, width, height = png(fig, tmp_path)
    assert fig.get_figwidth() <= 6.5
    assert size < 150_000
    assert 500 < width < 900
    assert height < width * 1.1
    for text in fig.findobj(Text):
        if text.get_text() and text.get_visible():
            assert text.get_fontsize() >= 12
            # 390 px wide: a 6.4 inch picture is shown at 390/6.4 pixels an inch
            assert text.get_fontsize() / 72 * 390 / plot.WIDTH >= 10
    assert to_hex(fig.get_facecolor()).upper() == plot.CARD


def test_strip_shows_its_pixels_in_place():
    images = torch.arange(6.0).reshape(2, 3, 1, 1, 1) / 5
    ax = plot.strip(images, ["0", "1", "2"], rows=["up", "down"])
    shown = {(im.get_extent()[0] // 1, im.get_extent()[3] // 1): float(im.get_array()[0, 0]) for im in ax.images}
    assert shown == {(c, r): pytest.approx((3 * r + c) / 5) for r in range(2) for c in range(3)}
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "1", "2"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["up", "down"]


def test_style_is_put_back():
    plt.rcParams["font.size"] = 9
    with plot.style():
        assert plt.rcParams["font.size"] == 14
    assert plt.rcParams["font.size"] == 9


def test_bad_input_is_refused():
    _, ax = plot.panels()
    with pytest.raises(ValueError, match="x: needs points of 1 or 2 dimensions"):
        plot.dots(ax, torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"xs: needs shape \(k, batch, 1\)"):
        plot.paths(ax, None, torch.zeros(4, 3))
    with pytest.raises(ValueError, match="times: needs 4 times"):
        plot.paths(ax, torch.zeros(3), torch.zeros(4, 3, 1))
    with pytest.raises(ValueError, match=r"images: needs shape \(k, 1, h, w\)"):
        plot.strip(torch.zeros(4, 3, 8, 8))
    with pytest.raises(ValueError, match="labels: needs one for each of the 4 images, got 1"):
        plot.strip(torch.zeros(4, 1, 8, 8), ["a"])
    with pytest.raises(ValueError, match="ax: needs as many axes as things to draw, got 1 and 2"):
        plot.density(ax, [data.gm2(), data.gm2()])


# --- without matplotlib -----------------------------------------------------------------------------------------


def test_the_library_does_not_import_what_only_pictures_need():
    code = "import sys, sdelib, sdelib.plot, sdelib.data; print(sorted({'matplotlib', 'sklearn'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_missing_packages_are_named_with_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'needs matplotlib: pip install "sdelib\[plot\]"'):
        plot.panels()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'needs scikit-learn: pip install "sdelib\[plot\]"'):
        data.digits()
