"""The book's language of pictures, once, so that a reader's own pictures speak it too.

* **Roles, not colours.** Data, prior, forward, backward, exact, learned, wrong: each has one colour, the same from the
  first page to the last (:mod:`sdelib.palette`). Exact laws are lines, samples are dots, learned things are dashed.
* **Time runs left to right, 0 is data.** Densities that are compared share one colour scale with one bar; arrows that
  are compared share one length scale, and the picture says which.
* **Made for a page.** At most 6.4 inches wide with 14-point text, so that words stay readable on a phone; an off-white
  card, so that a picture reads on a light and on a dark page; names stand at the things they name, not in a legend.

A *law* (anything with ``log_prob``) is drawn as its density, a plain function as its values. Matplotlib is imported
on first use: ``pip install "sdelib[plot]"`` brings it.

>>> from sdelib import plot
>>> from sdelib.data import gm2
>>> _ = plot.style()
>>> fig, ax = plot.panels(square=True)
>>> scale = plot.density(ax, gm2())
>>> _ = plot.dots(ax, gm2().sample(200))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sdelib.palette import CARD, COLORS, INK, SEQUENTIAL, SIGNED, WIDTH, color, darkened, look, pyplot, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "CARD", "COLORS", "INK", "WIDTH", "arrows", "color", "density", "dots", "hist", "label", "line", "look", "marginals",
    "panels", "paths", "plane", "strip", "style", "time_axis",
]  # fmt: skip

Law = Any  # has log_prob(x) -> PerItem, or is a function of x
Limits = float | tuple[float, float]


def panels(
    rows: int = 1,
    cols: int = 1,
    *,
    height: float | None = None,
    width: float | None = None,
    square: bool = False,
    share: bool = True,
    titles: Sequence[str] = (),
) -> tuple[Figure, Any]:
    """A figure of the book's size and its axes: one axes for 1 x 1, else an array as from ``plt.subplots``.

    Args:
        rows, cols: how many panels.
        height, width: inches of the whole figure; by default what suits the panels, at most 6.4 wide.
        square: panels for the plane, where both axes have one scale.
        share: whether panels share their axes, so that they can be compared.
        titles: one short title a panel, row by row.
    """
    if width is None:
        width = 4.7 if square and cols == 1 else WIDTH
    if height is None:
        height = rows * ((width - 1.1) / cols + 0.35) + 0.55 if square else rows * 2.7 + 0.6
    fig, axes = pyplot().subplots(rows, cols, figsize=(width, height), sharex=share, sharey=share, squeeze=False)
    for ax, title in zip(axes.flat, titles, strict=False):
        ax.set_title(title)
    if rows == cols == 1:
        return fig, axes[0, 0]
    return fig, axes[0] if rows == 1 else axes[:, 0] if cols == 1 else axes


def plane(ax: Axes, lim: float = 3.0) -> None:
    """Make ``ax`` the plane from -lim to lim, both axes on one scale, named x₁ and x₂."""
    ax.set(xlim=(-lim, lim), ylim=(-lim, lim), aspect="equal")
    tick = _round_down(0.75 * lim)
    ax.set_xticks([-tick, 0, tick])
    ax.set_yticks([-tick, 0, tick])
    # The names stand between two numbers, on their line, so that the picture loses no room to them.
    if _outer(ax, "bottom"):
        ax.set_xlabel("x₁", labelpad=-11, x=0.5 + tick / lim / 4)
    if _outer(ax, "left"):
        ax.set_ylabel("x₂", labelpad=-4, y=0.47 + tick / lim / 4, rotation=0)


def time_axis(ax: Axes, T: float = 1.0, *, ends: tuple[str, str] = ("data", "noise")) -> None:
    """Let time run left to right from 0, where the data are, to T; a narrow panel names the ends alone."""
    ax.set_xlim(0, T)
    figure = ax.get_figure(root=True)
    inches = ax.get_position().width * (figure.get_figwidth() if figure is not None else WIDTH)
    middle = ([T / 2], [f"{T / 2:g}\ntime t"]) if inches > 2.4 else ([], [])
    ax.set_xticks([0, *middle[0], T], [f"0\n{ends[0]}", *middle[1], f"{T:g}\n{ends[1]}"])


def density(
    ax: Axes | Sequence[Axes],
    law: Law | Sequence[Law],
    *,
    lim: float = 3.0,
    vmax: float | None = None,
    signed: bool = False,
    bar: bool = True,
    label: str = "density",
    n: int = 161,
) -> float:
    """Filled contours over the plane; several axes and as many laws share one colour scale and one bar.

    Args:
        ax, law: one axes and one law, or equally many. A law is drawn as its density; a function ``fn(x) -> (n,)``
            as its values.
        lim: the plane reaches from -lim to lim.
        vmax: the top of the colour scale; by default the largest value seen. Higher values get the top colour.
        signed: values of both signs (an error, a residual): white at zero, blue below, red above.
        bar: whether to draw the colour bar.
        label: the bar's name.
        n: points a side.

    The twelve steps of the scale are finer at low densities, so that a broad law does not vanish beside a peaked one.

    Returns:
        the top of the scale, for the next picture that is to be compared.
    """
    axes, laws = _several(ax, law)
    side = torch.linspace(-lim, lim, n)
    points = torch.cartesian_prod(side, side)
    fields = [_values(one, points).reshape(n, n).T for one in laws]  # rows are x₂
    return _contours(axes, side.numpy(), side.numpy(), fields, vmax, signed, bar, label, lambda a: plane(a, lim))


def marginals(
    ax: Axes | Sequence[Axes],
    law: Law,
    noising: Any,
    *,
    lim: Limits = 3.0,
    vmax: float | None = None,
    bar: bool = True,
    label: str = "density",
    n: int = 161,
) -> float:
    """How a 1-D law spreads: the density of x(t) over time, data on the left.

    Args:
        ax, noising: one axes and one noising, or equally many, on one colour scale.
        law: an exact 1-D law with ``at(noising, t)``.
        lim: the range of x, (-lim, lim) for one number.
        vmax, bar, label, n: as for :func:`density`.

    Returns:
        the top of the scale.
    """
    axes, noisings = _several(ax, noising)
    x = torch.linspace(*_range(lim), n)
    fields, T = [], 1.0
    for one in noisings:
        T = float(one.T)
        # Squared spacing: near time 0 a law changes fastest.
        times = T * torch.linspace(0, 1, 81) ** 2
        fields.append(np.stack([_values(law.at(one, float(t)), x[:, None]) for t in times], axis=1))

    def finish(a: Axes) -> None:
        time_axis(a, T)
        a.set_ylim(*_range(lim))
        if _outer(a, "left"):
            a.set_ylabel("x", rotation=0)

    times_ = T * np.linspace(0, 1, 81) ** 2
    return _contours(axes, times_, x.numpy(), fields, vmax, False, bar, label, finish)


def arrows(
    ax: Axes | Sequence[Axes],
    score: Any,
    *,
    t: float | None = None,
    lim: float = 3.0,
    n: int | None = None,
    top: float | None = None,
    role: str = "exact",
    note: bool = True,
) -> float:
    """The score as a field of arrows; several axes and as many scores share one length scale, which the note states.

    An arrow's length is proportional to the score up to ``top``; longer ones are cut there, so that the steep
    outskirts do not bury the rest.

    Args:
        ax, score: one axes and one score, or equally many. A score is a law, ``fn(x)``, or with ``t`` a ``fn(x, t)``.
        t: the time at which a ``ScoreFn`` is asked.
        lim, n: the plane from -lim to lim, with n arrows a side; by default 15, and fewer in small panels.
        top: the length at which arrows are cut; by default a round number above the shortest third of them.
        role: whose colour the arrows have.
        note: whether to write the scale under the picture.

    Returns:
        ``top``, for the next picture that is to be compared.
    """
    axes, scores = _several(ax, score)
    if n is None:
        n = {1: 15, 2: 11}.get(axes[0].get_gridspec().ncols, 9)
    gap = 2 * lim / n
    side = torch.linspace(-lim + gap / 2, lim - gap / 2, n)
    points = torch.cartesian_prod(side, side)
    fields = []
    for one in scores:
        fn = one.score if hasattr(one, "log_prob") else one
        field = fn(points) if t is None else fn(points, points.new_full((len(points),), t))
        fields.append(_numpy(field))
    lengths = [np.linalg.norm(field, axis=1, keepdims=True) for field in fields]
    if top is None:
        top = _round_up(float(np.quantile(np.concatenate(lengths), 0.3)))
    for one, field, length in zip(axes, fields, lengths, strict=True):
        shown = field * np.minimum(1.0, top / np.maximum(length, 1e-30)) * (0.92 * gap / top)
        one.quiver(
            *points.numpy().T, *shown.T, angles="xy", scale_units="xy", scale=1, pivot="mid", color=color(role),
            units="inches", width=0.017, headwidth=4, headlength=4.5, headaxislength=4, minlength=0.3, zorder=3,
        )  # fmt: skip
        plane(one, lim)
    if note:
        words = f"longest arrows: |score| ≥ {top:g}"
        if len(axes) == 1:
            axes[0].annotate(
                words, (0.5, 0), (0, -30), "axes fraction", textcoords="offset points", ha="center", va="top",
                fontsize=13, color="#33332F",
            )  # fmt: skip
        else:
            axes[0].figure.supxlabel(words, fontsize=13, color="#33332F")
    return top


def dots(ax: Axes, x: Tensor, role: str = "data", *, size: float | None = None, label: str | None = None) -> Any:
    """Samples as dots: points of the plane, or 1-D samples as a rug along the lower edge.

    Args:
        ax, x, role: where, the samples ``(n, 2)`` or ``(n, 1)``, and whose they are.
        size: area of a dot in square points; by default smaller the more there are.
        label: for a legend, where :func:`label` cannot go.

    Raises:
        ValueError: if the points have another dimension.
    """
    points = _numpy(x).reshape(len(x), -1)
    if points.shape[1] == 1:
        return ax.plot(
            points[:, 0], np.full(len(points), 0.025), "|", color=color(role), markersize=11, markeredgewidth=1.2,
            alpha=_alpha(len(points)), transform=ax.get_xaxis_transform(), clip_on=True, label=label,
        )[0]  # fmt: skip
    if points.shape[1] != 2:
        raise ValueError(f"x: needs points of 1 or 2 dimensions, got shape {tuple(x.shape)}")
    if size is None:
        size = min(26.0, max(5.0, 5000.0 / len(points)))
    edge = 0.5 if len(points) <= 800 else 0
    return ax.scatter(
        points[:, 0], points[:, 1], s=size, color=color(role), alpha=_alpha(len(points)), edgecolors=CARD if edge else "none",
        linewidths=edge, zorder=4, label=label,
    )  # fmt: skip


def hist(
    ax: Axes,
    x: Tensor,
    role: str = "data",
    *,
    lim: Limits | None = None,
    bins: int = 50,
    label: str | None = None,
) -> Any:
    """Samples as a histogram of density: its area is the share of the samples inside ``lim``.

    Args:
        ax, x, role: where, the samples, and whose they are.
        lim: the range of the bins, (-lim, lim) for one number; by default that of the samples.
        bins: how many.
        label: for a legend, where :func:`label` cannot go.
    """
    values = _numpy(x).reshape(-1)
    low, high = (values.min(), values.max()) if lim is None else _range(lim)
    counts, edges = np.histogram(values, bins=bins, range=(float(low), float(high)))
    heights = counts / (len(values) * np.diff(edges))
    ax.stairs(heights, edges, fill=True, color=color(role), alpha=0.25, zorder=1)
    ax.set_ylim(bottom=0)
    return ax.stairs(heights, edges, color=color(role), linewidth=1.2, alpha=0.9, zorder=1.1, label=label)


def line(
    ax: Axes,
    law: Law,
    role: str = "exact",
    *,
    lim: Limits = 3.0,
    n: int = 401,
    fill: bool = False,
    label: str | None = None,
) -> Any:
    """A 1-D law's density, or a function's values, as a line.

    Args:
        ax: where.
        law: a 1-D law, or a function of points ``(n, 1)`` that returns ``(n,)`` or ``(n, 1)``.
        role: whose line it is; learned lines are dashed.
        lim: the range of x, (-lim, lim) for one number.
        n: points along the line.
        fill: whether to tint the area below.
        label: for a legend, where :func:`label` cannot go.
    """
    x = torch.linspace(*_range(lim), n)
    y = _values(law, x[:, None])
    if fill:
        ax.fill_between(x.numpy(), y, color=color(role), alpha=0.12, linewidth=0)
    ax.set_xlim(*_range(lim))
    return ax.plot(x.numpy(), y, **look(role), zorder=2.5, label=label)[0]


def paths(ax: Axes, times: Tensor | None, xs: Tensor, role: str = "forward", *, n: int = 6) -> None:
    """The first ``n`` paths: 1-D ones against time, 2-D ones as tracks in the plane, from a ring to a dot.

    Args:
        ax: where.
        times: ``(k,)``, in either direction; not needed in the plane.
        xs: ``(k, batch, 1)`` or ``(k, batch, 2)``, as ``simulate(..., keep=k)`` returns them.
        role: ``"forward"`` or ``"backward"``, or another.
        n: how many.

    Raises:
        ValueError: if ``xs`` has another shape, or times are missing or do not match.
    """
    tracks = _numpy(xs)
    if tracks.ndim != 3 or tracks.shape[2] not in (1, 2):
        raise ValueError(f"xs: needs shape (k, batch, 1) or (k, batch, 2), got {tuple(xs.shape)}")
    if tracks.shape[2] == 1:
        if times is None or len(times) != len(tracks):
            raise ValueError(f"times: needs {len(tracks)} times, one for each state in xs")
        when = _numpy(times)
        ax.plot(when, tracks[:, :n, 0], color=color(role), linewidth=1.2, alpha=0.95, zorder=3)
        end = int(np.argmin(when)) if role == "backward" else int(np.argmax(when))
        ax.plot(
            np.full(min(n, tracks.shape[1]), when[end]), tracks[end, :n, 0], "o", color=color(role), markersize=5,
            markeredgecolor=CARD, markeredgewidth=0.8, zorder=4, clip_on=False,
        )  # fmt: skip
        return
    for track in tracks[:, :n].transpose(1, 0, 2):
        ax.plot(*track.T, color=color(role), linewidth=1.3, alpha=0.9, zorder=3)
    ends: dict[str, Any] = {"color": color(role), "linestyle": "none", "marker": "o", "zorder": 4}
    ax.plot(*tracks[0, :n].T, **ends, markersize=6, markerfacecolor=CARD, markeredgewidth=1.4)
    ax.plot(*tracks[-1, :n].T, **ends, markersize=6.5, markeredgecolor=CARD, markeredgewidth=0.8)


def strip(
    images: Tensor,
    labels: Sequence[str] = (),
    *,
    rows: Sequence[str] = (),
    data_range: tuple[float, float] = (0.0, 1.0),
    caption: str = "",
    ax: Axes | None = None,
) -> Axes:
    """A row of grey images with labels under them, or several rows, one below the other.

    Values are drawn as ink, from paper at the lower to black at the upper end of ``data_range``; what lies outside
    (noise does) is cut to these two.

    Args:
        images: ``(k, 1, h, w)``, or ``(rows, k, 1, h, w)``.
        labels: one a column.
        rows: one name a row.
        data_range: the values of white paper and of black ink.
        caption: a name under the labels, such as "time t".
        ax: where; by default a new figure of the right shape.

    Raises:
        ValueError: if the images are of another shape, or the labels do not match.
    """
    tiles = _numpy(images)
    tiles = tiles[None] if tiles.ndim == 4 else tiles
    if tiles.ndim != 5 or tiles.shape[2] != 1:
        raise ValueError(f"images: needs shape (k, 1, h, w) or (rows, k, 1, h, w), got {tuple(images.shape)}")
    r, k, _, h, w = tiles.shape
    if len(labels) not in (0, k):
        raise ValueError(f"labels: needs one for each of the {k} images, got {len(labels)}")
    if len(rows) not in (0, r):
        raise ValueError(f"rows: needs one for each of the {r} rows, got {len(rows)}")
    if ax is None:
        side = (WIDTH - 0.3 - 0.11 * max((len(name) for name in rows), default=0)) / k
        height = r * side * h / w + 0.3 + 0.25 * bool(labels) + 0.3 * bool(caption)
        ax = pyplot().subplots(figsize=(WIDTH, height))[1]
    gap = 0.12
    for i in range(r):
        for j in range(k):
            left, top = j * (1 + gap), i * (1 + gap)
            ax.imshow(
                tiles[i, j, 0], cmap="gray_r", vmin=data_range[0], vmax=data_range[1], interpolation="nearest",
                extent=(left, left + 1, top + 1, top),
            )  # fmt: skip
            box = pyplot().Rectangle((left, top), 1, 1, fill=False, edgecolor="#B9B8B2", linewidth=0.8)
            ax.add_patch(box)
    ax.set(xlim=(-0.02, k * (1 + gap) - gap + 0.02), ylim=(r * (1 + gap) - gap + 0.02, -0.02), aspect=h / w)
    ax.set_xticks([j * (1 + gap) + 0.5 for j in range(k)] if labels else [], labels or None)
    ax.set_yticks([i * (1 + gap) + 0.5 for i in range(r)] if rows else [], rows or None)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if caption:
        ax.set_xlabel(caption)
    return ax


def label(
    ax: Axes,
    x: float,
    y: float,
    text: str,
    role: str = "exact",
    *,
    to: tuple[float, float] | None = None,
    **kwargs: Any,
) -> Any:
    """Write ``text`` at (x, y), beside the thing it names and in its colour; ``to`` draws a thin pointer there.

    Colours that are too pale for letters are darkened to a contrast of 4.5 to 1.
    """
    from matplotlib.patheffects import withStroke

    ink = darkened(color(role))
    options: dict[str, Any] = {"color": ink, "path_effects": [withStroke(linewidth=3, foreground=CARD)], "zorder": 6}
    if to is not None:
        options["arrowprops"] = {"arrowstyle": "-", "color": ink, "linewidth": 1.0, "shrinkA": 2, "shrinkB": 3}
        return ax.annotate(text, xy=to, xytext=(x, y), **{**options, **kwargs})
    return ax.text(x, y, text, **{**options, **kwargs})


# --- how it is done ---------------------------------------------------------------------------------------------


def _numpy(x: Tensor | np.ndarray) -> np.ndarray:
    return x.detach().cpu().double().numpy() if isinstance(x, Tensor) else np.asarray(x, dtype=float)


def _values(law: Law, points: Tensor) -> np.ndarray:
    """A law's density, or a function's values, at points; the gradient machinery is left on for scores by autograd."""
    out = law.log_prob(points).exp() if hasattr(law, "log_prob") else law(points)
    return _numpy(out).reshape(len(points))


def _several(ax: Any, thing: Any) -> tuple[list[Any], list[Any]]:
    """One axes and one thing, or as many things as axes (one thing for many axes is repeated)."""
    axes = [ax] if hasattr(ax, "get_xlim") else list(np.ravel(ax))
    things = list(thing) if isinstance(thing, (list, tuple)) else [thing] * len(axes)
    if len(axes) != len(things):
        raise ValueError(f"ax: needs as many axes as things to draw, got {len(axes)} and {len(things)}")
    return axes, things


def _range(lim: Limits) -> tuple[float, float]:
    return lim if isinstance(lim, tuple) else (-lim, lim)


def _outer(ax: Axes, side: str) -> bool:
    spec = ax.get_subplotspec()
    return spec is None or bool(spec.is_first_col() if side == "left" else spec.is_last_row())


def _alpha(n: int) -> float:
    return 0.9 if n <= 300 else 0.7 if n <= 1500 else 0.45


def _round_up(value: float) -> float:
    """The next of 1, 1.5, 2, 3, 4, 5, 6, 8, 10 times a power of ten."""
    value = max(value, 1e-12)
    unit = 10.0 ** math.floor(math.log10(value))
    return next(step * unit for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * unit >= value * (1 - 1e-9))


def _round_down(value: float) -> float:
    unit = 10.0 ** math.floor(math.log10(value))
    return max(step * unit for step in (1, 2, 3, 5) if step * unit <= value)


def _contours(
    axes: list[Axes],
    x: np.ndarray,
    y: np.ndarray,
    fields: list[np.ndarray],
    vmax: float | None,
    signed: bool,
    bar: bool,
    name: str,
    finish: Callable[[Axes], None],
) -> float:
    from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap, ListedColormap

    largest = max(float(np.nanmax(np.abs(field))) for field in fields)
    top = _round_up(largest) if vmax is None else vmax
    # Bands of one colour each; the one at zero is the card itself, so that "nothing" looks like nothing.
    if signed:
        levels = np.linspace(-top, top, 14)
    else:
        levels = top * np.linspace(0.0, 1.0, 13) ** 1.6
    bands = len(levels) - 1
    smooth = LinearSegmentedColormap.from_list("sdelib", SIGNED if signed else SEQUENTIAL)
    shades = smooth(np.linspace(0, 1, bands))
    cmap = ListedColormap(shades).with_extremes(under=shades[0], over=shades[-1])
    norm = BoundaryNorm(levels, bands)
    cut = largest > top * (1 + 1e-9)
    extend = "neither" if not cut else "both" if signed else "max"
    drawn = None
    for ax, field in zip(axes, fields, strict=True):
        drawn = ax.contourf(x, y, field, levels=levels, cmap=cmap, norm=norm, extend=extend, zorder=0)
        finish(ax)
    if bar and drawn is not None:
        ticks = [-top, 0, top] if signed else [0, levels[6], top]
        scale = axes[0].figure.colorbar(drawn, ax=axes, ticks=ticks, shrink=0.8, aspect=20, pad=0.02, extendfrac=0.04)
        words = [f"{v:.2g}".replace("-", "−") for v in ticks]
        if cut:
            words[-1] = "≥ " + words[-1]
            words[0] = "≤ " + words[0] if signed else words[0]
        scale.ax.set_yticklabels(words)
        scale.ax.tick_params(length=0, which="both")
        scale.outline.set(edgecolor="#B9B8B2", linewidth=0.7)  # the lowest band has the colour of the card
        scale.set_label(name, labelpad=4)
    return top
