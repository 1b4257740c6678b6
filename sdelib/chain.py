"""Chains: noise in N discrete levels, as SMLD and DDPM have it.

Level 0 is clean data, levels 1..N are noisy, level i sits at time i/N. One level to the next::

    x_i = a_i x_{i-1} + b_i z_i,      i = 1..N,      z_i standard normal.

SMLD (paper eq. 8): a_i = 1, b_i^2 = sigma_i^2 - sigma_{i-1}^2.  DDPM (eq. 10): a_i = sqrt(1 - beta_i), b_i^2 = beta_i.
A chain is a :class:`~sdelib.Noising` like any SDE, so losses and samplers take either.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdelib import ops
from sdelib.sde import SDE, Noising
from sdelib.types import Coefficient, Generator, Time


class Chain(Noising):
    r"""Noise in N levels; ``a`` and ``b`` list levels 1..N, level 1 first.

    .. math:: x_i = a_i\, x_{i-1} + b_i z_i, \qquad z_i \sim N(0, I)

    A time between two levels counts as the nearer one: rounding, never truncation, so that i/N in float32
    is level i for every N.

    Args:
        a: factors, each above 0, shape (N,).
        b: noise amplitudes, each at least 0 and the first above 0, shape (N,).
        prior_std: standard deviation of the prior; ``None``: the kernel's at level N.

    Raises:
        ValueError: if shapes differ, values are not finite, or signs are wrong.
    """

    T = 1.0

    def __init__(self, a: Tensor, b: Tensor, *, prior_std: float | None = None) -> None:
        a, b = _table(a, "a"), _table(b, "b")
        if a.shape != b.shape:
            raise ValueError(f"b: needs the shape of a, {tuple(a.shape)}, got {tuple(b.shape)}")
        _check_each(a, a > 0, "a", "above 0")
        _check_each(b, b >= 0, "b", "at least 0")
        _check_each(b[:1], b[:1] > 0, "b", "above 0 at level 1, so that every level is noisy")
        if prior_std is not None:
            ops.check_positive(prior_std, "prior_std")
        self.a, self.b, self._prior_std = a, b, prior_std
        scales, variances = [1.0], [0.0]
        for ai, bi in zip(a.tolist(), b.tolist(), strict=True):
            scales.append(scales[-1] * ai)
            variances.append(ai * ai * variances[-1] + bi * bi)
        self.scales = torch.tensor(scales, dtype=torch.float64)
        self.stds = torch.tensor(variances, dtype=torch.float64).sqrt()

    @classmethod
    def from_sde(cls, sde: SDE, times: Tensor) -> Chain:
        """The chain whose level i has the SDE's marginal at ``times[i-1]`` (its exact transitions, not a discretisation).

        Raises:
            TypeError: if ``sde`` has no kernel (:class:`~sdelib.Ito`).
            ValueError: unless ``times`` ascend strictly inside (0, T].
        """
        if not isinstance(sde, Noising):
            raise TypeError(f"sde: needs scale, std and transition, which {type(sde).__name__} lacks")
        times = _table(times, "times")
        _check_ascending(times, "times")
        if not 0.0 < float(times[0]) <= float(times[-1]) <= sde.T:
            raise ValueError(f"times: need to lie in (0, {sde.T:g}], got {float(times[0]):g} to {float(times[-1]):g}")
        before = torch.cat([times.new_zeros(1), times[:-1]])
        return cls(*sde.transition(before, times), prior_std=sde.prior_std)

    @property
    def N(self) -> int:
        """The number of noisy levels."""
        return len(self.a)

    def __repr__(self) -> str:
        """Name the size and the ends."""
        return f"Chain(N={self.N}, scale {float(self.scales[-1]):.4g}, std {float(self.stds[1]):.4g}..{float(self.stds[-1]):.4g})"

    def level(self, t: Coefficient) -> Tensor:
        """The level at time t: round(N t), a whole number from 0 to N."""
        return torch.round(ops.as_time(t) * self.N).long().clamp(0, self.N)

    def times(self) -> Time:
        """The sampling grid N/N, (N-1)/N, ..., 0 in float64: N steps from the prior to clean data."""
        return torch.arange(self.N, -1, -1, dtype=torch.float64) / self.N

    def _look(self, table: Tensor, t: Coefficient) -> Coefficient:
        t = ops.as_time(t)
        index = self.level(t)
        return table.to(device=t.device, dtype=t.dtype)[index]

    def scale(self, t: Coefficient) -> Coefficient:
        """Product of a_1..a_i; for DDPM sqrt(alpha_i)."""
        return self._look(self.scales, t)

    def std(self, t: Coefficient) -> Coefficient:
        """Standard deviation of x_i given x_0: sigma_i for SMLD, sqrt(1 - alpha_i) for DDPM; 0 at level 0."""
        return self._look(self.stds, t)

    def transition(self, s: Coefficient, t: Coefficient) -> tuple[Coefficient, Coefficient]:
        """(a, b) from the level of s to the level of t; exactly (a_i, b_i) between neighbours."""
        s, t = torch.broadcast_tensors(ops.as_time(s), ops.as_time(t))
        low, high = self.level(s), self.level(t)
        scales, stds, a_table, b_table = (
            v.to(t.device) for v in (self.scales, self.stds, self.a, self.b)
        )  # chain tables follow t's device; arithmetic stays in float64
        a = scales[high] / scales[low]
        b = (stds[high] ** 2 - (a * stds[low]) ** 2).clamp_min(0).sqrt()
        neighbours, index = high == low + 1, (high - 1).clamp_min(0)
        a, b = torch.where(neighbours, a_table[index], a), torch.where(neighbours, b_table[index], b)
        return a.to(t.dtype), b.to(t.dtype)

    def sample_time(
        self,
        n: int,
        *,
        t_min: float,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Time:
        """``n`` times i/N, (n,), uniform over the levels 1..N that are not below ``t_min``.

        Raises:
            ValueError: if ``n`` < 1 or not 0 <= ``t_min`` < 1.
        """
        ops.check_count(n, "n", "times")
        self.check_t_min(t_min)
        levels = torch.arange(1, self.N + 1, dtype=torch.float64)
        first = int((levels / self.N < t_min - 1e-12).sum())
        # In float64: a float32 uniform number can round up to 1 and would fall off the table's end.
        u = ops.rand(n, generator=generator, dtype=torch.float64, device="cpu")
        index = first + (u * (self.N - first)).long()
        return (levels[index] / self.N).to(device=device, dtype=dtype or torch.get_default_dtype())

    @property
    def prior_std(self) -> float:
        """As given; else the kernel's standard deviation at level N."""
        return float(self.stds[-1]) if self._prior_std is None else float(self._prior_std)

    @property
    def keeps_mean(self) -> bool:
        """Whether every a_i is 1, as in SMLD, whose variance explodes and whose mean stays."""
        return bool((self.a == 1).all())

    def net_label(self, t: Time) -> Time:
        """What the authors' discrete networks embed: N - level for SMLD (0 is the noisiest), level - 1 for DDPM."""
        level = self.level(t).to(ops.as_time(t).dtype)
        return self.N - level if self.keeps_mean else level - 1

    def net_out(self, t: Time) -> Time:
        """1/std for SMLD, -1/std for DDPM."""
        return (1.0 if self.keeps_mean else -1.0) / self.std(t)


