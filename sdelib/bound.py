r"""DDPM's variational bound, term by term, for data of whole numbers (Ho et al. 2020; paper section 4.3 and table 2).

A chain with x_i = a_i x_{i-1} + b_i z noises an item to level N; the model walks back by ancestral sampling (eq. 4),
p(x_{i-1} | x_i) = N((x_i + b_i^2 s)/a_i, r_i^2 I), and ends with a normal law about (x_1 + b_1^2 s)/a_1 whose mass in the cell
of x_0 is the probability of x_0. Jensen's inequality bounds the model's bits from above::

    -log P(x_0)  <=  L_N + sum over i = 2..N of L_{i-1} + L_0,

    L_N      KL( q(x_N | x_0) || prior )                         what the prior costs: no score in it
    L_{i-1}  E KL( q(x_{i-1} | x_i, x_0) || p(x_{i-1} | x_i) )   one for each level i
    L_0      E[ -log p(x_0 | x_1) ]                              the decoder

The posterior q(x_{i-1} | x_i, x_0) is the same step with the kernel's score -z/std_i in place of s, and with standard deviation
rho_i = b_i std_{i-1}/std_i. So each KL is an error of denoising score matching with its own weight, plus what a wrong variance
costs::

    L_{i-1} = b_i^4 / (2 a_i^2 r_i^2) E|s + z/std_i|^2  +  D [log(r_i/rho_i) + (rho_i^2/r_i^2 - 1)/2].

Compare it with :func:`~sdelib.log_likelihood` for the same network: that is the density of the flow and no bound.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sdelib import ops
from sdelib.chain import Chain
from sdelib.quantised import grid_values, log_mass
from sdelib.types import Data, Generator, PerItem, ScoreFn


class Bound(NamedTuple):
    """The terms of the bound on -log P(x0), nats an item: the smaller the better, as -log_prob.

    ``prior`` is L_N, (batch,); ``terms``, (N-1, batch), has L_{i-1} of level i in row i - 2, from the cleanest, i = 2, to
    the noisiest; ``decoder`` is L_0; ``total`` their sum, (batch,). Divide by D ln 2 for bits per dimension; integers need no
    offset.
    """

    prior: PerItem
    terms: Float[Tensor, "levels batch"]
    decoder: PerItem
    total: PerItem


@torch.no_grad()
def variational_bound(
    chain: Chain,
    score: ScoreFn,
    x0: Tensor,
    *,
    levels: int = 256,
    data_range: tuple[float, float] = (-1.0, 1.0),
    variance: str = "posterior",
    generator: Generator | None = None,
    grid: str = "ends",
    draws: int = 1,
    decoder_std: float | None = None,
    dtype: torch.dtype | None = None,
) -> Bound:
    r"""DDPM's bound on -log P(x0) in nats, x0 whole numbers, by N score evaluations a draw.

    .. math:: -\log P(x_0) \le L_N + \sum_{i=2}^{N} L_{i-1} + L_0

    The expectations over x_i given x_0 are means over ``draws`` of them, so the terms are unbiased and noisy; L_N is exact.

    The cell of a level reaches half way to its neighbours, the first one's down to minus infinity and the last one's up to
    infinity. No gradients are recorded: to train, use :func:`~sdelib.dsm`, whose sum over levels this is.

    Args:
        chain: the noise, a :class:`~sdelib.Chain` of at least 2 levels; ``Chain.from_sde`` makes one of an SDE.
        score: ``score(x, t)`` at t = i/N.
        x0: (batch, *shape), whole numbers 0..levels-1 in an integer dtype, or the numbers on the grid that the network was
            trained with (floating-point). Not dequantised.
        levels: how many values a number may have.
        data_range: (low, high), the values of level 0 and of the last level.
        variance: r_i, as in :func:`~sdelib.ancestral`: "posterior" is rho_i, "forward" is b_i.
        generator: where the noise comes from, level by level from 1 to N.
        grid: "ends" puts level k at low + (high - low) k/(levels - 1), as DDPM does; "centres" in the middle of the cell over
            which :func:`~sdelib.dequantise` spreads it.
        draws: how many x_i are averaged at each level.
        decoder_std: standard deviation of the last step; ``None``: b_1 for "forward" and, for "posterior", where rho_1 = 0,
            that of the step before, rho_2, as in DDPM's code.
        dtype: of the data shown to the score; ``None``: x0's if it is floating-point, torch's default one otherwise.

    Returns:
        A :class:`Bound`, in at least float32.

    Raises:
        TypeError: if ``chain`` is not a chain, ``score`` cannot be called or ``x0`` is not a tensor of numbers.
        ValueError: if ``x0`` is not on the grid, the chain has one level or a level that adds no noise, the score changes x's
            shape, or an argument does not fit.
    """
    if not isinstance(chain, Chain):
        raise TypeError(
            f"chain: needs a Chain, got {type(chain).__name__}; Chain.from_sde(sde, times) makes one of an SDE"
        )
    ops.check_function(score, "score", "(x, t)")
    ops.check_choice(variance, ("posterior", "forward"), "variance")
    ops.check_count(draws, "draws", "draws")
    if chain.N < 2 or bool((chain.b <= 0).any()):
        raise ValueError(f"chain: needs at least 2 levels, each with noise of its own, got {chain!r}")
    if decoder_std is not None:
        ops.check_positive(decoder_std, "decoder_std")
    whole, clean = _on_grid(x0, levels, data_range, grid, dtype)
    dims = clean[0].numel()
    a, b, stds = chain.a.tolist(), chain.b.tolist(), chain.stds.tolist()

    wide = clean.double() if clean.device.type != "mps" else clean
    total_scale, total_std, prior_std = float(chain.scales[-1]), stds[-1], chain.prior_std
    ratio = (total_std / prior_std) ** 2
    prior = 0.5 * (dims * (ratio - 1.0 - math.log(ratio)) + (total_scale / prior_std) ** 2 * ops.sum_items(wide**2))

    terms, decoder = [], torch.zeros_like(prior)
    for i in range(1, chain.N + 1):
        std = stds[i]
        rho = b[i - 1] * stds[i - 1] / std
        r = rho if variance == "posterior" else b[i - 1]
        push = b[i - 1] ** 2 / a[i - 1]
        cost = torch.zeros_like(prior)
        for _ in range(draws):
            noise = ops.randn_like(clean, generator)
            x = float(chain.scales[i]) * clean + std * noise
            t = torch.full((len(x),), i / chain.N, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
            s = score(x, t)
            ops.check_like(s, x, "score", "x0")
            if i == 1:
                mean = (x.to(wide) + b[0] ** 2 * s.to(wide)) / a[0]
                r = _last_std(chain, variance) if decoder_std is None else decoder_std
                cost = cost - ops.sum_items(_log_cells(whole, mean, r, levels, data_range, grid))
            else:
                gap = ops.sum_items((s.to(wide) + noise.to(wide) / std) ** 2)
                cost = cost + 0.5 * (push / r) ** 2 * gap
        if i == 1:
            decoder = cost / draws
        else:
            shape_cost = math.log(r / rho) + 0.5 * math.expm1(2.0 * math.log(rho / r))
            terms.append(cost / draws + dims * shape_cost)
    rows = torch.stack(terms)
    shown = torch.promote_types(clean.dtype, torch.float32)
    total = prior + rows.sum(0) + decoder
    return Bound(prior.to(shown), rows.to(shown), decoder.to(shown), total.to(shown))


def _last_std(chain: Chain, variance: str) -> float:
    """The decoder's spread: b_1, or rho_2 where rho_1 is 0."""
    if variance == "forward":
        return float(chain.b[0])
    return float(chain.b[1] * chain.stds[1] / chain.stds[2])


