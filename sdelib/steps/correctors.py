r"""Correctors by Langevin's equation: they stay at time t and walk towards that time's marginal.

One step of size e moves along the score and adds noise (eq. 2)::

    x' = x + e s(x, t) + sqrt(2 e) z

With the score of N(0, v I) it settles at the variance v / (1 - e/(2 v)): too wide, and the more so the longer the step.
How e is chosen tells the kinds apart.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdelib import ops
from sdelib.sde import Noising
from sdelib.steps.planned import PlannedStep, need_kernel, precise
from sdelib.types import Data, Generator, ScoreFn, Step, Stepped, Time

__all__ = ["annealed_langevin", "langevin"]  # Corrector is for the module beside this one


class Corrector(PlannedStep):
    """A walk of ``n_steps`` steps at time t, scaled by ``snr``. ``run`` walks; the rest is worked out here."""

    moves = False

    def __init__(self, noising: Noising, score: ScoreFn, snr: float, n_steps: int) -> None:
        ops.check_positive(snr, "snr")
        ops.check_count(n_steps, "n_steps", "steps at every time")
        need_kernel(noising, score)
        self.noising, self.score, self.snr, self.n_steps, self.nfe = noising, score, snr, n_steps, n_steps

    @abstractmethod
    def run(self, x: Data, t: Time, alpha: Tensor | float, std: Tensor | float, generator: Generator | None) -> Stepped:
        """``n_steps`` corrections; ``alpha`` and ``std`` are plain numbers in a ready step, (batch,) otherwise."""

    def alphas(self, t: Tensor, t_next: Tensor) -> Tensor:
        """(scale(t)/scale(t_next))^2: 1 for VE and SMLD, exactly 1 - beta_i between DDPM's neighbouring levels."""
        return torch.minimum(self.noising.transition(t_next, t)[0], torch.ones_like(t)) ** 2

    def __call__(self, x: Data, t: Time, t_next: Time, generator: Generator | None = None) -> Stepped:
        early, late = precise(t), precise(t_next)
        alpha, std, noisy = self.alphas(early, late), self.noising.std(early), early > 0
        if bool(noisy.all()):
            return self.run(x, t, alpha, std, generator)
        if not bool(noisy.any()):
            return Stepped(x, x, t)  # at time 0 data are clean: nothing to correct
        where = noisy.to(x.device)
        part = self.run(x[where], t[where.to(t.device)], alpha[noisy], std[noisy], generator)
        out, mean = x.clone(), x.clone()
        out[where], mean[where] = part.x, part.mean
        return Stepped(out, mean, t)

    def between(self, starts: Time, ends: Time) -> Sequence[Step]:
        alphas, stds = self.alphas(starts, ends), self.noising.std(starts)
        return [
            _Ready(self, alpha, std) if start > 0 else _Unchanged()
            for start, alpha, std in zip(starts.tolist(), alphas.tolist(), stds.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class _Ready:
    """A corrector at one known time."""

    corrector: Corrector
    alpha: float
    std: float

    @property
    def nfe(self) -> int:
        return self.corrector.nfe

    def __call__(self, x: Data, t: Time, t_next: Time, generator: Generator | None = None) -> Stepped:
        return self.corrector.run(x, t, self.alpha, self.std, generator)


class _Unchanged:
    """A corrector at time 0."""

    nfe = 0

    def __call__(self, x: Data, t: Time, t_next: Time, generator: Generator | None = None) -> Stepped:
        return Stepped(x, x, t)


class _Walk(Corrector):
    """x + step s + sqrt(2 step) z, where ``size`` decides the step."""

    @abstractmethod
    def size(self, alpha: Tensor | float, std: Tensor | float, s: Data, z: Data) -> Tensor | float:
        """The step size, (batch,) or one number."""

    def run(self, x: Data, t: Time, alpha: Tensor | float, std: Tensor | float, generator: Generator | None) -> Stepped:
        mean = x
        for _ in range(self.n_steps):
            s, z = self.score(x, t), ops.randn_like(x, generator)
            step = self.size(alpha, std, s, z)
            if isinstance(step, Tensor):
                step, root = ops.bcast(step, x), ops.bcast(torch.sqrt(2.0 * step), x)
                mean = x + step * s
                x = mean + root * z
            else:
                mean = x + step * s
                x = mean + math.sqrt(2.0 * step) * z
        return Stepped(x, mean, t)


class _Langevin(_Walk):
    def __init__(self, noising: Noising, score: ScoreFn, snr: float, n_steps: int, norm: str) -> None:
        super().__init__(noising, score, snr, n_steps)
        ops.check_choice(norm, ("batch", "sample"), "norm")
        self.norm = norm

    def size(self, alpha: Tensor | float, std: Tensor | float, s: Data, z: Data) -> Tensor | float:
        z_norm, s_norm = (torch.linalg.vector_norm(v.reshape(len(v), -1), dim=1) for v in (z, s))
        if self.norm == "batch":
            z_norm, mean = z_norm.mean(), s_norm.mean()
            if not math.isfinite(
                float(mean.detach())
            ):  # one broken score must not break its neighbours, nor hide among them
                mean = s_norm[torch.isfinite(s_norm)].mean()
            s_norm = mean
        doubled = 2.0 * alpha
        return (doubled.to(s) if isinstance(doubled, Tensor) else doubled) * (self.snr * (z_norm / s_norm)) ** 2


def langevin(
    noising: Noising, score: ScoreFn, *, snr: float = 0.16, n_steps: int = 1, norm: str = "batch"
) -> PlannedStep:
    r"""The paper's Langevin corrector (algorithms 4 and 5), with |z| and |s| as means of the items' norms.

    .. math:: x' &= x + \epsilon\, s(x, t) + \sqrt{2 \epsilon}\, z, \\
        \epsilon &= 2 \alpha \Big( r\, \frac{\|z\|}{\|s\|} \Big)^2

    alpha = (scale(t)/scale(t_next))^2 is 1 for VE and 1 - beta_i on DDPM's chain.

    Args:
        noising: an SDE or a chain.
        score: ``score(x, t)``.
        snr: r, the ratio of the drift's length to the noise's.
        n_steps: M, corrector steps at every time.
        norm: "batch" takes the means of the items' norms over the batch, as the authors do: a sample then depends on its
            neighbours. "sample" takes each item's own norms, which has no stationary law near a mode, where |s| vanishes and
            the step explodes: an exhibit, not a tool. :func:`annealed_langevin` couples no neighbours.

    Raises:
        ValueError: if ``snr`` or ``n_steps`` is not above 0, or for another ``norm``.
    """
    return _Langevin(noising, score, snr, n_steps, norm)


class _Annealed(_Walk):
    def size(self, alpha: Tensor | float, std: Tensor | float, s: Data, z: Data) -> Tensor | float:
        length = self.snr * std
        return 2.0 * alpha * (length * length)  # a product, so that tensors and plain numbers round alike


def annealed_langevin(noising: Noising, score: ScoreFn, *, snr: float = 0.16, n_steps: int = 1) -> PlannedStep:
    r"""SMLD's corrector (paper eq. 2; Song & Ermon 2019), with one step size for every item.

    .. math:: x' &= x + \epsilon\, s(x, t) + \sqrt{2 \epsilon}\, z, \\
        \epsilon &= 2 \alpha \big( r\, \mathrm{std}(t) \big)^2

    With the score of N(0, std^2 I) it keeps the variance to within a factor 1/(1 - step/(2 std^2)) = 1/(1 - alpha snr^2).
    Arguments and errors as for :func:`langevin`.
    """
    return _Annealed(noising, score, snr, n_steps)
