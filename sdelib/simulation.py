"""The one loop: walk a step along a grid of times, forward or backward.

``simulate`` knows nothing of scores, noisings or images. It prepares the step for the whole grid where the step can be prepared,
counts score evaluations, keeps states if asked, and stops at the first step that leaves the finite numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sdelib import ops
from sdelib.types import Data, Generator, Grid, Step


class Path(NamedTuple):
    """What a simulation gives.

    ``x`` is the final state; ``times`` and ``xs`` (kept, batch, *shape) are the kept states and their times, ``None`` when none
    were asked for; ``nfe`` is how often the score was evaluated, an item.
    """

    x: Data
    times: Grid | None
    xs: Tensor | None
    nfe: int


class NonFiniteError(FloatingPointError):
    """A state became NaN or infinite. ``path`` holds what had been computed: the last finite state and the kept ones."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = path


def simulate(
    step: Step,
    x: Data,
    times: Sequence[float] | Tensor,
    *,
    generator: Generator | None = None,
    denoise: bool = False,
    keep: int = 0,
    progress: bool = False,
) -> Path:
    """Walk ``step`` along ``times``, from ``x`` at ``times[0]``.

    Gradients are recorded only where ``x`` itself requires them, so sampling from a network does not build a graph.

    Args:
        step: ``step(x, t, t_next, generator)``; if it offers ``plan(times)``, that is used.
        x: (batch, *shape), floating-point and finite.
        times: a grid that rises or falls strictly, at least two times.
        generator: where all noise comes from; ``None`` is torch's default one.
        denoise: return the last step's mean, without the noise it drew last. On a grid that ends with a step to time 0
            (``time_grid``) that mean is the denoised sample.
        keep: how many states to keep, evenly spaced over the grid, first and last included (the last one as returned);
            0 keeps none.
        progress: show a progress bar (tqdm).

    Returns:
        A :class:`Path`.

    Raises:
        TypeError: if ``step`` cannot be called, ``x`` is not floating-point, or ``generator`` cannot draw noise.
        ValueError: if ``x`` is not finite, ``times`` are not finite or do not run one way, or ``keep`` is neither 0 nor from 2
            to ``len(times)``, or a step changes x's shape.
        NonFiniteError: at the first step whose result is not finite, naming the time and the number of items.
    """
    ops.check_function(step, "step", "(x, t, t_next, generator)")
    ops.check_data(x)
    if not (generator is None or isinstance(generator, torch.Generator) or hasattr(generator, "randn_like")):
        raise TypeError(
            "generator: needs a torch.Generator, an object with randn_like(x), or None, "
            f"got {type(generator).__name__}; a seed goes in as torch.Generator().manual_seed(seed)"
        )
    times = ops.check_grid(times)
    n = len(times) - 1
    wanted = _kept(keep, n)

    planned: Sequence[Step] = step.plan(times) if hasattr(step, "plan") else [step] * n
    # Times in x's dtype but at least float32, one row a grid point: views, so that the loop makes no tensors of its own.
    shown = times.to(dtype=torch.promote_types(x.dtype, torch.float32)).to(device=x.device)
    rows = shown[:, None].expand(n + 1, x.shape[0]).unbind(0)
    kept, keeping = [x] if wanted else [], frozenset(wanted)
    own_nfe = getattr(step, "nfe", 0)
    nfe = 0
    with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):
        for i in _steps(n, progress):
            stepped = planned[i](x, rows[i], rows[i + 1], generator)
            nfe += int(getattr(planned[i], "nfe", own_nfe))
            out = stepped.mean if denoise and i == n - 1 else stepped.x
            if out.shape != x.shape:  # a score of another shape broadcasts in silence
                raise ValueError(f"step: needs to keep x's shape, {tuple(x.shape)}, gave {tuple(out.shape)}")
            if not math.isfinite(out.sum().item()):  # one reduction a step; look closer only when it fires
                _refuse(out, times, i, Path(x, *_states(kept, wanted, times), nfe))
            x = out
            if i + 1 in keeping:
                kept.append(x)
    return Path(x, *_states(kept, wanted, times), nfe)


def _kept(keep: int, n: int) -> list[int]:
    """The grid points whose states are kept."""
    if isinstance(keep, bool) or not isinstance(keep, int) or not (keep == 0 or 2 <= keep <= n + 1):
        raise ValueError(f"keep: needs 0, or a whole number from 2 to the grid's {n + 1} times, got {keep!r}")
    return [round(i * n / (keep - 1)) for i in range(keep)] if keep else []


def _states(kept: list[Data], wanted: list[int], times: Grid) -> tuple[Tensor | None, Tensor | None]:
    return (times[wanted[: len(kept)]], torch.stack(kept)) if kept else (None, None)


def _steps(n: int, progress: bool) -> Sequence[int]:
    if not progress:
        return range(n)
    from tqdm.auto import tqdm  # imported late: only a progress bar needs it

    return tqdm(range(n), leave=False)


def _refuse(out: Data, times: Grid, i: int, path: Path) -> None:
    bad = ops.bad_items(out)
    if bad:  # a finite state can still have a sum that overflows
        raise NonFiniteError(
            f"the step from t = {float(times[i]):g} to {float(times[i + 1]):g} gave NaN or infinity in {bad} of {out.shape[0]} "
            "items; what was computed before is in this error's .path",
            path,
        )
