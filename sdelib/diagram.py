"""A U-Net drawn from its own code: what runs, in the order in which it runs, at which size and width.

:func:`trace` sends a picture without content through a network (on the meta device: no memory, no arithmetic) and notes what each
of :meth:`sdelib.models.UNet.parts` gives out; :func:`unet` draws the list. Nothing about a network is typed in here, so a
drawing cannot differ from what runs.

Read a drawing from left to right, in the order of running; down is smaller. One bar is one residual block, a foot under it says
that it hears the time, a dot in it that attention follows. A line between two bars of one size is a skip connection.

>>> from sdelib import plot
>>> from sdelib.models import UNet
>>> _ = plot.style()
>>> fig, ax = plot.panels()
>>> parts = unet(ax, UNet(image_size=8, in_channels=1, channels=8, multipliers=(1, 2), blocks=1, attention_at=()))
>>> [part.name for part in parts if part.kind == "halve"]
['down.0.resample']
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from sdelib.models import UNet
from sdelib.models.blocks import Attention, ResBlock
from sdelib.models.fir import Down, Up
from sdelib.palette import CARD, color, darkened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Part", "legend", "trace", "unet"]

BAR, HEIGHT, GREY = 0.72, 0.56, "#6F6F6B"


class Part(NamedTuple):
    """One module of a U-Net, and what it gave out."""

    name: str
    """as in the network: ``down.0.units.1.residual``"""
    kind: str
    """"time", "first", "block", "attention", "halve", "double", "shrink", "mix", "grow", "speak" or "last\""""
    channels: int
    """of its output; of "time" the number of features that every block hears"""
    size: int
    """height of its output, 0 for "time\""""
    hears: bool
    """whether the time enters it"""
    filtered: bool
    """whether it resamples with a FIR filter"""
    takes: str | None
    """the part whose output joins its input by a skip connection"""
    parameters: int
    """how many numbers are trained in it"""


def trace(net: UNet) -> list[Part]:
    """What runs in ``net``, in order.

    Raises:
        TypeError: if ``net`` is not a :class:`~sdelib.models.UNet`.
    """
    if not isinstance(net, UNet):
        raise TypeError(f"net: needs a UNet, got {type(net).__name__}")
    shapes: dict[str, torch.Size] = {}
    modules = dict(net.parts())

    def note(name: str) -> Any:
        return lambda module, inputs, output: shapes.__setitem__(name, output.shape)

    hooks = [module.register_forward_hook(note(name)) for name, module in modules.items()]
    state = {name: value.to("meta") for name, value in (*net.named_parameters(), *net.named_buffers())}
    dtype = next(net.parameters()).dtype
    x = torch.empty((1, net.in_channels, net.image_size, net.image_size), device="meta", dtype=dtype)
    try:
        with torch.no_grad():
            torch.func.functional_call(net, state, (x, torch.empty(1, device="meta", dtype=dtype)))
    finally:
        for hook in hooks:
            hook.remove()
    skips = _skips(list(modules))
    parts = []
    for name, module in modules.items():
        shape = shapes[name]
        parts.append(
            Part(
                name,
                _kind(name),
                channels=shape[1],
                size=shape[2] if len(shape) == 4 else 0,
                hears=isinstance(module, ResBlock),
                filtered=_filtered(module),
                takes=skips.get(name),
                parameters=sum(p.numel() for p in module.parameters() if p.requires_grad),
            )
        )
    return parts


def unet(ax: Axes, net: UNet, *, columns: int | None = None, role: str = "learned") -> list[Part]:
    """Draw ``net``: time of running to the right, smaller sizes below, with sizes at the left and channels at the right.

    Args:
        ax: where.
        net: the network; one on the meta device will do.
        columns: how many bars the width holds; by default as many as ``net`` has. Drawings that are
            compared need the same number.
        role: whose colour the bars have.

    Returns:
        the parts drawn.

    Raises:
        TypeError: if ``net`` is not a :class:`~sdelib.models.UNet`.
    """
    parts = trace(net)
    sizes = sorted({part.size for part in parts if part.size}, reverse=True)
    bars: dict[str, tuple[float, float]] = {}  # a bar's left edge and its level's height, by the part's name
    at = 0.0
    for part in parts:
        if part.kind in ("first", "block", "halve", "double", "last"):
            bars[part.name] = (at, -float(sizes.index(part.size)))
            at += 1.0
    width = max(at, float(columns or 0))
    inset = (width - at) / 2
    bars = {name: (x + inset, y) for name, (x, y) in bars.items()}
    _draw_skips(ax, parts, bars)
    for part in parts:
        if part.name in bars:
            _draw_bar(ax, part, *bars[part.name], color(role))
        elif part.kind == "attention":
            x, y = bars[part.name.replace("attention", "residual")]
            ax.plot(x + BAR / 2, y, "o", color=CARD, markersize=4.5, zorder=5)
    _draw_pictures(ax, parts, bars)
    widths = {part.size: part.channels for part in parts if part.kind == "block"}
    ax.set(xlim=(-1.2, width + 0.9), ylim=(-len(sizes) + 0.42, 0.5))
    ax.set_yticks([-float(i) for i in range(len(sizes))], [f"{size}²" for size in sizes])
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    right = ax.secondary_yaxis("right")
    right.set_yticks([-float(i) for i in range(len(sizes))], [str(widths.get(size, "")) for size in sizes])
    right.tick_params(length=0)
    right.spines[:].set_visible(False)
    for words, end, align in (("pixels", 0, "right"), ("channels", 1, "left")):
        ax.annotate(
            words, (end, 1), (8 * end - 4, 4), "axes fraction", textcoords="offset points", ha=align, fontsize=13, color=GREY
        )  # fmt: skip
    return parts