def _on_grid(
    x0: Tensor, levels: int, data_range: tuple[float, float], grid: str, dtype: torch.dtype | None
) -> tuple[Tensor, Data]:
    """x0 as whole numbers and as values on the grid."""
    low, high = ops.check_cells(levels, data_range)
    if levels < 2:
        raise ValueError(f"levels: needs at least 2 levels, got {levels}")
    if not isinstance(x0, Tensor) or x0.ndim < 1 or len(x0) < 1:
        got = tuple(x0.shape) if isinstance(x0, Tensor) else type(x0).__name__
        raise TypeError(f"x0: needs a tensor of shape (batch, *shape) with at least one item, got {got}")
    if not x0.is_floating_point():
        whole = ops.check_levels(x0, levels, "x0")
        return whole, grid_values(whole, levels, data_range, grid=grid, dtype=dtype)
    ops.check_data(x0, "x0")
    share = (x0.detach().to(torch.promote_types(x0.dtype, torch.float32)) - low) / (high - low)
    rank = share * (levels - 1) if grid == "ends" else share * levels - 0.5
    whole = rank.round().long()
    off = (rank - whole).abs()
    if float(off.max()) > 0.01 or int(whole.min()) < 0 or int(whole.max()) >= levels:
        raise ValueError(
            f"x0: needs values on the grid of {levels} levels from {low:g} to {high:g}, not dequantised, got one "
            f"{float(off.max()):.2g} levels off, levels from {int(whole.min())} to {int(whole.max())}; whole numbers "
            "go in with an integer dtype"
        )
    return whole, grid_values(whole, levels, data_range, grid=grid, dtype=dtype or x0.dtype)


def _log_cells(whole: Tensor, mean: Data, std: float, levels: int, data_range: tuple[float, float], grid: str) -> Data:
    """log of the mass that N(mean, std^2) has in the cell of each level; those at the ends reach to infinity."""
    low, high = data_range
    half = (high - low) / (2.0 * ((levels - 1) if grid == "ends" else levels))
    middle = grid_values(whole, levels, data_range, grid=grid, dtype=mean.dtype)
    m = (middle - mean) / std
    d = torch.full_like(m, half / std)
    inner = log_mass(m, d).log
    first, last = torch.special.log_ndtr(m + d), torch.special.log_ndtr(d - m)
    return torch.where(whole == 0, first, torch.where(whole == levels - 1, last, inner))
