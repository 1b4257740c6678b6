r"""The law of what a sampler makes of Gaussian data, with no Monte Carlo.

On Gaussian data a step with the exact score is an affine map of x and of the noise it draws::

    x -> A x + c + L z,    so    N(m, C)  becomes  N(A m + c, A C A^T + L L^T),

and the law of the output follows by iterating mean and covariance.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdelib import ops
from sdelib.exact import Gaussian
from sdelib.types import Data, Step


class _Probe:
    """A noise source that hands out chosen numbers: draw j gives every item row j of the plan, then zeros."""

    def __init__(self, draws: Sequence[Tensor]) -> None:
        self.draws, self.count = draws, 0

    def randn_like(self, x: Data) -> Data:
        if x.ndim != 2:
            raise ValueError(
                f"step: draws noise of shape {tuple(x.shape)} and not of x's; a step that accepts or refuses is not affine"
            )
        self.count += 1
        if self.count > len(self.draws):
            return torch.zeros_like(x)
        return self.draws[self.count - 1].to(x)


def affine_law(
    step: Step, start: Gaussian, times: Sequence[float] | Tensor, *, denoise: bool = False
) -> list[Gaussian]:
    r"""The exact law of a sampler's state at every time of the grid, for a step that is affine in x and in its noise.

    With an exact Gaussian score every predictor, and Langevin with a step size that does not depend on the sample, is an
    affine map. Its parts are read off by pushing the origin, the unit vectors and unit noises through the step:

    .. math:: x &\to A x + c + \sum_j L_j z_j, \\
        \text{mean} &\to A\,\text{mean} + c, \\
        \text{cov} &\to A\,\text{cov}\,A^\top + \sum_j L_j L_j^\top

    Args:
        step: any step whose score and drift are affine in x.
        start: the law at ``times[0]``.
        times: the grid, rising or falling strictly, at least two times.
        denoise: whether the last law is that of the last step's mean.

    Returns:
        A law for every time, ``len(times)`` of them, the first one ``start``.

    Raises:
        TypeError: if ``start`` is not a Gaussian, or a step draws uniform numbers.
        ValueError: if ``times`` do not run one way, if a step is not affine, or if it couples the items of a batch: Langevin
            with the batch's norms is neither.
    """
    if not isinstance(start, Gaussian):
        raise TypeError(f"start: needs a Gaussian, got {type(start).__name__}")
    times = ops.check_grid(times)
    laws = [start]
    planned = step.plan(times) if hasattr(step, "plan") else [step] * (len(times) - 1)
    for i, move in enumerate(planned):
        last = denoise and i == len(planned) - 1
        A, c, L = _read_affine(move, start.dim, float(times[i]), float(times[i + 1]), use_mean=last)
        mean = A @ laws[-1].mean + c
        cov = A @ laws[-1].cov @ A.T + L @ L.T
        laws.append(Gaussian(mean, 0.5 * (cov + cov.T)))
    return laws


def _read_affine(step: Step, D: int, t: float, t_next: float, *, use_mean: bool) -> tuple[Tensor, Tensor, Tensor]:
    """A (D, D), c (D,) and L (D, draws * D) of one step, after checking that it is affine."""

    def push(x: Tensor, draws: Sequence[Tensor]) -> tuple[Tensor, int]:
        source = _Probe(draws)
        now, later = (torch.full((len(x),), v, dtype=x.dtype) for v in (t, t_next))
        stepped = step(x, now, later, source)
        return (stepped.mean if use_mean else stepped.x).detach(), source.count

    eye = torch.eye(D, dtype=torch.float64)
    _, count = push(torch.zeros(1, D, dtype=torch.float64), [])
    # Rows: the origin; D unit vectors; D unit noises for every draw; and a point with noises that checks the reading.
    rows = 1 + D + count * D + 1
    x, draws = torch.zeros(rows, D, dtype=torch.float64), torch.zeros(count, rows, D, dtype=torch.float64)
    x[1 : 1 + D] = eye
    for j in range(count):
        draws[j, 1 + D + j * D : 1 + D + (j + 1) * D] = eye
    ramp = torch.arange(1, D + 1, dtype=torch.float64)
    x[-1], draws[:, -1] = 0.7 + 0.4 * ramp, 0.3 * ramp - 0.8
    out, _ = push(x, list(draws))
    c = out[0]
    A, L = (out[1 : 1 + D] - c).T, (out[1 + D : -1] - c).T
    expected = A @ x[-1] + c + (L @ draws[:, -1].reshape(-1) if count else 0.0)
    # A step size shared by the whole batch makes every row affine; the same probe sent alone then lands elsewhere.
    alone, _ = push(x[-1:], list(draws[:, -1:]))
    for landed, why in ((out[-1], "is not affine"), (alone[0], "couples the items of a batch")):
        if not torch.allclose(landed, expected, rtol=1e-8, atol=1e-8 * float(1 + out.abs().max())):
            raise ValueError(
                f"step: {why} at t = {t:g} (a probe landed {float((landed - expected).abs().max()):.3g} away); "
                "its law needs an exact Gaussian score and a step size that does not depend on the sample or on its neighbours"
            )
    return A, c, L
