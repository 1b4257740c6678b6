r"""Noise: how data turn into the prior.

A *noising* says how a clean item x(0) is blurred at time t (paper eq. 7 calls the density p_0t)::

    x(t) given x(0)  ~  N(scale(t) x(0), std(t)^2 I),      t in [0, T], time 0 is clean data.

An SDE with affine drift is one (paper eq. 5)::

    dx = f(t) x dt + g(t) dw,      f = d log(scale)/dt,      g^2 = d(std^2)/dt - 2 f std^2.

So ``scale`` and ``std`` say everything: a subclass needs only these two, and f, g, the transitions between any two
times and a prior follow. VE, VP and sub-VP override what they can say more precisely in closed form.

Functions of time act elementwise on tensors of any shape and keep their dtype; a plain number counts as float64.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdelib import ops
from sdelib.types import Coefficient, Data, Diffusion, Drift, Generator, PerItem, Time


class Noising(ABC):
    r"""How a clean item is blurred at every time, with a prior that p_T is close to.

    .. math:: x(t) \mid x(0) \;\sim\; N\big(\mathrm{scale}(t)\, x(0),\; \mathrm{std}(t)^2 I\big)

    ``std(0)`` may be above zero (VE's is sigma_min, the implementations' convention); time 0 still means clean
    data: ``transition(0, t)`` is ``(scale(t), std(t))`` and a sampler's step to time 0 lands on clean data.
    """

    T: float = 1.0

    @abstractmethod
    def scale(self, t: Coefficient) -> Coefficient:
        """Mean coefficient: E[x(t) given x(0)] = scale(t) x(0)."""

    @abstractmethod
    def std(self, t: Coefficient) -> Coefficient:
        """Standard deviation of x(t) given x(0), the same in every coordinate."""

    def clean_std(self, t: Coefficient) -> Coefficient:
        """``std(t)``, but 0 at time 0, where data are clean."""
        t = ops.as_time(t)
        return torch.where(t == 0, torch.zeros_like(t), self.std(t))

    def transition(self, s: Coefficient, t: Coefficient) -> tuple[Coefficient, Coefficient]:
        r"""(a, b) with x_t = a x_s + b noise for s <= t.

        .. math:: a &= \mathrm{scale}(t) \,/\, \mathrm{scale}(s), \\
            b^2 &= \mathrm{std}(t)^2 - a^2\, \mathrm{std}(s)^2

        Transitions compose: from r to s to t is the same as from r to t. ``transition(0, t)`` is the kernel.
        Computed in float64, for b^2 is a difference of close numbers, and returned in the dtype of the times.
        """
        s, t = ops.as_time(s), ops.as_time(t)
        dtype = torch.result_type(s, t)
        s, t = _precise(s), _precise(t)
        scale_s = torch.where(s == 0, torch.ones_like(s), self.scale(s))
        a = self.scale(t) / scale_s
        b2 = self.std(t) ** 2 - (a * self.clean_std(s)) ** 2
        return a.to(dtype), b2.clamp_min(0).sqrt().to(dtype)  # rounding can leave -1e-17 where s = t

    def perturb(self, x0: Data, t: Time, noise: Data) -> Data:
        """x(t) = scale(t) x0 + std(t) noise, a draw of the kernel when ``noise`` is standard normal.

        Shapes: ``x0`` and ``noise`` (batch, *shape), ``t`` (batch,) or one number. Times are not checked here.
        """
        return ops.bcast(self.scale(t), x0) * x0 + ops.bcast(self.std(t), x0) * noise

    def sample_time(
        self,
        n: int,
        *,
        t_min: float,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Time:
        """``n`` training times, (n,), uniform on [t_min, T].

        Raises:
            ValueError: if ``n`` < 1 or not 0 <= ``t_min`` < ``T``.
        """
        ops.check_count(n, "n", "times")
        self.check_t_min(t_min)
        u = ops.rand(n, generator=generator, dtype=dtype, device=device)
        return t_min + (self.T - t_min) * u

    def check_t_min(self, t_min: float) -> None:
        """Refuse a ``t_min`` outside [0, T)."""
        if not 0.0 <= t_min < self.T:
            raise ValueError(f"t_min: needs 0 <= t_min < T = {self.T:g}, got {t_min!r}")

    @property
    def prior_std(self) -> float:
        """Standard deviation of the prior N(0, prior_std^2 I); by default the kernel's at time T."""
        return float(self.std(torch.tensor(self.T, dtype=torch.float64)))

    def prior_sample(
        self,
        shape: Sequence[int],
        *,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Data:
        """A batch from the prior, ``shape`` = (batch, *shape): where sampling starts."""
        return self.prior_std * ops.randn(tuple(shape), generator=generator, device=device, dtype=dtype)

    def prior_log_prob(self, x: Data) -> PerItem:
        """log N(x; 0, prior_std^2 I) in nats, summed over an item's dimensions."""
        sigma, dims = self.prior_std, x[0].numel()
        return -0.5 * ops.sum_items((x / sigma) ** 2) - dims * (math.log(sigma) + 0.5 * math.log(2 * math.pi))

    # What the authors' networks of this noising read and write; score.net_score uses them.

    def net_label(self, t: Time) -> Time:
        """The time label a network embeds; t itself unless a subclass knows the authors' choice."""
        return t

    def net_out(self, t: Time) -> Time:
        """The factor from a network's output to the score; -1/std: the network predicts the noise."""
        return -1.0 / self.std(t)


class SDE(Noising):
    r"""A stochastic differential equation on [0, T] (paper eq. 5) with an affine drift.

    .. math:: dx = f(t)\, x\, dt + g(t)\, dw

    A subclass gives ``scale`` and ``std`` (written with torch operations, so that they can be differentiated); ``f`` and
    ``g`` follow. ``T`` may be any positive number.
    """

    def f(self, t: Coefficient) -> Coefficient:
        r"""Linear rate of the drift, by differentiation unless overridden.

        .. math:: f(t) = \frac{d}{dt} \log \mathrm{scale}(t)
        """
        return _derivative(lambda u: torch.log(self.scale(u)), ops.as_time(t))

    def g(self, t: Coefficient) -> Coefficient:
        r"""Noise amplitude, by differentiation unless overridden.

        .. math:: g(t)^2 = \frac{d\, \mathrm{std}(t)^2}{dt} - 2 f(t)\, \mathrm{std}(t)^2

        NaN where that is below 0: then no SDE has this ``scale`` and ``std``. At time 0, where a std like sqrt(t) has
        no slope, the value just after it is given.
        """
        t = ops.as_time(t)
        precise = _precise(t)
        gain, loss = self._gain_and_loss(precise)
        if not bool(torch.isfinite(gain).all()):
            later = self._gain_and_loss(torch.where(precise == 0, 1e-6 * self.T, precise))
            start = (precise == 0) & ~torch.isfinite(gain)
            gain, loss = torch.where(start, later[0], gain), torch.where(start, later[1], loss)
        rounding = 1e-12 * (gain.abs() + loss.abs())  # where the two cancel, g is 0 and not NaN
        g2 = gain - loss
        return torch.where(g2.abs() <= rounding, torch.zeros_like(g2), g2).sqrt().to(t.dtype)

    def _gain_and_loss(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """d(std^2)/dt and 2 f std^2."""
        return _derivative(lambda u: self.std(u) ** 2, t), 2.0 * self.f(t) * self.std(t) ** 2

    def drift(self, x: Data, t: Time) -> Data:
        """f(t) x, the forward drift."""
        return ops.bcast(self.f(t), x) * x

    def diffusion(self, t: Time) -> Time:
        """g(t), the noise amplitude."""
        return self.g(t)


def _precise(t: Tensor) -> Tensor:
    """Times in float64 (Apple GPUs have none: there in their own dtype)."""
    return t if t.device.type == "mps" else t.double()


def _derivative(fn: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """d fn / dt elementwise, by forward differentiation in float64."""
    precise = _precise(
        t
    ).contiguous()  # forward differentiation refuses expanded times, which is what simulate hands out
    return torch.func.jvp(fn, (precise,), (torch.ones_like(precise),))[1].to(t.dtype)


@dataclass(frozen=True)
class VE(SDE):
    r"""Variance exploding (paper eq. 8-9).

    .. math:: dx &= \sqrt{\frac{d\,\sigma^2(t)}{dt}}\; dw, \\
        \sigma(t) &= \sigma_{\min} \Big( \frac{\sigma_{\max}}{\sigma_{\min}} \Big)^{t/T}

    Kernel N(x(0), sigma(t)^2 I). The exact kernel of eq. 9 has variance sigma(t)^2 - sigma(0)^2; like the authors' code
    we drop sigma(0)^2, so ``std(0)`` is sigma_min although time 0 means clean data.

    Raises:
        ValueError: unless 0 < sigma_min < sigma_max and T > 0.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    T: float = 1.0

    def __post_init__(self) -> None:
        """Check the arguments."""
        ops.check_span(self.sigma_min, self.sigma_max, "sigma_min", "sigma_max")
        ops.check_positive(self.T, "T")

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def sigma(self, t: Coefficient) -> Coefficient:
        """sigma(t), the standard deviation of the noise."""
        return self.sigma_min * torch.exp(ops.as_time(t) * (self._log_ratio / self.T))

    def scale(self, t: Coefficient) -> Coefficient:
        """1: the mean stays."""
        return torch.ones_like(ops.as_time(t))

    def std(self, t: Coefficient) -> Coefficient:
        """sigma(t)."""
        return self.sigma(t)

    def f(self, t: Coefficient) -> Coefficient:
        """0: no drift."""
        return torch.zeros_like(ops.as_time(t))

    def g(self, t: Coefficient) -> Coefficient:
        """sigma(t) sqrt(2 log(sigma_max/sigma_min) / T)."""
        return self.sigma(t) * math.sqrt(2.0 * self._log_ratio / self.T)

    def transition(self, s: Coefficient, t: Coefficient) -> tuple[Coefficient, Coefficient]:
        """a = 1, b^2 = sigma_t^2 - sigma_s^2, written with expm1 so that nothing cancels."""
        s, t = ops.as_time(s), ops.as_time(t)
        rise = torch.expm1(2.0 * (t - s) * (self._log_ratio / self.T)).clamp_min(0).sqrt()
        b = torch.where(s == 0, self.sigma(t), self.sigma(s) * rise)
        return torch.ones_like(b), b

    def net_label(self, t: Time) -> Time:
        """log sigma(t), what NCSN++ embeds."""
        return torch.log(self.sigma(t))

    def net_out(self, t: Time) -> Time:
        """1/sigma(t)."""
        return 1.0 / self.sigma(t)


@dataclass(frozen=True)
class VP(SDE):
    r"""Variance preserving (paper eq. 10-11).

    .. math:: dx &= -\tfrac12 \beta(t)\, x\, dt + \sqrt{\beta(t)}\; dw, \\
        \beta(t) &= \beta_{\min} + \tfrac{t}{T} (\beta_{\max} - \beta_{\min})

    With B(t) the integral of beta from 0 to t the kernel is N(x(0) exp(-B/2), (1 - exp(-B)) I). 1 - exp(-B) cancels near
    t = 0, so it is written -expm1(-B).

    Raises:
        ValueError: unless 0 < beta_min <= beta_max and T > 0.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    T: float = 1.0

    def __post_init__(self) -> None:
        """Check the arguments."""
        ops.check_span(self.beta_min, self.beta_max, "beta_min", "beta_max", allow_equal=True)
        ops.check_positive(self.T, "T")

    def beta(self, t: Coefficient) -> Coefficient:
        """The rate beta(t), linear in t."""
        return self.beta_min + ops.as_time(t) * ((self.beta_max - self.beta_min) / self.T)

    def beta_integral(self, t: Coefficient) -> Coefficient:
        """B(t) = beta_min t + (beta_max - beta_min) t^2 / (2 T)."""
        t = ops.as_time(t)
        return t * (self.beta_min + t * ((self.beta_max - self.beta_min) / (2.0 * self.T)))

    def _rise(self, s: Tensor, t: Tensor) -> Tensor:
        """B(t) - B(s) as a product, (t - s) times the mean rate, so that nothing cancels."""
        return (t - s) * (self.beta_min + (t + s) * ((self.beta_max - self.beta_min) / (2.0 * self.T)))

    def scale(self, t: Coefficient) -> Coefficient:
        """exp(-B(t)/2)."""
        return torch.exp(-0.5 * self.beta_integral(t))

    def std(self, t: Coefficient) -> Coefficient:
        """sqrt(1 - exp(-B(t)))."""
        return torch.sqrt(-torch.expm1(-self.beta_integral(t)))

    def f(self, t: Coefficient) -> Coefficient:
        """-beta(t)/2."""
        return -0.5 * self.beta(t)

    def g(self, t: Coefficient) -> Coefficient:
        """sqrt(beta(t))."""
        return torch.sqrt(self.beta(t))

    def transition(self, s: Coefficient, t: Coefficient) -> tuple[Coefficient, Coefficient]:
        """a = exp(-D/2), b^2 = 1 - exp(-D) with D = B(t) - B(s)."""
        rise = self._rise(ops.as_time(s), ops.as_time(t))
        return torch.exp(-0.5 * rise), torch.sqrt(-torch.expm1(-rise.clamp_min(0)))

    @property
    def prior_std(self) -> float:
        """The paper's prior is N(0, I), so 1, a hair wider than p_T (std(1) is 0.99998 at the paper's betas)."""
        return 1.0

    def net_label(self, t: Time) -> Time:
        """999 t/T, what DDPM++ embeds: the label of level 1000 is 999."""
        return t * (999.0 / self.T)


@dataclass(frozen=True)
class SubVP(VP):
    r"""Sub-variance preserving (paper eq. 12), with B(t) the integral of beta from 0 to t.

    .. math:: dx = -\tfrac12 \beta(t)\, x\, dt + \sqrt{\beta(t) \, (1 - e^{-2 B(t)})}\, dw

    Kernel N(x(0) exp(-B/2), (1 - exp(-B))^2 I): VP's mean, and VP's *variance* as standard deviation, so the
    variance is never above VP's. Parameters and errors as for :class:`VP`.
    """

    def std(self, t: Coefficient) -> Coefficient:
        """1 - exp(-B(t))."""
        return -torch.expm1(-self.beta_integral(t))

    def g(self, t: Coefficient) -> Coefficient:
        """sqrt(beta(t) (1 - exp(-2 B(t))))."""
        return torch.sqrt(self.beta(t) * -torch.expm1(-2.0 * self.beta_integral(t)))

    def transition(self, s: Coefficient, t: Coefficient) -> tuple[Coefficient, Coefficient]:
        r"""The transition with D = B(t) - B(s); not in the paper.

        .. math:: a &= e^{-D/2}, \\
            b^2 &= \big(1 - e^{-D}\big) \big(1 - e^{-(B(t) + B(s))}\big)

        From std_t^2 - a^2 std_s^2: with u = exp(-B(s)), d = exp(-D) it is (1 - ud)^2 - d (1 - u)^2 = (1 - d)(1 - u^2 d).
        """
        s, t = ops.as_time(s), ops.as_time(t)
        rise = self._rise(s, t)
        both = self.beta_integral(t) + self.beta_integral(s)
        return torch.exp(-0.5 * rise), torch.sqrt(torch.expm1(-rise.clamp_min(0)) * torch.expm1(-both))


class Ito:
    r"""A stochastic differential equation with any drift (paper eq. 5), for example a double well.

    .. math:: dx = f(x, t)\, dt + g(t)\, dw

    A drift that is not affine leaves no kernel in closed form: there is no ``perturb``. Simulate it with
    ``simulate(euler_maruyama(sde.drift, sde.diffusion), ...)`` and match scores by :func:`sdelib.sliced` or
    :func:`sdelib.finite_difference` (paper section 3.3).

    Args:
        drift: ``drift(x, t)``, shaped as ``x``.
        diffusion: ``diffusion(t)``, one number a time.
        T: where the forward process ends.

    Raises:
        TypeError: if ``drift`` or ``diffusion`` cannot be called.
        ValueError: unless T > 0.
    """

    def __init__(self, drift: Drift, diffusion: Diffusion, T: float = 1.0) -> None:
        for name, fn in (("drift", drift), ("diffusion", diffusion)):
            ops.check_function(fn, name)
        ops.check_positive(T, "T")
        self._drift, self._diffusion, self.T = drift, diffusion, T

    def drift(self, x: Data, t: Time) -> Data:
        """The drift f(x, t)."""
        return self._drift(x, t)

    def diffusion(self, t: Time) -> Time:
        """The noise amplitude g(t); a constant may be returned as a plain number."""
        g = self._diffusion(t)
        return g if isinstance(g, Tensor) else torch.full_like(t, g)

    def __repr__(self) -> str:
        """Name the functions."""
        names = (getattr(fn, "__name__", repr(fn)) for fn in (self._drift, self._diffusion))
        return f"Ito(drift={next(names)}, diffusion={next(names)}, T={self.T})"
