r"""Integers of known entropy, whose dequantised law has an exact score at every time: the truth for bits per dimension.

D integers k_d in 0..L-1 with ::

    P(k) = sum_j w_j prod_d p_jd(k_d),      entropy H = -sum_k P(k) log P(k).

:func:`~sdelib.dequantise` spreads k evenly over cells of width h = (high - low)/L, so that its density is P(k)/h^D there, and a
noising blurs each cell: level l's cell [e_l, e_l + h], scaled by ``scale`` and blurred by ``std``, has the density ::

    c_l(x) = [Phi((x - scale e_l)/std) - Phi((x - scale (e_l + h))/std)] / (scale h),

Phi the normal distribution function. Hence p_t(x) = sum_j w_j prod_d sum_l p_jd(l) c_l(x_d), and a score in closed form. A model
with this score and no other error needs exactly H nats an item.

The difference of two Phi is the hard part. In the tails both are 0 or 1 to all digits, and at large times, where a cell is a ten
thousandth of std, they share all but four. With m the cell's middle and d its half width in units of std, :func:`log_mass` writes
it as phi(m - d) [R(m - d) - exp(-2 m d) R(m + d)], R Mills' ratio, where that is safe, and as a series in d for narrow cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sdelib import ops
from sdelib.exact import Numbers
from sdelib.sde import Noising
from sdelib.types import Data, Generator, PerItem, ScoreFn, Time

GRIDS = ("ends", "centres")
_STATES = 2**22  # as many as are enumerated


class _Mass(NamedTuple):
    """The log-probability of cells, and its derivative in their middle."""

    log: Tensor
    slope: Tensor


class Quantised:
    r"""A law of integers, a mixture of products, and everything exact about its dequantised twin.

    .. math:: P(k) = \sum_j w_j \prod_d p_{jd}(k_d)

    Args:
        weights: w, (K,), above 0; they are normalised to sum to 1.
        tables: p, (K, D, levels) or for items of any shape (K, *shape, levels): at least 0, normalised along levels.
        data_range: (low, high), between which dequantised data lie.

    Kept in float64, and computed in it; densities and scores come in the dtype of ``x``.

    Raises:
        ValueError: if shapes do not fit, a weight is not above 0, an entry is below 0 or a row holds zeros only.
    """

    def __init__(self, weights: Numbers, tables: Numbers, *, data_range: tuple[float, float] = (0.0, 1.0)) -> None:
        w, p = (torch.as_tensor(v, dtype=torch.float64, device="cpu").detach() for v in (weights, tables))
        for value, name in ((w, "weights"), (p, "tables")):
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name}: needs finite values")
        if w.ndim != 1 or p.ndim < 3 or p.shape[0] != len(w) or p.numel() == 0:
            raise ValueError(
                f"tables: needs shape (K, *shape, levels) with K the number of weights, got {tuple(p.shape)} "
                f"for weights of shape {tuple(w.shape)}"
            )
        if not bool((w > 0).all()):
            raise ValueError(f"weights: need to be above 0, got {w.tolist()}")
        if not bool((p >= 0).all()) or not bool((p.sum(-1) > 0).all()):
            raise ValueError("tables: needs probabilities, at least 0 and not all 0 along levels")
        self.weights, self.tables = w / w.sum(), p / p.sum(-1, keepdim=True)
        self.shape, self.levels = tuple(p.shape[1:-1]), p.shape[-1]
        self.data_range = ops.check_cells(self.levels, data_range)
        self._log_rows = self.tables.reshape(len(w), -1, self.levels).log()  # (K, D, levels)

    @property
    def dim(self) -> int:
        """D, how many integers an item has."""
        return math.prod(self.shape)

    def __repr__(self) -> str:
        """Name the size."""
        return (
            f"Quantised(K={len(self.weights)}, shape={self.shape}, levels={self.levels}, data_range={self.data_range})"
        )

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        """``n`` items of integers, (n, *shape), int64, on the CPU.

        Raises:
            ValueError: if ``n`` < 1.
            TypeError: if ``generator`` draws normal noise only.
        """
        ops.check_count(n, "n", "items")
        u = ops.rand(n * (1 + self.dim), generator=generator, dtype=torch.float64, device="cpu").reshape(n, -1)
        part = torch.searchsorted(self.weights.cumsum(0)[:-1].contiguous(), u[:, 0].contiguous(), right=True)
        edges = self._log_rows.exp().cumsum(-1)[part]  # (n, D, levels)
        edges[..., -1] = math.inf
        rank = (edges <= u[:, 1:, None]).sum(-1)
        return rank.reshape(n, *self.shape)

    def log_prob(self, x: Tensor) -> PerItem:
        """log P(x) in nats, (batch,), float64, of integers x (batch, *shape).

        Raises:
            TypeError: if ``x`` does not hold numbers.
            ValueError: if ``x`` has another shape, fractions, or values outside 0..levels-1.
        """
        rows = self._rows(ops.check_levels(x, self.levels)).cpu()
        picked = self._log_rows[None].expand(len(rows), -1, -1, -1)
        chosen = picked.gather(-1, rows[:, None, :, None].expand(-1, len(self.weights), -1, 1))[..., 0]
        return torch.logsumexp(self.weights.log() + chosen.sum(-1), 1).to(x.device)

    def entropy(self) -> float:
        r"""H in nats, exactly.

        .. math:: H = -\sum_k P(k) \log P(k)

        Positions whose tables agree in all components add up one by one; over the others it enumerates.

        Raises:
            ValueError: if more than 4 million combinations would have to be enumerated.
        """
        rows = self._log_rows.exp()
        shared = (rows == rows[:1]).all(-1).all(0)
        total = -float(torch.special.xlogy(rows[0, shared], rows[0, shared]).sum())
        mixed = rows[:, ~shared]
        if mixed.shape[1] == 0:
            return total
        if self.levels ** mixed.shape[1] > _STATES:
            raise ValueError(
                f"entropy: would enumerate {self.levels}^{mixed.shape[1]} combinations, more than {_STATES}; the mean "
                "of -log_prob over many samples estimates it"
            )
        joint = self.weights[:, None]  # (K, combinations so far)
        for d in range(mixed.shape[1]):
            joint = (joint[:, :, None] * mixed[:, d, None, :]).flatten(1)
        p = joint.sum(0)
        return total - float(torch.special.xlogy(p, p).sum())

    def values(self, x: Tensor, *, grid: str = "centres", dtype: torch.dtype | None = None) -> Data:
        """Integers as undequantised numbers in data_range: see :func:`~sdelib.quantised.grid_values` for the two grids.

        Raises:
            ValueError: if ``x`` does not fit or for another ``grid``.
        """
        return grid_values(x, self.levels, self.data_range, grid=grid, dtype=dtype)

    def log_density(self, y: Data) -> PerItem:
        r"""log-density in nats of the dequantised law, P(k)/h^D on the cell of k, -inf outside data_range.

        Raises:
            TypeError: if ``y`` is not floating-point.
            ValueError: if ``y`` is not (batch, *shape).
        """
        low, high = self.data_range
        rows = self._rows(y).double()
        cell = torch.floor((rows - low) / (high - low) * self.levels)
        inside = ((rows >= low) & (rows <= high)).all(1)
        whole = cell.clamp(0, self.levels - 1).long()
        value = self.log_prob(whole.reshape(y.shape)) - self.dim * math.log((high - low) / self.levels)
        return torch.where(inside, value, -math.inf).to(y)

    def log_density_fn(self, noising: Noising, *, grid: str | None = None) -> Callable[[Data, Time], PerItem]:
        """``(x, t)`` -> log p_t(x) in nats, the density whose gradient is :meth:`score_fn`; ``grid`` and errors as there."""
        self._check_grid(grid)

        def log_density(x: Data, t: Time) -> PerItem:
            return self._evaluate(noising, x, t, grid)[0].to(x.dtype)

        return log_density

    def score_fn(self, noising: Noising, *, grid: str | None = None) -> ScoreFn:
        """``score(x, t)`` = grad_x log p_t(x) of the dequantised law, exact at every item's own time with std(t) > 0.

        The values of t are not checked, so that a sampler's step stays cheap; the shapes are.

        Args:
            noising: an SDE or a chain.
            grid: ``None`` for the dequantised law. "ends" or "centres" for data that are *not* dequantised, points on that grid
                (:func:`~sdelib.quantised.grid_values`).

        Raises:
            ValueError: for another ``grid``.
        """
        self._check_grid(grid)

        def score(x: Data, t: Time) -> Data:
            return self._evaluate(noising, x, t, grid)[1].reshape(x.shape).to(x.dtype)

        return score

    def _evaluate(self, noising: Noising, x: Data, t: Time, grid: str | None) -> tuple[PerItem, Tensor]:
        """log p_t, (batch,), and the score, (batch, D), in float64."""
        if t.shape != x.shape[:1]:
            raise ValueError(f"t: needs one time an item, shape ({x.shape[0]},), got {tuple(t.shape)}")
        rows = self._rows(x).double()
        time = t.double()
        scale, std = (v.to(rows)[:, None, None] for v in (noising.scale(time), noising.std(time)))
        low, high = self.data_range
        h = (high - low) / self.levels
        each = torch.arange(self.levels, device=x.device)
        at = grid_values(each, self.levels, self.data_range, grid=grid or "centres", dtype=torch.float64)
        m = (rows[..., None] - scale * at) / std  # (batch, D, levels)
        if grid is None:
            half = scale * h / (2.0 * std)
            mass = log_mass(m, half.expand_as(m))
            log_c, slope = mass.log - torch.log(scale * h), mass.slope
        else:
            log_c, slope = -0.5 * m**2 - 0.5 * math.log(2 * math.pi) - torch.log(std), -m
        terms = log_c[:, None] + self._log_rows.to(rows)  # (batch, K, D, levels)
        log_q = torch.logsumexp(terms, -1)
        own = (torch.softmax(terms, -1) * slope[:, None]).sum(-1)
        log_parts = self.weights.log().to(rows) + log_q.sum(-1)
        share = torch.softmax(log_parts, 1)
        return torch.logsumexp(log_parts, 1), (share[..., None] * own).sum(1) / std[..., 0]

    def _rows(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self.shape or x.ndim < 2:
            raise ValueError(f"x: needs items of shape {self.shape}, (batch, *shape), got {tuple(x.shape)}")
        return x.reshape(len(x), -1)

    @staticmethod
    def _check_grid(grid: str | None) -> None:
        if grid is not None:
            ops.check_choice(grid, GRIDS, "grid")


def grid_values(
    x: Tensor,
    levels: int,
    data_range: tuple[float, float],
    *,
    grid: str = "ends",
    dtype: torch.dtype | None = None,
) -> Data:
    r"""Whole numbers k as numbers in data_range = (low, high), without dequantisation.

    .. math:: \text{ends:}\quad & \mathrm{low} + (\mathrm{high} - \mathrm{low})\, \frac{k}{\mathrm{levels} - 1} \\
        \text{centres:}\quad & \mathrm{low} + (\mathrm{high} - \mathrm{low})\, \frac{k + 1/2}{\mathrm{levels}}

    "ends" is how images are usually scaled, and DDPM's; "centres" are the middles of the cells over which
    :func:`~sdelib.dequantise` spreads.

    Args:
        x: whole numbers 0..levels-1.
        levels: how many values there are.
        data_range: (low, high).
        grid: "ends" or "centres".
        dtype: of the result; ``None`` is torch's default one.

    Raises:
        ValueError: if an argument does not fit.
    """
    low, high = ops.check_cells(levels, data_range)
    ops.check_choice(grid, GRIDS, "grid")
    if grid == "ends" and levels == 1:
        raise ValueError("levels: a grid with both ends needs at least 2 levels, got 1")
    whole = ops.check_levels(x, levels)
    precise = torch.float32 if x.device.type == "mps" else torch.float64
    k = whole.to(precise)
    share = k / (levels - 1) if grid == "ends" else (k + 0.5) / levels
    return (low + (high - low) * share).to(dtype or torch.get_default_dtype())


def log_mass(m: Tensor, d: Tensor) -> _Mass:
    r"""log of a standard normal's probability of the cell from m - d to m + d, d > 0, and its derivative in m.

    Good to some 1e-12 relative in float64, wherever the cell lies and however narrow it is; float32 is worked in as given.

    .. math:: &\Phi(m + d) - \Phi(m - d) \\
        &= \varphi(m - d) \big[ R(m - d) - e^{-2 m d} R(m + d) \big]

    Args:
        m: middles.
        d: half widths, m's shape.
    """
    sign = torch.where(m < 0, -1.0, 1.0).to(
        m
    )  # the law is even; m = 0 counts as positive, so that derivatives exist there
    m = sign * m
    md = m * d
    narrow = (d < 0.05) & (md < 0.05)
    wide = ~narrow & (m - d < -1.0)
    tail = ~narrow & ~wide

    # Each formula gets harmless arguments where another one is taken, else NaN would spread through the gradients.
    def here(mask: Tensor, value: Tensor, safe: float) -> Tensor:
        return torch.where(mask, value, torch.full_like(value, safe))

    a, b = here(narrow, m, 0.0), here(narrow, d, 0.01)
    # The normal density over its value at m, averaged over the cell: sum of He_2n(m) d^2n / (2n + 1)!.
    a2, b2 = a * a, b * b
    extra = b2 * (
        (a2 - 1) / 6 + b2 * ((a2 * a2 - 6 * a2 + 3) / 120 + b2 * (a2 * a2 * a2 - 15 * a2 * a2 + 45 * a2 - 15) / 5040)
    )
    rise = b2 * a * (1 / 3 + b2 * ((a2 - 3) / 30 + b2 * (a2 * a2 - 10 * a2 + 15) / 840))
    log_narrow = -0.5 * a2 - 0.5 * math.log(2 * math.pi) + torch.log(2 * b) + torch.log1p(extra)
    slope_narrow = -a + rise / (1 + extra)

    a, b = here(tail, m, 2.0), here(tail, d, 1.0)
    v, gap = a - b, torch.expm1(-2 * a * b)
    ratio = _mills(v) - (1 + gap) * _mills(a + b)
    log_tail = -0.5 * v * v - 0.5 * math.log(2 * math.pi) + torch.log(ratio)
    slope_tail = gap / ratio

    a, b = here(wide, m, 0.0), here(wide, d, 2.0)
    root = math.sqrt(0.5)
    missed = 0.5 * (torch.erfc((a + b) * root) + torch.erfc((b - a) * root))
    log_wide = torch.log1p(-missed)
    density = torch.exp(-0.5 * (a - b) ** 2) / math.sqrt(2 * math.pi)
    slope_wide = density * torch.expm1(-2 * a * b) / (1 - missed)

    log = torch.where(narrow, log_narrow, torch.where(tail, log_tail, log_wide))
    slope = torch.where(narrow, slope_narrow, torch.where(tail, slope_tail, slope_wide))
    return _Mass(log, sign * slope)


def _mills(z: Tensor) -> Tensor:
    """The upper tail over the density, (1 - Phi(z))/phi(z)."""
    return math.sqrt(math.pi / 2) * torch.special.erfcx(z * math.sqrt(0.5))