def smld(sigmas: Tensor) -> Chain:
    r"""SMLD's chain (paper eq. 8), with the prior N(0, sigma_N^2 I) and sigma_0 = 0.

    .. math:: x_i = x_{i-1} + \sqrt{\sigma_i^2 - \sigma_{i-1}^2}\; z_i

    Args:
        sigmas: noise scales, (N,), ascending strictly, each above 0; ``sigmas[0]`` is level 1.

    Raises:
        ValueError: if they are not positive or do not ascend.
    """
    sigmas = _table(sigmas, "sigmas")
    _check_each(sigmas, sigmas > 0, "sigmas", "above 0")
    _check_ascending(sigmas, "sigmas")
    below = torch.cat([sigmas.new_zeros(1), sigmas[:-1]])
    # (high - low)(high + low) rather than a difference of squares: neighbours are close, squares cancel.
    return Chain(torch.ones_like(sigmas), ((sigmas - below) * (sigmas + below)).sqrt(), prior_std=float(sigmas[-1]))


def ddpm(betas: Tensor) -> Chain:
    r"""DDPM's chain (paper eq. 10), with the prior N(0, I).

    .. math:: x_i = \sqrt{1 - \beta_i}\; x_{i-1} + \sqrt{\beta_i}\; z_i

    Args:
        betas: noise variances, (N,), each in (0, 1); ``betas[0]`` is level 1.

    Raises:
        ValueError: if some beta_i is not in (0, 1); ``linear_betas(N)`` with beta_max 20 needs N > 20.
    """
    betas = _table(betas, "betas")
    hint = "in (0, 1)" + ("; a chain this short needs a smaller beta_max" if bool((betas >= 1).any()) else "")
    _check_each(betas, (betas > 0) & (betas < 1), "betas", hint)
    return Chain((1.0 - betas).sqrt(), betas.sqrt(), prior_std=1.0)


