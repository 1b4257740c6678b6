r"""Solvers: steps for any SDE that is given as a drift f and a diffusion g, in either direction of time.

Over a step h = t_next - t the exact solution moves by the integrals of f and of g dw. Euler-Maruyama freezes both at the start.
Stochastic Runge-Kutta looks at f once more on the way, at a point that carries its share of the noise; for that it needs, beside
the increment I1 of the Brownian path, the path's area I10 over the step. Both are normal, with a covariance known exactly
(Kloeden & Platen 1992, section 10.4)::

    I1 = sqrt|h| z1,    I10 / |h| = sqrt|h| (z1 + z2/sqrt(3)) / 2
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sdelib import ops
from sdelib.reversal import MatrixDiffusion
from sdelib.steps.planned import LinearPredictor, PlannedStep, precise
from sdelib.types import Data, Diffusion, Drift, Generator, Step, Stepped, Time

__all__ = ["euler_maruyama", "stochastic_runge_kutta"]


class _EulerMaruyama(PlannedStep):
    def __init__(self, drift: Drift, diffusion: Diffusion | MatrixDiffusion) -> None:
        self.drift, self.diffusion = drift, diffusion
        self.nfe = int(getattr(drift, "nfe", 0))
        self.sees_x = _takes_two(diffusion)

    def __call__(self, x: Data, t: Time, t_next: Time, generator: Generator | None = None) -> Stepped:
        dt = precise(t_next) - precise(t)
        mean = x + ops.bcast(dt, x) * self.drift(x, t)
        return Stepped(mean + self._spread(x, t, dt.abs().sqrt(), ops.randn_like(x, generator)), mean, t_next)

    def _spread(self, x: Data, t: Time, root: Tensor, z: Data) -> Data:
        if not self.sees_x:
            return ops.bcast(ops.as_time(self.diffusion(t)).to(root) * root, x) * z  # type: ignore[call-arg]
        G, noise = self.diffusion(x, t), ops.bcast(root, x) * z  # type: ignore[call-arg]
        if x.ndim == 2 and G.shape == (*x.shape, x.shape[1]):
            return (G @ noise[..., None])[..., 0]
        if G.shape not in (x.shape, x.shape[:1]):
            raise ValueError(
                "diffusion: G(x, t) needs shape (batch, D, D) on points (batch, D), x's shape (a diagonal one) or (batch,), "
                f"got {tuple(G.shape)} on {tuple(x.shape)}"
            )
        return ops.bcast(G, x) * noise

    def between(self, starts: Time, ends: Time) -> Sequence[Step]:
        spans = (ends - starts).tolist()
        if self.sees_x:
            return [self] * len(spans)
        amplitudes = torch.as_tensor(self.diffusion(starts), dtype=torch.float64).expand(len(spans))  # type: ignore[call-arg]
        noises = (amplitudes.cpu() * (ends - starts).abs().sqrt()).tolist()
        return [_Euler(self.drift, dt, r, self.nfe) for dt, r in zip(spans, noises, strict=True)]


@dataclass(frozen=True)
class _Euler:
    drift: Drift
    dt: float
    r: float
    nfe: int

    def __call__(self, x: Data, t: Time, t_next: Time, generator: Generator | None = None) -> Stepped:
        mean = x + self.dt * self.drift(x, t)
        return Stepped(mean + self.r * ops.randn_like(x, generator), mean, t_next)


def _takes_two(diffusion: Diffusion | MatrixDiffusion) -> bool:
    """Whether the diffusion wants (x, t) rather than t alone: its number of arguments without defaults says it."""
    try:
        wanted = (
            diffusion.forward if isinstance(diffusion, nn.Module) else diffusion
        )  # a module's __call__ takes anything
        parameters = inspect.signature(wanted).parameters.values()
    except (TypeError, ValueError):
        return False
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters) == 2


def euler_maruyama(drift: Drift, diffusion: Diffusion | MatrixDiffusion) -> PlannedStep:
    r"""The simplest step of an SDE, with dt = t_next - t of either sign: strong order 1/2, weak order 1.

    .. math:: x' = x + f(x, t)\, dt + g(t) \sqrt{|dt|}\; z

    Where the noise amplitude does not depend on x, the strong order is 1 (Kloeden & Platen 1992, section 10.2).
    f is ``drift``, g is ``diffusion``.
    Forward in time with ``sde.drift, sde.diffusion``; backward with the pair that :func:`sdelib.reverse` returns.

    Args:
        drift: ``drift(x, t)``.
        diffusion: ``diffusion(t)``, one number a time; or ``G(x, t)``, either (batch, D, D) as in appendix A or x's shape
            for a diagonal one.

    Raises:
        TypeError: if one of them cannot be called.
    """
    for name, fn in (("drift", drift), ("diffusion", diffusion)):
        ops.check_function(fn, name)
    linear = getattr(drift, "linear", None)  # what reverse says of an SDE's drift: f(t) x + q(t) score
    if linear is None or _takes_two(diffusion):
        return _EulerMaruyama(drift, diffusion)

    score, rates = linear

    def coefficients(t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dt = t_next - t
        f, q = rates(t)
        g = ops.as_time(diffusion(t)).to(dt)  # type: ignore[call-arg]
        return 1.0 + f * dt, q * dt, g * dt.abs().sqrt()

    return LinearPredictor(score, coefficients, backward_only=False)


STAGE = 0.75  # where on the step the second stage stands


class _Weights(NamedTuple):
    """y = yx x + ys s + yw w; mean = mx x + ms s + my y + mu s(y); x' = mean + xz z1 + xw w, where w = z1 + z2/sqrt(3).

    Tensors, or plain numbers in a ready step.
    """

    yx: Any
    ys: Any
    yw: Any
    mx: Any
    ms: Any
    my: Any
    mu: Any
    xz: Any
    xw: Any

    @property
    def noisy(self) -> bool:
        return any(bool(torch.as_tensor(v).any()) for v in (self.yw, self.xz, self.xw))


class _RungeKutta(PlannedStep):
    """For a drift F(t) x + Q(t) score(x, t), with rates(t) = (F, Q): any drift is one, with F = 0 and Q = 1."""

    def __init__(self, score: Drift, rates: Callable[[Tensor], tuple[Tensor, Tensor]], diffusion: Diffusion, nfe: int):
        self.score, self.rates, self.diffusion, self.nfe = score, rates, diffusion, nfe

    def weights(self, t: Tensor, t_next: Tensor) -> _Weights:
        h = t_next - t
        root = h.abs().sqrt()
        F, Q = self.rates(t)
        F_stage, Q_stage = self.rates(torch.lerp(t, t_next, STAGE))
        g, g_next = (ops.as_time(self.diffusion(u)).to(h) for u in (t, t_next))
        return _Weights(
            *(1.0 + STAGE * h * F, STAGE * h * Q, 0.75 * g_next * root),
            *(1.0 + h * F / 3.0, h * Q / 3.0, 2.0 * h * F_stage / 3.0, 2.0 * h * Q_stage / 3.0),
            *(g_next * root, 0.5 * (g - g_next) * root),
        )

    def __call__(self, x: Data, t: Time, t_next: Time, generator: Generator | None = None) -> Stepped:
        weights = self.weights(precise(t), precise(t_next))
        return self.move(x, t, t_next, generator, _Weights(*(ops.bcast(v, x) for v in weights)), weights.noisy)

    def move(self, x: Data, t: Time, t_next: Time, generator: Generator | None, k: _Weights, noisy: bool) -> Stepped:
        s = self.score(x, t)
        z1, z2 = (ops.randn_like(x, generator) if noisy else torch.zeros_like(x) for _ in range(2))
        w = z1 + z2 / math.sqrt(3.0)
        y = k.yx * x + k.ys * s + k.yw * w
        mean = k.mx * x + k.ms * s + k.my * y + k.mu * self.score(y, torch.lerp(t, t_next, STAGE))
        return Stepped(mean + k.xz * z1 + k.xw * w, mean, t_next)

    def between(self, starts: Time, ends: Time) -> Sequence[Step]:
        table = [v.expand(len(starts)).tolist() for v in self.weights(starts, ends)]
        return [_ReadyRungeKutta(self, _Weights(*row)) for row in zip(*table, strict=True)]


class _ReadyRungeKutta:
    """Runge-Kutta on one known interval."""

    def __init__(self, whole: _RungeKutta, weights: _Weights) -> None:
        self.whole, self.weights, self.noisy, self.nfe = whole, weights, weights.noisy, whole.nfe

    def __call__(self, x: Data, t: Time, t_next: Time, generator: Generator | None = None) -> Stepped:
        return self.whole.move(x, t, t_next, generator, self.weights, self.noisy)


def stochastic_runge_kutta(drift: Drift, diffusion: Diffusion) -> PlannedStep:
    r"""A stochastic Runge-Kutta step for noise that depends on time alone: strong order 3/2, weak order 2, two drifts a step.

    .. math:: y &= x + \tfrac34 h f(x, t) + \tfrac32\, g(t')\, J, \\
        m &= x + \tfrac{h}{3} \big[f(x, t) + 2 f(y, t + \tfrac34 h)\big], \\
        x' &= m + g(t')\, I_1 + \big(g(t) - g(t')\big) J

    with h = t' - t of either sign, I1 the Brownian increment and J = I10/|h| its mean over the step: scheme SRA1 of Rößler
    (2010, section 6; SIAM J. Numer. Anal. 48), whose ancestors are in Kloeden & Platen (1992, section 11.2). Without noise it is
    an ordinary Runge-Kutta method of order 2. Where the drift is linear in x, the strong order is 2.

    It draws two normals for each number in x, z1 before z2. The drift is evaluated at t and at three quarters of the way, never
    at t'; g at t and at t'. ``mean`` is m, that is x' without the step's integral of g dw. The noise within y stays in it, for
    taking it out would cost a third evaluation: so m is no denoised sample. End the grid at t_min and call ``denoised``.

    Args:
        drift: f(x, t), either way in time as for :func:`euler_maruyama`.
        diffusion: g(t), one number a time.

    Raises:
        TypeError: if one of them cannot be called, or the diffusion takes (x, t): the scheme holds for g(t) alone.
    """
    for name, fn in (("drift", drift), ("diffusion", diffusion)):
        ops.check_function(fn, name)
    if _takes_two(diffusion):
        raise TypeError(
            "diffusion: needs a function of t alone, got one of (x, t); for noise that depends on x use euler_maruyama"
        )
    score, rates = getattr(drift, "linear", None) or (drift, lambda t: (torch.zeros_like(t), torch.ones_like(t)))
    return _RungeKutta(score, rates, diffusion, 2 * int(getattr(drift, "nfe", 0)))
