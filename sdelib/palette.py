"""The colours and the type of the book's pictures; :mod:`sdelib.plot` draws with them.

Each role has one colour, the same from the first page to the last. Seen with everybody's eyes and through the three
dichromacies (Machado, Oliveira and Fernandes 2009, severity 1) any two roles stay at least 20 CIELAB units apart, and each
stands out from the card by at least 2.8 to 1; a test computes both. Letters in a role's colour are darkened to 4.5 to 1.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np

CARD = "#FBFAF6"
"""The card behind every picture."""
INK = "#161616"
"""The colour of letters and of exact laws."""
COLORS: dict[str, str] = {
    "data": "#1D3FA0",
    "prior": "#B17DAD",
    "forward": "#1C9CF0",
    "backward": "#E07A08",
    "exact": INK,
    "learned": "#12855A",
    "wrong": "#A3100C",
}
"""The colour of each role, all of them chosen together."""

# Slate, never darker than the middle: every role's dots, arrows and lines must stay visible on top of a density.
SEQUENTIAL = (CARD, "#EBEEF0", "#D5DBE1", "#B9C3CE", "#9CA9B8", "#8190A3")
SIGNED = ("#3A66B0", "#8FAEDA", "#D5DFEE", CARD, "#F3DCD2", "#DF9A85", "#B5443A")
_DASHES: dict[str, Any] = {"learned": (0, (4, 1.6)), "wrong": (0, (5, 1.5, 1, 1.5))}

WIDTH = 6.4
"""Width of a figure in inches: what a page and, shrunk, a phone can show."""


def pyplot() -> Any:
    """matplotlib.pyplot, imported on first use.

    Raises:
        ImportError: if matplotlib is missing.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError('sdelib.plot needs matplotlib: pip install "sdelib[plot]"') from error
    return plt


def color(role: str) -> str:
    """The colour of a role.

    Raises:
        ValueError: if there is no such role.
    """
    if role not in COLORS:
        raise ValueError(f"role: needs one of {', '.join(map(repr, COLORS))}, got {role!r}")
    return COLORS[role]


def look(role: str) -> dict[str, Any]:
    """A role's line as keyword arguments: ``ax.plot(x, y, **plot.look("learned"))``."""
    thin = role in ("forward", "backward")
    return {"color": color(role), "linestyle": _DASHES.get(role, "-"), "linewidth": 1.3 if thin else 2.2}


class _Style(AbstractContextManager["_Style"]):
    """Applied when made; as a context manager it puts back what was there before."""

    def __init__(self) -> None:
        plt = pyplot()
        self._before = dict(plt.rcParams)
        plt.rcParams.update(_RC)

    def __repr__(self) -> str:
        return "the book's style"  # no address: a notebook may show it

    def __exit__(self, *_: object) -> None:
        self._before.pop("backend", None)  # setting a backend again would close open figures
        pyplot().rcParams.update(self._before)


_RC: dict[str, Any] = {
    "figure.figsize": (WIDTH, 3.4),
    "figure.dpi": 120,
    "savefig.dpi": 120,
    "figure.facecolor": CARD,
    "savefig.facecolor": CARD,
    "axes.facecolor": CARD,
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that pictures do not depend on the machine
    "font.size": 14,
    "axes.titlesize": 14,
    "axes.titleweight": "normal",
    "axes.labelsize": 14,
    "xtick.labelsize": 13,
    "ytick.labelsize": 13,
    "legend.fontsize": 13,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#6F6F6B",
    "axes.linewidth": 0.9,
    "axes.labelcolor": "#33332F",
    "xtick.color": "#6F6F6B",
    "ytick.color": "#6F6F6B",
    "xtick.labelcolor": "#33332F",
    "ytick.labelcolor": "#33332F",
    "text.color": INK,
    "lines.linewidth": 2.2,
    "lines.solid_capstyle": "round",
    "image.cmap": "gray_r",
}


def style() -> AbstractContextManager[Any]:
    """Use the book's style: call it once at the top, or ``with plot.style():`` for one picture."""
    return _Style()


def _luminance(hex_color: str) -> float:
    channels = np.array([int(hex_color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    """Contrast of two colours, ``one`` and ``other``: from 1 to 21, as the web's accessibility guidelines (WCAG 2) define it."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def darkened(hex_color: str) -> str:
    """``hex_color``, dark enough for letters on the card: a contrast of 4.5 to 1."""
    factor = 1.0
    while contrast(shade := _scaled(hex_color, factor), CARD) < 4.5:
        factor -= 0.02
    return shade


def _scaled(hex_color: str, factor: float) -> str:
    return "#" + "".join(f"{round(int(hex_color[i : i + 2], 16) * factor):02X}" for i in (1, 3, 5))
