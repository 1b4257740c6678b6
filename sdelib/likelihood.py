r"""Likelihood: how probable data are under a score model, exactly, and in bits per dimension.

The flow moves x by v(x, t) = f(x, t) - g(t)^2 score/2 (paper eq. 13), and along it the log-density changes by the divergence of v
(section 4.3, appendix D.2)::

    log p_0(x(0)) = log p_T(x(T)) + integral from 0 to T of div v(x(t), t) dt.

x and the integral are solved together, as one state, by the solvers and under the promises of :mod:`sdelib.ode`; the score and
its divergence share one forward pass. For f(x, t) = f(t) x, div v = f(t) D - g(t)^2 (div score)/2: only the score's part needs
derivatives or probes.

*Integers have no density.* A model could put a spike on each of their values and be praised without bound. So noise fills the
gaps first: with k in 0..L-1 and u uniform on [0, 1), k + u has the density P(k) on all of [k, k+1). For any model's density q ::

    E_u[log q(k + u)]  <=  log E_u[q(k + u)]  =  log of the probability that the model gives to [k, k+1)     (Jensen)

so that -log2 q(k + u), on average over u, is at least the bits that the model needs for the integers, with equality if q is flat
there. This is *uniform dequantisation* (Uria et al. 2013; Theis et al. 2016).

*The offset.* A model sees y = low + (high - low)(k + u)/L, D numbers, each squeezed by (high - low)/L, so its density at y is
larger than that of k + u by L/(high - low) a dimension. Undo it, q(k + u) = p(y) ((high - low)/L)^D: the bits a dimension are ::

    -log2 q(k + u) / D = -log p(y) / (D ln 2) + log2(L / (high - low)),

for 256 levels on [0, 1] 8 more bits than those of p, on [-1, 1] 7 more. A density may exceed 1, so that the first term alone may
well be negative; the sum may not on average.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sdelib import ops
from sdelib.chain import Chain
from sdelib.divergence import check_probe, value_and_divergence
from sdelib.ode import _Field, _Guard, _plan, _solve, _State
from sdelib.reversal import Diffusing, reverse
from sdelib.types import Data, Drift, Generator, PerItem, Probe, ScoreFn, Time


class Likelihood(NamedTuple):
    """What the flow says of each item.

    ``log_prob`` is log p_0(x0) in nats, (batch,), with probes their mean; ``latent`` is x(T), the item's code; ``nfe`` how often
    the score was evaluated, forward passes of a network; ``stderr`` the standard error of ``log_prob`` over the probes, (batch,):
    0 for the exact trace, NaN for one probe, which cannot know. What solver and ``t_min`` leave is not in it.
    """

    log_prob: PerItem
    latent: Data
    nfe: int
    stderr: PerItem


def log_likelihood(
    sde: Diffusing,
    score: ScoreFn,
    x0: Data,
    *,
    probe: Probe | None = None,
    t_min: float = 1e-5,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: str = "dopri5",
    max_nfe: int = 10_000,
    n_steps: int | None = None,
    prior: Callable[[Data], PerItem] | None = None,
) -> Likelihood:
    r"""log p_0(x0) in nats by the probability flow from t_min to T (paper section 4.3, appendix D.2).

    .. math:: &\log p_0(x_0) = \log p_T(x_T) + \int_0^T \nabla \cdot v\; dt, \\
        &v(x, t) = f(x, t) - \tfrac12\, g(t)^2\, s(x, t)

    It is the density of the *flow's* law: what comes of the prior under the score given. If the score is exact, that is the law
    of the data, up to the gap between p_T and the prior, to what ``t_min`` leaves out, and to the solver's error.

    ``x0`` is taken to live at ``t_min``, as in the authors' code, so that what is computed is the density of x(t_min): of data
    blurred by std(t_min). Where the data's law is sharper than that, at a jump or on a thin set, choose ``t_min`` smaller.

    The solver keeps the error of x and that of the integral within the tolerances, for the worst item: see :func:`~sdelib.flow`.
    State and integral are added up in float64, the score sees x0's dtype: with 16 bits take tolerances of 1e-2, for below that a
    solver only finds the roundings of x. P probes stay the same all along the solve, give P
    integrals, and cost one forward and P backward passes an evaluation; the integral's error is then the root mean square over
    the probes, which bounds the error of their mean.

    Gradients are recorded only where ``x0`` requires them, as in :func:`~sdelib.flow`.

    Args:
        sde: anything with ``drift(x, t)`` and ``diffusion(t)``: an SDE, an :class:`~sdelib.Ito` (which needs ``prior``).
        score: ``score(x, t)``, in which no item depends on another.
        x0: data of any shape, floating-point and finite; integers go through :func:`dequantise` first.
        probe: ``None`` for the exact trace, D backward passes an evaluation, right for few dimensions; or probes of x0's shape,
            or (P, *x0.shape) for P of them, with mean 0 and covariance I: :func:`~sdelib.probes`.
        t_min: where to start, in (0, T); 0 is allowed where std(0) > 0.
        rtol: relative tolerance, above 0, of x and of the integral.
        atol: absolute tolerance, above 0, in the units of x and in nats.
        method: a solver, one of those that :func:`~sdelib.flow` takes.
        max_nfe: the most evaluations.
        n_steps: how many steps a fixed-step solver takes, 100 if ``None``.
        prior: x(T) -> log-density in nats, (batch,); ``None``: the noising's prior_log_prob.

    Returns:
        A :class:`Likelihood`.

    Raises:
        TypeError: if ``sde`` is a chain or has no drift and diffusion or no prior, ``score`` cannot be called, ``x0`` is not
            floating-point, or ``t_min`` or a tolerance is not a number.
        ValueError: if ``x0`` is not finite, ``probe`` does not fit it, ``t_min`` is not in (0, T), a solver's argument does not
            fit, the score changes x's shape, or scipy is asked for gradients.
        NonFiniteError: at the first evaluation that gives NaN or infinity.
        SolverError: if ``max_nfe`` evaluations do not suffice, or no step is small enough. Both errors carry what was computed.
    """
    if isinstance(sde, Chain):
        raise TypeError(
            "sde: a Chain has levels and no continuous time, so it has no flow and no exact likelihood; variational_bound(chain, "
            "score, x0) bounds it"
        )
    drift, _ = reverse(sde, score, eta=0.0)
    prior = _prior(sde, prior)
    _check_reals(x0)
    if probe is not None:
        check_probe(probe, x0, "x0")
        probe = probe.detach().to(x0)
    start, end = _check_span(sde, t_min)
    for value, name in ((rtol, "rtol"), (atol, "atol")):
        ops.check_positive(value, name)
    plan = _plan(method, start, end, n_steps=n_steps, keep=0, max_nfe=max_nfe)
    tracked = torch.is_grad_enabled() and x0.requires_grad
    plan.check_gradients(tracked, "x0")

    with torch.set_grad_enabled(tracked):
        x = x0.to(_precise(x0))
        many = () if probe is None or probe.ndim == x0.ndim else probe.shape[:1]
        guard = _Guard(_transport(drift, x0, probe), (x, x.new_zeros(len(x), *many)), plan, max_nfe)
        xs, changes = _solve(guard, float(rtol), float(atol))
        latent, change = xs[-1], changes[-1]
        base = prior(latent)
        if base.shape != x0.shape[:1]:
            raise ValueError(f"prior: needs one number an item, shape ({len(x0)},), got {tuple(base.shape)}")
        log_prob = base + (change.mean(1) if many else change)
    if many and many[0] > 1:
        stderr = change.detach().std(1) / math.sqrt(many[0])
    else:
        stderr = torch.full_like(log_prob, 0.0 if probe is None else math.nan, requires_grad=False)
    shown = torch.promote_types(x0.dtype, torch.float32)
    return Likelihood(log_prob.to(shown), latent.to(x0.dtype), guard.nfe, stderr.to(shown))


def _transport(drift: Drift, x0: Data, probe: Probe | None) -> _Field:
    """x's velocity and its divergence, (batch,) or (batch, P), by one evaluation of the score, which sees x0's dtype."""
    linear = getattr(drift, "linear", None)  # an SDE's drift is f(t) x + q(t) score: f's divergence is known
    inner: Drift = linear[0] if linear else drift
    shown, dims = torch.promote_types(x0.dtype, torch.float32), x0[0].numel()

    def checked(x: Data, t: Time) -> Data:
        value = inner(x, t)
        if value.shape != x.shape:  # another shape broadcasts in silence
            raise ValueError(f"score: needs to keep x's shape, {tuple(x.shape)}, gave {tuple(value.shape)}")
        return value

    def field(x: Data, t: float) -> _State:
        times = torch.full(x.shape[:1], t, dtype=shown, device=x.device)
        value, spread = value_and_divergence(checked, x.to(x0.dtype), times, probe=probe)
        v, spread = value.to(x), spread.to(x).movedim(0, -1)
        if linear:
            f, q = (float(rate) for rate in linear[1](torch.tensor(t, dtype=torch.float64)))
            v, spread = f * x + q * v, f * dims + q * spread
        return v, spread

    return field


def _precise(x: Tensor) -> torch.dtype:
    """float64, in which ten thousand nats still have their decimals; Apple GPUs have none."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def _prior(sde: Diffusing, prior: Callable[[Data], PerItem] | None) -> Callable[[Data], PerItem]:
    if prior is not None:
        ops.check_function(prior, "prior")
        return prior
    if not callable(getattr(sde, "prior_log_prob", None)):
        raise TypeError(
            f"sde: {type(sde).__name__} has no prior_log_prob(x); give prior=, the log-density of x(T) in nats"
        )
    return sde.prior_log_prob  # type: ignore[attr-defined]


