"""Pictures with a knob: a slider that works on a page without a kernel, and anew-drawn pictures where there is one.

:func:`slider` takes a function that draws a picture, and the values of its knobs. It draws all pictures beforehand and
puts them, compressed, into one piece of HTML with a labelled range input a knob and a few lines of script. That works
from a local file with no network, by keyboard, in light and dark and on a phone. Under a live kernel the same call
shows the same knobs as an ipywidget, and there a numeric knob is continuous: the picture is drawn anew.

It starts at the frame that tells most and never moves by itself. A page stays light: at most 48 frames and 300 kB a
figure, refused beyond.

>>> from sdelib import show
>>> from sdelib.data import gm1
>>> def two_modes(distance):
...     fig, ax = plot.panels()
...     plot.line(ax, gm1(distance=distance), lim=6.0)
...     ax.set_ylim(0, 0.6)
...     return fig
>>> from sdelib import plot
>>> _ = plot.style()
>>> words = "The density of two modes, which merge into one as the distance shrinks."
>>> show.slider(two_modes, {"distance of the modes": [1.0, 2.0, 4.0]}, start=4.0, alt=words)
The density of two modes, which merge into one as the distance shrinks.
[distance of the modes: 1 to 4 in 3 steps, at 4]
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["MAX_BYTES", "MAX_FRAMES", "slider"]

MAX_FRAMES = 48
"""Most frames of one figure."""
MAX_BYTES = 300_000
"""Most bytes of HTML of one figure."""

Value = float | int | str
_SHADES = (64, 40)  # colours of a frame: fewer where the figure would else be too large
_WIDGET = "application/vnd.jupyter.widget-view+json"


def slider(
    draw: Callable[..., Any] | Sequence[Any] | np.ndarray,
    knobs: Mapping[str, Sequence[Value]],
    *,
    start: Any = None,
    alt: str,
    play: bool = False,
    format: str = "{:g}",
) -> None:
    """Show a picture that changes with one or several knobs: the last line of a cell.

    Args:
        draw: a function of the knobs' values, in their order, that makes a matplotlib figure and returns it; or the
            frames themselves: figures, or an array ``(k, h, w)`` or ``(k, h, w, 3)`` of pictures (bytes, or floats from
            0, black, to 1). For several knobs the last one runs fastest.
        knobs: each knob's label and its values, numbers or strings: ``{"noise scale σ": [0.1, 0.3, 1.0]}``. Axes
            limits and colour scales should not depend on them, so that the frames can be compared.
        start: the value to begin with, a tuple for several knobs; by default the first.
        alt: what one sees, and how it changes along the knobs, for those who cannot see it.
        play: whether to add a button that plays the first knob's values in turn: only where time is the subject.
        format: how numbers are written beside the knob.

    Under a kernel with ipywidgets, a knob of floats runs continuously between its ends (evenly in the logarithm where
    the values are) if ``draw`` is a function; one of integers or strings takes its values only.

    Raises:
        TypeError, ValueError: if an argument cannot make such a figure, or if the figure exceeds its budget.
    """
    knobs_ = [_knob(label, values, format) for label, values in _checked(knobs).items()]
    first = _start(knobs_, start)
    if not isinstance(alt, str) or len(alt.split()) < 5:
        raise ValueError(f"alt: needs a sentence that says what one sees and how it changes, got {alt!r}")
    count = math.prod(len(k.values) for k in knobs_)
    if count > MAX_FRAMES:
        sizes = " × ".join(str(len(k.values)) for k in knobs_)
        raise ValueError(f"knobs: {sizes} = {count} frames, allowed are {MAX_FRAMES}: give fewer values")
    begun = time.perf_counter()
    pictures = _pictures(draw, knobs_, count)
    slow = (time.perf_counter() - begun) / count > 0.15
    page = _page(pictures, knobs_, first, " ".join(alt.split()), play)
    words = f"{' '.join(alt.split())}\n[{'; '.join(k.words(i) for k, i in zip(knobs_, first, strict=True))}]"
    _display(words, page, lambda: _twin(draw, pictures, knobs_, first, " ".join(alt.split()), play, slow))


# ---------------------------------------------------------------- arguments
class _Knob(NamedTuple):
    label: str
    values: list[Value]
    texts: list[str]
    format: str

    def words(self, at: int) -> str:
        return f"{self.label}: {self.texts[0]} to {self.texts[-1]} in {len(self.values)} steps, at {self.texts[at]}"

    def write(self, value: Value) -> str:
        return value if isinstance(value, str) else self.format.format(value).replace("-", "−")


def _checked(knobs: Any) -> Mapping[str, Sequence[Value]]:
    if not isinstance(knobs, Mapping) or not knobs:
        raise ValueError(f"knobs: needs at least one, as {{'label': values}}, got {knobs!r}")
    return knobs


def _knob(label: Any, values: Any, format: str) -> _Knob:
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"knobs: a label must be words that are not empty, got {label!r}")
    if hasattr(values, "tolist"):  # tensors and arrays
        values = values.tolist()
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise TypeError(f"knobs: the values of {label!r} must be a list of numbers or strings, got {values!r}")
    plain = [v.item() if hasattr(v, "item") else v for v in values]
    if not all(isinstance(v, str) for v in plain) and not all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in plain
    ):
        raise TypeError(f"knobs: the values of {label!r} must be finite numbers, or all strings, got {plain!r}")
    if len(plain) < 2:
        raise ValueError(f"knobs: {label!r} needs at least two values, got {plain!r}")
    if len(set(plain)) < len(plain):
        raise ValueError(f"knobs: {label!r} has a value twice: {plain!r}")
    knob = _Knob(label.strip(), plain, [], format)
    return knob._replace(texts=[knob.write(v) for v in plain])


def _start(knobs: list[_Knob], start: Any) -> tuple[int, ...]:
    if start is None:
        return (0,) * len(knobs)
    wanted = start if isinstance(start, tuple | list) else (start,)
    if len(wanted) != len(knobs):
        raise ValueError(f"start: needs one value for each of the {len(knobs)} knobs, got {start!r}")
    found = []
    for knob, value in zip(knobs, wanted, strict=True):
        at = [i for i, v in enumerate(knob.values) if v == value or _close(v, value)]
        if not at:
            raise ValueError(f"start: {value!r} is not among the values of {knob.label!r}: {knob.values}")
        found.append(at[0])
    return tuple(found)


def _close(a: Any, b: Any) -> bool:
    return not isinstance(a, str) and not isinstance(b, str) and math.isclose(a, b, rel_tol=1e-6)


# ---------------------------------------------------------------- frames
def _pictures(draw: Any, knobs: list[_Knob], count: int) -> list[np.ndarray]:
    """All frames as bytes ``(h, w, 3)``, of one size."""
    if callable(draw):
        frames = [_pixels(draw(*values)) for values in itertools.product(*(k.values for k in knobs))]
    else:
        if len(draw) != count:
            raise ValueError(f"draw: {len(draw)} frames, but the knobs have {count} settings")
        frames = [_pixels(one) for one in draw]
    sizes = {frame.shape[1::-1] for frame in frames}
    if len(sizes) > 1:
        raise ValueError(f"draw: all frames must have one size in pixels, got {sorted(sizes)}")
    return frames


def _pixels(picture: Any) -> np.ndarray:
    """A figure, which is closed, or an array, as bytes ``(h, w, 3)``; small arrays grow to 360 pixels a side."""
    if hasattr(picture, "savefig"):
        import matplotlib.pyplot as plt
        from PIL import Image

        try:
            drawn = io.BytesIO()
            picture.savefig(drawn, format="png", pil_kwargs={"compress_level": 1})
        finally:
            plt.close(picture)
        seen = Image.open(drawn).convert("RGBA")
        return np.asarray(Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB"))
    if hasattr(picture, "detach"):
        picture = picture.detach().cpu().numpy()
    if not isinstance(picture, np.ndarray):
        raise TypeError(f"draw: must return a matplotlib figure (did it forget to return it?), got {picture!r}")
    if picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] != 3):
        raise ValueError(f"draw: a picture has shape (h, w) or (h, w, 3), got {picture.shape}")
    if picture.dtype != np.uint8:
        picture = (picture.clip(0, 1) * 255).round().astype(np.uint8)
    if picture.ndim == 2:
        picture = picture[..., None].repeat(3, axis=2)
    larger = max(1, 360 // max(picture.shape[:2]))
    return picture.repeat(larger, axis=0).repeat(larger, axis=1)


def _encoded(picture: np.ndarray, shades: int) -> str:
    """A frame in few colours as WebP without loss, so that letters stay crisp; PNG takes a fifth more."""
    from PIL import Image

    stored = io.BytesIO()
    Image.fromarray(_few_colors(picture, shades)).save(stored, "WEBP", lossless=True, quality=100, method=4)
    return f"data:image/webp;base64,{base64.b64encode(stored.getvalue()).decode()}"


def _few_colors(picture: np.ndarray, shades: int) -> np.ndarray:
    """The picture with its most frequent colours as they are, half of all, and the shades of edges merged to the rest.

    Median cut alone would split white into shades and merge the bands of a density: a quarter larger, and wrong.
    """
    from PIL import Image

    packed = picture.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    colors, index, counts = np.unique(packed, return_inverse=True, return_counts=True)
    if len(colors) <= shades:
        return picture
    rgb = np.stack([colors >> 16, colors >> 8 & 255, colors & 255], axis=1).astype(np.uint8)
    order = np.argsort(-counts, kind="stable")
    flat, edges = order[: shades // 2], order[shades // 2 :]
    merged = Image.fromarray(rgb[edges].repeat(counts[edges], axis=0)[None])
    cut = merged.quantize(shades - len(flat), dither=Image.Dither.NONE).getpalette() or []
    palette = np.concatenate([rgb[flat], np.array(cut, np.uint8).reshape(-1, 3)[: shades - len(flat)]]).astype(int)
    nearest = np.concatenate(
        [
            ((some[:, None] - palette) ** 2).sum(axis=2).argmin(axis=1)
            for some in np.array_split(rgb, 1 + len(rgb) // 4096)
        ]
    )
    return palette.astype(np.uint8)[nearest[index]].reshape(picture.shape)


# ---------------------------------------------------------------- the page
_STYLE = """
.sdelib-slider{margin:.4em 0}
.sdelib-slider img{display:block;max-width:100%;height:auto;border-radius:.4rem}
.sdelib-knobs{display:flex;flex-wrap:wrap;align-items:center;gap:.2em 1.4em;margin:.5em 0 0}
.sdelib-knobs[hidden]{display:none}
.sdelib-knobs>span{display:flex;flex:1 1 13rem;align-items:center;gap:.6em;min-width:0}
.sdelib-knobs label{display:flex;flex:1;flex-wrap:wrap;align-items:center;gap:0 .7em;margin:0;min-width:0}
.sdelib-knobs input{flex:1 1 8rem;min-width:6rem;height:2rem;margin:0;accent-color:var(--book-green,#1d7a6d);cursor:pointer}
.sdelib-knobs output{font-variant-numeric:tabular-nums;font-weight:600;text-align:right}
.sdelib-knobs button{min-width:4.6em;min-height:2rem;padding:0 .8em;font:inherit;color:inherit;background:none;border:1px solid
 currentColor;border-radius:.3rem;cursor:pointer}
"""

_SCRIPT = """
(() => {
  const here = document.currentScript && document.currentScript.closest(".sdelib-slider");
  for (const root of here ? [here] : document.querySelectorAll(".sdelib-slider")) {
    if (root.sdelibReady) continue;
    root.sdelibReady = true;
    const {alt, texts, frames} = JSON.parse(root.querySelector("script[type='application/json']").textContent);
    const img = root.querySelector("img"), button = root.querySelector("button");
    const ranges = [...root.querySelectorAll("input")], outputs = [...root.querySelectorAll("output")];
    const sources = frames.map(f => f || img.src);
    let kept = null, timer = 0;
    const show = () => {
      kept = kept || sources.map(s => { const i = new Image(); i.src = s; return i; });
      let at = 0;
      const said = ranges.map((range, k) => {
        const value = texts[k][1][range.value];
        at = at * texts[k][1].length + Number(range.value);
        range.setAttribute("aria-valuetext", value);
        outputs[k].textContent = value;
        return texts[k][0] + ": " + value;
      });
      if (img.src !== sources[at]) img.src = sources[at];
      img.alt = alt + " (" + said.join(", ") + ")";
    };
    const stop = () => { clearInterval(timer); timer = 0; if (button) button.textContent = "Play"; };
    for (const range of ranges) range.addEventListener("input", () => { stop(); show(); });
    if (button) button.addEventListener("click", () => {
      const range = ranges[0];
      if (timer) return stop();
      if (range.value === range.max) range.value = 0;
      else range.stepUp();
      show();
      button.textContent = "Pause";
      timer = setInterval(() => {
        if (!root.isConnected || range.value === range.max) return stop();
        range.stepUp();
        show();
        if (range.value === range.max) stop();
      }, Math.max(120, 5000 / Number(range.max)));
    });
    root.querySelector(".sdelib-knobs").hidden = false;
    show();
  }
})();
"""


def _page(pictures: list[np.ndarray], knobs: list[_Knob], first: tuple[int, ...], alt: str, play: bool) -> str:
    """The figure as HTML, in as many colours as fit into its budget."""
    size = 0
    for shades in _SHADES:
        frames = [_encoded(picture, shades) for picture in pictures]
        page = _html(frames, pictures[0].shape[:2], knobs, first, alt, play)
        size = len(page.encode())
        if size <= MAX_BYTES:
            return page
    height, width = pictures[0].shape[:2]
    raise ValueError(
        f"the figure has {size / 1e3:.0f} kB of HTML, allowed are {MAX_BYTES / 1e3:.0f}: {len(pictures)} frames of "
        f"{width} × {height} pixels, {size / len(pictures) / 1e3:.1f} kB each: give fewer values or a smaller figure"
    )


def _html(
    frames: list[str], shape: tuple[int, ...], knobs: list[_Knob], first: tuple[int, ...], alt: str, play: bool
) -> str:
    at = int(np.ravel_multi_index(first, [len(k.values) for k in knobs]))
    said = ", ".join(f"{k.label}: {k.texts[i]}" for k, i in zip(knobs, first, strict=True))
    data = {
        "alt": alt,
        "texts": [[k.label, k.texts] for k in knobs],
        "frames": [None if i == at else frame for i, frame in enumerate(frames)],  # that one stands in the picture
    }
    stored = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    inputs = "".join(
        f'<span><label>{html.escape(k.label)} <input type="range" min="0" max="{len(k.values) - 1}" step="1" value="{i}" '
        f'autocomplete="off" aria-valuetext="{html.escape(k.texts[i])}"></label>'
        f'<output aria-live="off" style="min-width:{max(map(len, k.texts))}ch">{html.escape(k.texts[i])}</output></span>'
        for k, i in zip(knobs, first, strict=True)
    )
    button = '<button type="button">Play</button>' if play else ""
    names = html.escape(", ".join(k.label for k in knobs))
    return (
        f'<div class="sdelib-slider" role="group" aria-label="Figure with a slider: {names}" '
        f'style="max-width:min(100%,max(26rem,{shape[1]}px))" data-lm-suppress-shortcuts="true">'  # JupyterLab: our keys
        f"<style>{_STYLE}</style>"
        f'<img alt="{html.escape(f"{alt} ({said})")}" width="{shape[1]}" height="{shape[0]}" src="{frames[at]}">'
        f'<div class="sdelib-knobs" hidden>{button}{inputs}</div>'
        f'<script type="application/json">{stored}</script><script>{_SCRIPT}</script></div>'
    )


# ---------------------------------------------------------------- the live twin
def _twin(
    draw: Any, pictures: list[np.ndarray], knobs: list[_Knob], first: tuple[int, ...], alt: str, play: bool, slow: bool
) -> Any:
    """The figure as an ipywidget that draws anew, or None without ipywidgets."""
    try:
        import ipywidgets as w
    except ImportError:
        return None
    sizes = [len(k.values) for k in knobs]
    look = w.Layout(width=f"{pictures[0].shape[1]}px", max_width="100%")
    image = w.Image(format="png", value=_png(pictures[int(np.ravel_multi_index(first, sizes))]), layout=look)
    fault = w.HTML()
    inputs = [_input(w, k, i, callable(draw), slow) for k, i in zip(knobs, first, strict=True)]

    def redraw(*_: Any) -> None:
        values = [one.value for one in inputs]
        try:
            if callable(draw):
                image.value = _png(_pixels(draw(*values)))
            else:
                at = [k.values.index(v) for k, v in zip(knobs, values, strict=True)]
                image.value = _png(pictures[int(np.ravel_multi_index(at, sizes))])
            fault.value = ""
        except Exception as error:  # it would else vanish in the kernel's log
            fault.value = f"<pre>{html.escape(f'{type(error).__name__}: {error}')}</pre>"

    for one in inputs:
        one.observe(redraw, "value")
    rows: list[Any] = list(inputs)
    if play:
        values = knobs[0].values
        clock = w.Play(min=0, max=len(values) - 1, value=first[0], interval=max(250, 5000 // len(values)))
        clock.observe(lambda change: setattr(inputs[0], "value", values[change["new"]]), "value")
        rows.insert(0, clock)
    # an Image has no alt, and one with a tooltip is not drawn (its view reads a description that it lacks)
    unseen = "position: absolute; width: 1px; height: 1px; overflow: hidden"
    words = w.HTML(f'<span style="{unseen}">{html.escape(alt)}</span>')
    return w.VBox([image, fault, *rows, words])


def _input(w: Any, knob: _Knob, at: int, continuous: bool, slow: bool) -> Any:
    look = {
        "description": knob.label,
        "style": {"description_width": "initial"},
        "layout": w.Layout(width="95%", max_width="640px"),
        "continuous_update": not slow,
    }
    values = knob.values
    if not continuous or not any(isinstance(v, float) for v in values):
        return w.SelectionSlider(options=list(zip(knob.texts, values, strict=True)), value=values[at], **look)
    numbers = [float(v) for v in values]
    low, high = min(numbers), max(numbers)
    if low > 0 and _geometric(numbers):
        ends = {"base": 10.0, "min": math.log10(low), "max": math.log10(high), "step": math.log10(high / low) / 200}
        return w.FloatLogSlider(value=values[at], readout_format=".3g", **ends, **look)
    return w.FloatSlider(value=values[at], min=low, max=high, step=(high - low) / 200, readout_format=".3g", **look)


def _geometric(values: list[float]) -> bool:
    """Whether values are spaced more evenly in the logarithm."""
    if len(values) < 3:
        return False
    plain, log = np.diff(sorted(values)), np.diff(np.log(sorted(values)))
    return float(log.std() / log.mean()) < float(plain.std() / plain.mean())


def _png(picture: np.ndarray) -> bytes:
    from PIL import Image

    stored = io.BytesIO()
    Image.fromarray(picture).save(stored, "PNG", compress_level=3)
    return stored.getvalue()


def _display(words: str, page: str, twin: Callable[[], Any]) -> None:
    """HTML for a page, a widget for a kernel, words for a terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None:
        print(words)  # noqa: T201 - without a page, the words are the picture
        return
    from IPython.display import display

    bundle: dict[str, Any] = {"text/plain": words, "text/html": page}
    widget = twin() if getattr(shell, "kernel", None) is not None else None
    if widget is not None:
        bundle[_WIDGET] = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    display(bundle, raw=True)
