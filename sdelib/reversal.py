r"""Time reversal: the SDE that runs a diffusion backwards, and the whole family that shares its marginals.

Forward dx = f(x, t) dt + g(t) dw (paper eq. 5). For every eta >= 0 the equation, solved from T down to 0, ::

    dx = [f(x, t) - (1 + eta^2)/2 g(t)^2 grad_x log p_t(x)] dt + eta g(t) dw_bar

has the marginals p_t: eta = 1 is the reverse SDE (eq. 6; Anderson 1982), eta = 0 the probability flow ODE (eq. 13).
The returned drift and diffusion belong to the same time axis, so a step from t to a smaller t_next has a negative dt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from sdelib import ops
from sdelib.sde import SDE
from sdelib.types import Data, Diffusion, Drift, ScoreFn, Time

MatrixDiffusion = Callable[[Data, Time], Tensor]
"""G(x, t): (batch, D, D), a diffusion matrix that may depend on x."""


class Diffusing(Protocol):
    """Anything with a drift and a diffusion: an SDE, an Ito."""

    def drift(self, x: Data, t: Time) -> Data:
        """f(x, t)."""
        ...

    def diffusion(self, t: Time) -> Time:
        """g(t)."""
        ...


def reverse(sde: Diffusing, score: ScoreFn, *, eta: float = 1.0) -> tuple[Drift, Diffusion]:
    r"""Drift and diffusion of the SDE run backwards (eq. 6 for eta = 1, the flow of eq. 13 for eta = 0).

    .. math:: dx = \Big[ f - \frac{1 + \eta^2}{2}\, g^2\, \nabla \log p_t \Big] dt + \eta\, g\, d\bar w

    Args:
        sde: anything with ``drift(x, t)`` and ``diffusion(t)``.
        score: ``score(x, t)``.
        eta: how much noise, at least 0.

    Raises:
        TypeError: if ``sde`` has no drift and diffusion (a chain has none: use ``ancestral`` or ``reverse_diffusion``), or
            ``score`` cannot be called.
        ValueError: if ``eta`` is negative or not finite.
    """
    if isinstance(sde, type):
        raise TypeError(f"sde: needs an SDE, got the class {sde.__name__}; write {sde.__name__}()")
    for name in ("drift", "diffusion"):
        if not callable(getattr(sde, name, None)):
            raise TypeError(f"sde: needs drift(x, t) and diffusion(t), which {type(sde).__name__} lacks")
    ops.check_function(score, "score", "(x, t)")
    factor = pull(eta)

    def drift(x: Data, t: Time) -> Data:
        return sde.drift(x, t) - ops.bcast(factor * ops.as_time(sde.diffusion(t)) ** 2, x) * score(x, t)

    def diffusion(t: Time) -> Time:
        return eta * sde.diffusion(t)

    if isinstance(sde, SDE) and type(sde).drift is SDE.drift and type(sde).diffusion is SDE.diffusion:
        # f(t) x + q(t) score: a step can then compute both numbers for a whole grid beforehand
        drift.linear = score, lambda t: (sde.f(t), -factor * sde.g(t) ** 2)  # type: ignore[attr-defined]
    return count_scores(drift), diffusion


def reverse_general(
    drift: Drift, G: MatrixDiffusion, score: ScoreFn, *, eta: float = 1.0
) -> tuple[Drift, MatrixDiffusion]:
    r"""Appendix A: dx = f(x, t) dt + G(x, t) dw backwards, for a diffusion matrix that may depend on x.

    .. math:: dx &= \big[ f - \tfrac{1 + \eta^2}{2}\, h \big] dt + \eta\, G\, d\bar w, \\
        h &= \nabla \cdot (G G^\top) + G G^\top \nabla \log p_t, \\
        (\nabla \cdot M)_i &= \sum_j \partial M_{ij} / \partial x_j

    For eta = 1 the reverse SDE, for eta = 0 the flow with half of both terms. In Ito's sense, like the forward equation.

    Args:
        drift: f(x, t) on points (batch, D).
        G: (x, t) -> (batch, D, D), written with torch operations.
        score: ``score(x, t)``.
        eta: how much noise, at least 0.

    Raises:
        TypeError: if ``drift``, ``G`` or ``score`` cannot be called.
        ValueError: if ``eta`` is negative or not finite, or, when called, if G does not return (batch, D, D).
    """
    for name, fn in (("drift", drift), ("G", G), ("score", score)):
        ops.check_function(fn, name, "(x, t)")
    factor = pull(eta)

    def backward(x: Data, t: Time) -> Data:
        def covariance(points: Tensor) -> Tensor:
            g = G(points, t)
            if g.shape != (*x.shape, x.shape[-1]) or x.ndim != 2:
                raise ValueError(
                    f"G: needs shape (batch, D, D) on points (batch, D), got {tuple(g.shape)} on {tuple(x.shape)}"
                )
            return g @ g.mT

        spread = torch.zeros_like(x)
        for j in range(x.shape[1]):  # d M / d x_j, of which column j counts: one forward derivative a dimension
            direction = torch.zeros_like(x)
            direction[:, j] = 1.0
            slope = torch.func.jvp(covariance, (x,), (direction,))[1]
            spread = spread + slope[:, :, j]
        return drift(x, t) - factor * (spread + (covariance(x) @ score(x, t)[..., None])[..., 0])

    def diffusion(x: Data, t: Time) -> Tensor:
        return eta * G(x, t)

    return count_scores(backward), diffusion


def pull(eta: float) -> float:
    """(1 + eta^2)/2, how much of g^2 score a backward drift takes, after checking eta."""
    if eta != 0.0:
        ops.check_positive(eta, "eta")
    return 0.5 * (1.0 + eta * eta)


def count_scores(drift: Drift) -> Drift:
    """Mark a drift as calling the score once, so that a sampler built on it counts its evaluations truly."""
    drift.nfe = 1  # type: ignore[attr-defined]
    return drift