def _check_reals(x0: Data) -> None:
    """Integers have no density: say what to do with them."""
    if isinstance(x0, Tensor) and not x0.is_floating_point() and not x0.is_complex():
        raise TypeError(
            f"x0: a density needs real numbers, got {x0.dtype}; spread integers over their cells first, "
            "dequantise(x0, levels=...), and read the result by bits_per_dim"
        )
    ops.check_data(x0, "x0")


def _check_span(sde: Diffusing, t_min: float) -> tuple[float, float]:
    """t_min and T, checked."""
    T = getattr(sde, "T", None)
    if T is None or not math.isfinite(T):
        raise TypeError(f"sde: {type(sde).__name__} needs a finite end time T, got {T!r}")
    ops.check_number(t_min, "t_min")
    if not 0.0 <= t_min < T:
        raise ValueError(f"t_min: needs 0 < t_min < T = {T:g}, got {t_min!r}")
    std = getattr(sde, "std", None)
    if t_min == 0.0 and std is not None and float(std(torch.zeros((), dtype=torch.float64))) == 0.0:
        raise ValueError(
            f"t_min: needs 0 < t_min < T = {T:g}, got {t_min!r}; std(0) = 0 for {type(sde).__name__}, and a score divides by it: "
            "take a small time such as 1e-5"
        )
    return float(t_min), float(T)


