r"""Losses whose minimiser is the score. All return one number an item, in which errors are summed over the item's dimensions.

Denoising score matching (Vincent 2011; paper eq. 7, and eq. 1 and 3 on a chain) knows the kernel and regresses on its score::

    lambda(t) | s(x(t), t) - grad log p_0t(x(t) | x(0)) |^2,      grad log p_0t = -noise / std(t).

Where no kernel is known, integration by parts (Hyvarinen 2005) trades the unknown score for a divergence::

    explicit            tr(ds/dx) + |s|^2 / 2
    sliced              v^T (ds/dx) v + (v^T s)^2 / 2                  (Song et al. 2019)
    finite differences  the same with the derivative as a difference   (Pang et al. 2020)

Each of these three differs from E|s - grad log p_t|^2 / 2 by a constant of the data alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from sdelib import ops
from sdelib.divergence import value_and_divergence
from sdelib.sde import SDE, Noising
from sdelib.types import Coefficient, Data, Generator, PerItem, ScoreFn, Time

WEIGHTS = ("variance", "likelihood")
SAMPLINGS = ("uniform", "importance")


def dsm(
    noising: Noising,
    score: ScoreFn,
    x0: Data,
    *,
    weight: str | Callable[[Time], Coefficient] = "variance",
    t: Time | None = None,
    noise: Data | None = None,
    t_min: float = 1e-5,
    sampling: str = "uniform",
    generator: Generator | None = None,
) -> PerItem:
    r"""Denoising score matching, one time and one noise an item.

    .. math:: &\lambda(t) \, \Big\| s\big(x(t), t\big) + \frac{z}{\mathrm{std}(t)} \Big\|^2, \\
        &x(t) = \mathrm{scale}(t)\, x_0 + \mathrm{std}(t)\, z

    On an SDE this is eq. 7; on a :class:`~sdelib.Chain` eq. 1 (SMLD) and eq. 3 (DDPM) with the sum over levels as a mean.

    Args:
        noising: an SDE or a chain.
        score: ``score(x, t)``.
        x0: clean data of any shape.
        weight: "variance" is lambda = std(t)^2, the weights of eq. 1 and 3, computed as |std score + noise|^2;
            "likelihood" is g(t)^2 (SDEs only; bounds the negative log-likelihood); a function is lambda(t) itself.
        t: times, (batch,); ``None`` draws them on [t_min, T].
        noise: standard normal, x0's shape; ``None`` draws it.
        t_min: smallest time drawn.
        sampling: how times are drawn; "importance" draws t in proportion to g^2/std^2 and reweights, so that the mean is the
            same and the variance smaller; for weight="likelihood" only (Song et al. 2021).
        generator: where randomness comes from; times are drawn first, then noise.

    Returns:
        (batch,), the squared error summed over an item's dimensions.

    Raises:
        TypeError: if ``noising`` has no kernel, ``x0`` is not floating-point, or ``weight`` is no name or function.
        ValueError: for an unknown weight or sampling, weight="likelihood" on a chain, importance sampling with another
            weight or with given times, times outside [0, T] (or where std is 0, for a weight other than "variance"), shapes that
            do not match, or values that are not finite.
    """
    if not isinstance(noising, Noising):
        raise TypeError(
            f"noising: needs a transition kernel, which {type(noising).__name__} lacks; "
            "draw x(t) with simulate and use sliced or finite_difference"
        )
    ops.check_data(x0, "x0")
    _check_weighting(noising, weight, sampling, t)
    reweight = None
    precise = torch.promote_types(x0.dtype, torch.float32)  # half precision would merge neighbouring times
    if t is not None:
        ops.check_time(t, x0.shape[0], low=0.0, high=noising.T)
    elif sampling == "importance":
        assert isinstance(noising, SDE)
        t, reweight = _importance_time(noising, x0, t_min, generator)
    else:
        noising.check_t_min(t_min)
        t = noising.sample_time(x0.shape[0], t_min=t_min, generator=generator, device=x0.device, dtype=precise)
    if noise is None:
        noise = ops.randn_like(x0, generator)
    ops.check_like(noise, x0, "noise", "x0")

    s = score(noising.perturb(x0, t, noise), t.to(device=x0.device, dtype=precise))
    ops.check_like(s, x0, "score", "x0")
    std = noising.std(t)
    error = ops.sum_items((ops.bcast(std, x0) * s + noise) ** 2)  # std^2 |s - target|^2, with no division by std
    if reweight is not None:
        return reweight * error
    if weight == "variance":
        return error
    if not bool((std > 0).all()):
        raise ValueError(f"t: needs times with std(t) above 0 for this weight, got {float(t[std <= 0][0]):g}")
    if weight == "likelihood":
        assert isinstance(noising, SDE)
        return ops.bcast((noising.g(t) / std) ** 2, error) * error
    assert callable(weight)
    factor = ops.as_time(weight(t)).to(std)  # a plain number in float64, or a tensor
    if factor.shape not in (t.shape, ()):
        raise ValueError(f"weight: needs one number a time, shape {tuple(t.shape)}, got {tuple(factor.shape)}")
    return ops.bcast(factor / std**2, error) * error


def _check_weighting(noising: Noising, weight: object, sampling: str, t: Time | None) -> None:
    ops.check_choice(sampling, SAMPLINGS, "sampling")
    if isinstance(weight, str):
        ops.check_choice(weight, WEIGHTS, "weight")
    elif not callable(weight):
        raise TypeError(f"weight: needs one of {', '.join(map(repr, WEIGHTS))} or a function of t, got {weight!r}")
    if weight == "likelihood" and not isinstance(noising, SDE):
        raise ValueError(
            "weight: 'likelihood' is g(t)^2, which a chain does not have; use 'variance' or a function of t"
        )
    if sampling == "importance" and weight != "likelihood":
        raise ValueError(f"sampling: 'importance' is for weight='likelihood' only, got weight={weight!r}")
    if sampling == "importance" and t is not None:
        raise ValueError("sampling: 'importance' draws its own times; leave t out")


def _importance_time(sde: SDE, x0: Data, t_min: float, generator: Generator | None) -> tuple[Time, PerItem]:
    """Times with density proportional to g^2/std^2 on [t_min, T], and the factor that undoes it.

    d log(std^2/scale^2)/dt = g^2/std^2 for every affine SDE, so these times are uniform in the log noise-to-signal ratio, which
    rises with t: a table brackets its inverse within 2 %, and two Newton steps with that derivative reach float64's resolution.
    E_uniform[g^2/std^2 e] = E_importance[e] (rise over [t_min, T]) / (T - t_min).
    """
    if not 0.0 < t_min < sde.T:
        raise ValueError(f"t_min: importance sampling needs 0 < t_min < T = {sde.T:g}, got {t_min!r}")

    def log_ratio(u: torch.Tensor) -> torch.Tensor:
        return 2.0 * (torch.log(sde.std(u)) - torch.log(sde.scale(u)))

    grid = t_min * (sde.T / t_min) ** torch.linspace(0.0, 1.0, 513, dtype=torch.float64)
    table = log_ratio(grid)
    rise = table[-1] - table[0]
    target = table[0] + rise * ops.rand(x0.shape[0], generator=generator, dtype=torch.float64, device="cpu")
    k = torch.searchsorted(table, target).clamp(1, len(grid) - 1)
    low, high = grid[k - 1], grid[k]
    u = low * (high / low) ** ((target - table[k - 1]) / (table[k] - table[k - 1]))
    for _ in range(2):
        u = u - (log_ratio(u) - target) * (sde.std(u) / sde.g(u)) ** 2
        u = torch.minimum(torch.maximum(u, low), high)
    precise = torch.promote_types(x0.dtype, torch.float32)
    return u.to(device=x0.device, dtype=precise), x0.new_full((x0.shape[0],), float(rise) / (sde.T - t_min))


def explicit(score: ScoreFn, x: Data, t: Time) -> PerItem:
    r"""Explicit score matching at x ~ p_t (Hyvarinen 2005): the exact trace, one backward pass a dimension; for few dimensions.

    .. math:: \operatorname{tr}\Big(\frac{\partial s}{\partial x}\Big) + \tfrac12 \|s\|^2

    Raises:
        TypeError, ValueError: if ``x`` is not finite floating-point data or ``t`` not one time an item.
    """
    _check_points(x, t)
    value, trace = value_and_divergence(score, x, t)
    return trace + 0.5 * ops.sum_items(value**2)


def sliced(
    score: ScoreFn,
    x: Data,
    t: Time,
    *,
    probe: Data | None = None,
    variance_reduced: bool = False,
    generator: Generator | None = None,
) -> PerItem:
    r"""Sliced score matching at x ~ p_t, one probe v ~ N(0, I) an item (Song et al. 2019; paper section 3.3).

    .. math:: v^\top \frac{\partial s}{\partial x}\, v + \tfrac12 (v^\top s)^2

    Args:
        score: ``score(x, t)``.
        x: draws of p_t, by simulation where no kernel is known.
        t: (batch,).
        probe: v, x's shape; ``None`` draws it.
        variance_reduced: use |s|^2/2, the second term's mean over v, instead of (v^T s)^2/2.
        generator: where v comes from.

    Raises:
        TypeError, ValueError: if ``x`` is not finite floating-point data, ``t`` not one time an item, or ``probe`` of
            another shape.
    """
    _check_points(x, t)
    probe = ops.randn_like(x, generator) if probe is None else probe
    ops.check_like(probe, x, "probe")  # one an item: the divergence would take several
    value, trace = value_and_divergence(score, x, t, probe=probe)
    square = ops.sum_items(value**2) if variance_reduced else ops.sum_items(value * probe) ** 2
    return trace + 0.5 * square


def finite_difference(
    score: ScoreFn,
    x: Data,
    t: Time,
    *,
    h: float,
    probe: Data | None = None,
    generator: Generator | None = None,
) -> PerItem:
    r"""The sliced loss with differences for derivatives: two forward passes and no second derivative (Pang et al. 2020).

    .. math:: &\frac{1}{2h}\, v^\top \big[s(x + h v) - s(x - h v)\big] \\
        &+ \tfrac18 \big\|s(x + h v) + s(x - h v)\big\|^2

    This is the variance-reduced sliced loss up to an error of order h^2.

    Args:
        score: ``score(x, t)``.
        x: draws of p_t.
        t: (batch,).
        h: length of the difference in units of x, above 0; float32 rounding divides by it, so not below about 1e-3.
        probe: v ~ N(0, I), x's shape; ``None`` draws it.
        generator: where v comes from.

    Raises:
        TypeError, ValueError: as for :func:`sliced`, and if ``h`` is not above 0.
    """
    _check_points(x, t)
    ops.check_positive(h, "h")
    probe = ops.randn_like(x, generator) if probe is None else probe
    ops.check_like(probe, x, "probe")
    ahead, behind = score(x + h * probe, t), score(x - h * probe, t)
    slope = ops.sum_items(probe * (ahead - behind)) / (2.0 * h)
    return slope + ops.sum_items((ahead + behind) ** 2) / 8.0


def _check_points(x: Data, t: Time) -> None:
    """These losses know no T: a time may be any number."""
    ops.check_data(x)
    ops.check_time(t, x.shape[0], low=-torch.inf, high=torch.inf)