def legend(ax: Axes, *, role: str = "learned") -> None:
    """Say under a drawing what its signs mean; ``role`` as for :func:`unet`."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    block = color(role)
    kwargs: dict[str, Any] = {"linestyle": "none", "color": GREY}
    signs = [
        (Patch(color=block), "residual block"),
        (
            Line2D([], [], marker="o", markersize=6, markeredgecolor=block, markerfacecolor=CARD, linestyle="none"),
            "+ attention",
        ),
        (Patch(facecolor=CARD, edgecolor=block, hatch="////"), "resampling with FIR"),
        (Patch(facecolor=CARD, edgecolor=block), "resampling, no filter"),
        (Line2D([], [], marker="|", markersize=8, markeredgewidth=2.0, **kwargs), "hears the time"),
        (Line2D([], [], color=color("data"), linewidth=2.0, marker="s", markersize=5), "the picture itself"),
    ]
    ax.legend(
        [sign for sign, _ in signs], [words for _, words in signs], loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2,
        fontsize=13, handlelength=1.4, columnspacing=1.6, labelspacing=0.35,
    )  # fmt: skip


# --- how it is done ---------------------------------------------------------------------------------------------


def _kind(name: str) -> str:
    """What a part does, by its name."""
    side, last = name.split(".")[0], name.split(".")[-1]
    if last == "residual":
        return "block"
    if last == "resample":
        return "halve" if side == "down" else "double"
    return {"embed": "time"}.get(last, last)


def _skips(names: Sequence[str]) -> dict[str, str]:
    """For each block on the way up, the part on the way down whose output it takes: last in, first out."""
    aside, takes = ["first"], {}
    for name in names:
        side, last = name.split(".")[0], name.split(".")[-1]
        if side == "down" and last in ("residual", "resample"):
            aside.append(name)
        elif side == "up" and last == "residual":
            takes[name] = aside.pop()
    assert not aside, aside
    return takes


def _filtered(module: nn.Module) -> bool:
    if isinstance(module, ResBlock):
        module = module.resample if module.resample is not None else module
    if isinstance(module, Down | Up):
        return module.kernel is not None
    return not isinstance(module, Attention) and getattr(module, "blur", None) is not None


def _draw_bar(ax: Axes, part: Part, x: float, y: float, ink: str) -> None:
    from matplotlib.patches import Rectangle

    resamples = part.kind in ("halve", "double")
    plain = part.kind in ("first", "last")
    ax.add_patch(
        Rectangle(
            (x, y - HEIGHT / 2), BAR, HEIGHT, facecolor=CARD if resamples or plain else ink, zorder=4,
            edgecolor=GREY if plain else ink, linewidth=1.1, hatch="//////" if part.filtered else None,
        )
    )  # fmt: skip
    if part.hears:
        ax.plot([x + BAR / 2] * 2, [y - HEIGHT / 2, y - HEIGHT / 2 - 0.13], color=GREY, linewidth=1.6, zorder=3)


def _draw_skips(ax: Axes, parts: list[Part], bars: dict[str, tuple[float, float]]) -> None:
    """Nested lines: the last to leave a level is the first to be taken back, and runs lowest."""
    for y in sorted({y for _, y in bars.values()}):
        here = [part for part in parts if part.takes is not None and bars[part.name][1] == y]
        for i, part in enumerate(here):
            assert part.takes is not None
            height = y + HEIGHT * ((i + 1) / (len(here) + 1) - 0.5)
            ax.plot(
                [bars[part.takes][0] + BAR, bars[part.name][0]], [height] * 2, color="#B9B8B2", linewidth=0.9, zorder=1
            )


def _draw_pictures(ax: Axes, parts: list[Part], bars: dict[str, tuple[float, float]]) -> None:
    """The way of the picture beside the network: shrunk on the way in, grown on the way out."""
    ink = darkened(color("data"))
    order = [part.name for part in parts if part.name in bars or part.kind in ("shrink", "grow", "speak")]

    def before(name: str) -> str:
        """The bar that runs before a part without a bar."""
        return next(one for one in reversed(order[: order.index(name)]) if one in bars)

    entry = (bars["first"][0] - 0.5, bars["first"][1])
    shrunk = [bars[before(part.name)] for part in parts if part.kind == "shrink"]
    way_in = [entry, *((x - 0.5, y) for x, y in shrunk)]
    last = max(bars.values())
    spoken = {
        y: (x + BAR + 0.5, y) for x, y in (bars[before(part.name)] for part in parts if part.kind in ("grow", "speak"))
    }
    way_out = [*(point for y, point in spoken.items() if y < last[1]), (last[0] + BAR + 0.5, last[1])]
    for points, corner in ((way_in, 0), (way_out, 1)):  # down and then right; right and then up
        xs, ys = [points[0][0]], [points[0][1]]
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            xs += [(x0, x1)[corner], x1]
            ys += [(y1, y0)[corner], y1]
        ax.plot(xs, ys, color=ink, linewidth=1.4, zorder=2)
        ax.plot(*zip(*points, strict=True), "s", color=ink, markersize=4.5, zorder=6)