# --- integers ---------------------------------------------------------------------------------------------------------


def dequantise(
    x: Tensor, *, levels: int = 256, data_range: tuple[float, float] = (0.0, 1.0), generator: Generator | None = None
) -> Data:
    r"""Spread integers evenly over their cells: y has a density, and y tells x.

    .. math:: y = \mathrm{low} + (\mathrm{high} - \mathrm{low})\, \frac{x + u}{\mathrm{levels}}, \quad u \sim U[0, 1)

    Rounding never carries y over the edge of its cell: floor(levels (y - low)/(high - low)) is x again.

    Args:
        x: whole numbers 0..levels-1 of any shape and dtype.
        levels: how many values x may have.
        data_range: (low, high), between which y lies.
        generator: where u comes from.

    Returns:
        y of x's shape: in x's dtype if that is float32 or float64, in torch's default one for integers.

    Raises:
        TypeError: if ``x`` is not a tensor of numbers.
        ValueError: if ``x`` holds fractions or values outside 0..levels-1, or ``levels`` or ``data_range`` does not fit.
    """
    low, high = ops.check_cells(levels, data_range)
    whole = ops.check_levels(x, levels)
    dtype = torch.promote_types(x.dtype, torch.float32) if x.is_floating_point() else torch.get_default_dtype()
    precise = _precise(x)
    u = ops.rand(x.numel(), generator=generator, dtype=precise, device=x.device).reshape(x.shape)
    y = (low + (high - low) * ((whole.to(precise) + u) / levels)).to(dtype)
    cell = torch.floor((y.to(precise) - low) / (high - low) * levels)
    nudge = (
        max(abs(low), abs(high)) * torch.finfo(dtype).eps
    )  # two roundings of the largest number; next to 0 one would vanish
    return y + nudge * ((cell < whole).to(dtype) - (cell > whole).to(dtype))


def bits_per_dim(
    log_prob: PerItem, dims: int, *, levels: int = 256, data_range: tuple[float, float] = (0.0, 1.0)
) -> PerItem:
    r"""Bits per dimension of integers from the log-density of what :func:`dequantise` made of them.

    .. math:: -\frac{\log p(y)}{D \ln 2} + \log_2 \frac{\mathrm{levels}}{\mathrm{high} - \mathrm{low}}

    On average at least the bits a dimension that the model needs for the integers; the second term is 8 for 256 levels on [0, 1]
    and 7 on [-1, 1]. Figures may be compared only if they tell of the same integers: the same data, size, colours, levels.

    Args:
        log_prob: log p(y) in nats, (batch,).
        dims: D, an item's numbers: ``x0[0].numel()``.
        levels: as given to :func:`dequantise`.
        data_range: as given to :func:`dequantise`.

    >>> bits_per_dim(torch.zeros(1), 3072)  # uniform on the cube: every byte takes its 8 bits
    tensor([8.])

    Raises:
        TypeError: if ``dims`` is a shape.
        ValueError: if ``dims``, ``levels`` or ``data_range`` does not fit.
    """
    if isinstance(dims, (tuple, list)):
        raise TypeError(f"dims: needs the number of an item's dimensions, x0[0].numel(), got the shape {tuple(dims)}")
    ops.check_count(dims, "dims", "dimensions")
    low, high = ops.check_cells(levels, data_range)
    return -log_prob / (dims * math.log(2.0)) + math.log2(levels / (high - low))
