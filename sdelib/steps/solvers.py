r"""Solvers: steps for any SDE that is given as a drift and a diffusion, in either direction of time."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sdelib import ops
from sdelib.reversal import MatrixDiffusion
from sdelib.steps.planned import LinearPredictor, PlannedStep, precise
from sdelib.types import Data, Diffusion, Drift, Generator, Step, Stepped, Time

__all__ = ["euler_maruyama"]


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
