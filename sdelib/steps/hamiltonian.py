r"""Hamiltonian Monte Carlo: a corrector that travels along the density instead of diffusing through it.

Give x a velocity v ~ N(0, I) and let it roll: d/du x = v, d/du v = s(x, t) for a fictitious time u. The energy
H = -log p_t(x) + |v|^2/2 does not change on the way, and where it is after a while is as good a draw from p_t as where it began
(Duane et al. 1987; Neal 2011, section 5.2). Leapfrog steps of size d follow that motion, with an error in H of order d^2::

    v <- v + d/2 s(x),    x <- x + d v,    v <- v + d/2 s(x)

Metropolis' rule removes the error: go there with probability min(1, exp(H - H')), else stay. It asks for the difference of
log p_t between two points, and a score has no density. But the integral of the score along any way between the points is that
difference (Sjöberg et al. 2023, arXiv:2307.14012), and the trajectory has evaluated the score on one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sdelib import ops
from sdelib.sde import Noising
from sdelib.steps.correctors import Corrector
from sdelib.steps.planned import PlannedStep
from sdelib.types import Data, Generator, PerItem, ScoreFn, Stepped, Time

__all__ = ["Trajectory", "hmc", "leapfrog"]


class Trajectory(NamedTuple):
    """Where a leapfrog trajectory ended: position, velocity and score there, and what the density gained.

    ``gain``, (batch,), estimates log p(x') - log p(x) in nats.
    """

    x: Data
    v: Data
    s: Data
    gain: PerItem


def leapfrog(
    score: ScoreFn, x: Data, v: Data, t: Time, size: Tensor | float, n: int, *, s: Data | None = None
) -> Trajectory:
    r"""``n`` leapfrog steps of ``size`` at time t, and the line integral of the score along them.

    .. math:: v_{i+1/2} &= v_i + \tfrac{d}{2} s(x_i, t), \\
        x_{i+1} &= x_i + d\, v_{i+1/2}, \\
        v_{i+1} &= v_{i+1/2} + \tfrac{d}{2} s(x_{i+1}, t)

    The gain is the integral of s . dx with x and s both interpolated by piecewise cubics through the n + 1 points (slopes by
    central differences). It is exact where the score is linear, that is on Gaussians; elsewhere its error is of order size^4;
    run backwards it changes its sign and nothing else.

    Args:
        score: ``score(x, t)``.
        x: where to start, (batch, *shape).
        v: the velocity there, x's shape.
        t: (batch,).
        size: d, one number, or a tensor that multiplies x.
        n: how many steps, at least 1.
        s: the score at the start, if it is known already; saves one evaluation.
    """
    s = score(x, t) if s is None else s
    xs, scores = [x], [s]
    for i in range(n):
        v = v + (0.5 * size if i == 0 else size) * s  # the half kicks of two neighbouring steps are one
        x = x + size * v
        s = score(x, t)
        xs.append(x)
        scores.append(s)
    return Trajectory(x, v + 0.5 * size * s, s, _line_integral(_stack(xs), _stack(scores)))


def _stack(states: list[Data]) -> Tensor:
    return torch.stack(states).to(torch.promote_types(states[0].dtype, torch.float32))


def _line_integral(xs: Tensor, ss: Tensor) -> PerItem:
    """Of s . dx along (points, batch, *shape): for the same cubic interpolation of x and s, integrated exactly."""
    dx, ds = xs.diff(dim=0), ss.diff(dim=0)
    x_slopes, s_slopes = (torch.gradient(v, dim=0, edge_order=min(2, len(dx)))[0] for v in (xs, ss))
    pieces = 0.5 * (ss[:-1] + ss[1:]) * dx + (ds * x_slopes.diff(dim=0) - dx * s_slopes.diff(dim=0)) / 10
    pieces = pieces + (s_slopes[1:] * x_slopes[:-1] - s_slopes[:-1] * x_slopes[1:]) / 60
    return ops.sum_items(pieces.sum(0))


class _HMC(Corrector):
    def __init__(self, noising: Noising, score: ScoreFn, snr: float, n_leapfrog: int, n_steps: int) -> None:
        super().__init__(noising, score, snr, n_steps)
        ops.check_count(n_leapfrog, "n_leapfrog", "leapfrog steps")
        self.n_leapfrog, self.nfe = n_leapfrog, n_steps * n_leapfrog + 1

    def run(self, x: Data, t: Time, alpha: Tensor | float, std: Tensor | float, generator: Generator | None) -> Stepped:
        root = torch.sqrt(alpha) if isinstance(alpha, Tensor) else math.sqrt(alpha)
        size = 2.0 * self.snr * std * root
        size = ops.bcast(size, x) if isinstance(size, Tensor) else size
        s = self.score(x, t)
        for _ in range(self.n_steps):
            v = ops.randn_like(x, generator)
            end = leapfrog(self.score, x, v, t, size, self.n_leapfrog, s=s)
            log_ratio = end.gain + 0.5 * ops.sum_items(((v - end.v) * (v + end.v)).to(end.gain))
            # a normal number's distribution function is uniform; where the ratio is NaN go too, so that a broken score shows
            stay = torch.special.log_ndtr(ops.randn_like(log_ratio, generator)) >= log_ratio
            stay = ops.bcast(stay, x) > 0
            x, s = torch.where(stay, x, end.x), torch.where(stay, s, end.s)
        return Stepped(x, x, t)


def hmc(noising: Noising, score: ScoreFn, *, snr: float = 0.16, n_leapfrog: int = 5, n_steps: int = 1) -> PlannedStep:
    r"""Hamiltonian Monte Carlo (section 4.2 names it), with leapfrog and Metropolis' rule (Neal 2011, section 5.3).

    .. math:: d &= 2 \sqrt{\alpha}\; r\, \mathrm{std}(t), \\
        W &= \int_x^{x'} s \cdot dx, \\
        P(\text{go}) &= \min\big(1, e^{W + |v|^2/2 - |v'|^2/2}\big)

    where n_leapfrog leapfrog steps of size d lead from (x, v) to (x', v'). Every item has its own v ~ N(0, I) and decides alone,
    so neighbours are not coupled. W is :func:`~sdelib.steps.leapfrog`'s, from scores that the trajectory evaluates anyway.

    With the exact score of a Gaussian the marginal is kept exactly, at any step size that leapfrog endures (d < 2 std, or
    snr < 1; the score of p_t is never steeper than that of N(0, std^2)). On mixtures what is left is small: at the defaults the
    variance stays to 3e-4, where it would be 2 % off without the rule. A network's score need not be a gradient; then W depends
    on the way, and there is no law to be exact about.

    One leapfrog step is :func:`annealed_langevin`'s move with the same ``snr`` (d^2 = 2 step), and Metropolis' rule on it. The
    defaults travel 1.6 std, a quarter of the period of a Gaussian as wide as the noise: there one step forgets where it began.
    Long trajectories in many dimensions are refused more often, since the error adds up: on N(0, std^2 I) 1 in 100 in 2
    dimensions, half of them in 3,072.

    Nothing is added last, so ``mean`` is x itself. Evaluations: n_steps * n_leapfrog + 1, as the score at the start is kept.

    Args:
        noising: an SDE or a chain.
        score: ``score(x, t)``.
        snr: r, which scales the step.
        n_leapfrog: leapfrog steps of one trajectory.
        n_steps: trajectories at every time, each with a fresh velocity.

    Raises:
        ValueError: if ``snr``, ``n_leapfrog`` or ``n_steps`` is not above 0.
    """
    return _HMC(noising, score, snr, n_leapfrog, n_steps)