def linear_betas(N: int, *, beta_min: float = 0.1, beta_max: float = 20.0) -> Tensor:
    r"""The authors' table: beta_i from beta_min/N to beta_max/N in equal steps, float64.

    .. math:: \beta_i = \frac{1}{N} \Big[ \beta_{\min} + \frac{i - 1}{N - 1} (\beta_{\max} - \beta_{\min}) \Big]

    >>> linear_betas(1000)[[0, -1]]
    tensor([0.0001, 0.0200], dtype=torch.float64)

    Raises:
        ValueError: if ``N`` < 1 or not 0 < ``beta_min`` <= ``beta_max``.
    """
    ops.check_count(N, "N", "levels")
    ops.check_span(beta_min, beta_max, "beta_min", "beta_max", allow_equal=True)
    return torch.linspace(beta_min / N, beta_max / N, N, dtype=torch.float64)


def geometric_sigmas(N: int, *, sigma_min: float = 0.01, sigma_max: float = 50.0) -> Tensor:
    r"""Noise scales that grow by one factor from level to level, ascending, float64 (paper section 2.1).

    .. math:: \sigma_i = \sigma_{\min} \Big( \frac{\sigma_{\max}}{\sigma_{\min}} \Big)^{(i-1)/(N-1)}

    >>> geometric_sigmas(3, sigma_min=1.0, sigma_max=4.0)
    tensor([1., 2., 4.], dtype=torch.float64)

    Raises:
        ValueError: if ``N`` < 1 or not 0 < ``sigma_min`` < ``sigma_max`` (equal is fine for one level).
    """
    ops.check_count(N, "N", "levels")
    ops.check_span(sigma_min, sigma_max, "sigma_min", "sigma_max", allow_equal=N == 1)
    return sigma_min * (sigma_max / sigma_min) ** torch.linspace(0.0, 1.0, N, dtype=torch.float64)


def _table(values: Tensor, name: str) -> Tensor:
    table = torch.as_tensor(values, dtype=torch.float64, device="cpu")
    if table.ndim != 1 or len(table) < 1:
        raise ValueError(f"{name}: needs one number a level, shape (N,), got {tuple(table.shape)}")
    _check_each(table, torch.isfinite(table), name, "finite")
    return table


def _check_ascending(table: Tensor, name: str) -> None:
    rises = table.diff() > 0
    if not bool(rises.all()):
        first = int((~rises).nonzero()[0])
        raise ValueError(
            f"{name}: need to ascend strictly, level 1 (the smallest) first, got {float(table[first]):g} at level {first + 1} "
            f"and {float(table[first + 1]):g} at level {first + 2}"
        )


def _check_each(table: Tensor, good: Tensor, name: str, allowed: str) -> None:
    if not bool(good.all()):
        first = int((~good).nonzero()[0])
        raise ValueError(f"{name}: needs every value {allowed}, got {float(table[first]):g} at level {first + 1}")
