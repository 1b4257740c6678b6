r"""The probability flow: an ordinary differential equation that moves p_s to p_t without noise (paper section 4.3).

The SDE dx = f(x, t) dt + g(t) dw and the equation ::

    dx/dt = f(x, t) - 1/2 g(t)^2 grad_x log p_t(x)                                                    (eq. 13)

have the same marginals at every time. The second has no noise, so it runs either way and any solver will do: here torchdiffeq's
and scipy's. This module says what they solve and holds them to three promises:

- evaluations of the score are counted where they happen, and limited;
- no evaluation lies outside the interval, and one that gives NaN or infinity ends the solve and says where;
- an adaptive solver of torchdiffeq accepts a step only if the *worst* item's estimated error is within the tolerance.

The last one is about neighbours. The items of a batch share their step sizes, so a result does depend on its company. With the
usual norm, a root mean square over the whole batch, one item among easy ones may exceed the tolerance by the root of the batch
size. With the worst item's norm every item is within it at every step, in any company: two results for one item differ by no more
than the errors that each may have against the truth. Fixed-step solvers couple no items at all.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor

from sdelib import ops
from sdelib.chain import Chain
from sdelib.reversal import Diffusing, reverse
from sdelib.simulation import NonFiniteError, Path
from sdelib.types import Data, Drift, Grid, ScoreFn

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
"""torchdiffeq's solvers that choose their own steps. fehlberg2 trusts its steps too much: at a tolerance of 1e-3 it may cross the
whole interval in three and err by 0.6.
"""
FIXED = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4, "explicit_adams": 1, "implicit_adams": 2}
"""torchdiffeq's solvers on a fixed grid, each with the fewest evaluations that a step takes."""
SCIPY = ("RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA")
"""scipy's solvers, by the names that ``scipy.integrate.solve_ivp`` knows."""
_ALIASES = {"scipy_solver": "LSODA", "fixed_adams": "implicit_adams"}
"""Two more names that torchdiffeq has."""

_State = tuple[Tensor, ...]
"""What is integrated: x and what travels with it; the first axis of every part is the batch."""
_Field = Callable[[Data, float], _State]
"""(x, t) -> the rate of change of every part of the state, by one evaluation of the score."""


class Flow(NamedTuple):
    """Where the flow arrived.

    ``x`` is the state at t1; ``nfe`` is how often the score was evaluated, an item; ``times`` and ``xs`` (kept, batch, *shape)
    are the kept states and their times, ``None`` when none were asked for.
    """

    x: Data
    nfe: int
    times: Grid | None = None
    xs: Tensor | None = None


class SolverError(RuntimeError):
    """A solve that could not be finished: its evaluation limit was reached, or no step was small enough.

    ``path`` holds what had been computed: the last accepted state, that and the start with their times, and the evaluations used.
    """

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = path


def flow(
    sde: Diffusing,
    score: ScoreFn,
    x: Data,
    t0: float | Tensor,
    t1: float | Tensor,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: str = "dopri5",
    max_nfe: int = 10_000,
    n_steps: int | None = None,
    keep: int = 0,
) -> Flow:
    r"""Carry x from time t0 to time t1 along the probability flow (paper eq. 13), either way.

    .. math:: \frac{dx}{dt} = f(x, t) - \tfrac12\, g(t)^2\, \nabla_x \log p_t(x)

    Towards small times it samples, towards T it encodes. If x has density p at t0, the result has density p at t1, and nothing
    is random.

    Time 0 is allowed where the score is finite, as the exact score of a law with a density is. One that divides by std(t), as a
    network's, is not where std(0) = 0 (VP, sub-VP): stay above a small time such as 1e-5.

    An adaptive solver of torchdiffeq accepts a step when, for every item, the root mean square over its dimensions of
    error / (atol + rtol max(old x, new x)) is at most 1. scipy's take the root mean square over the whole batch, as the authors'
    code does: an item's error may then exceed the tolerance by the root of the batch size. Its implicit solvers (Radau, BDF,
    LSODA) also build Jacobians, one evaluation for every number in the batch, and suit small batches.

    Gradients are recorded only where ``x`` itself requires them, and go through the solver's steps: they are exact for what was
    computed, and memory grows with ``nfe``. Data of 16 bits are integrated in float32 and returned as they came.

    Args:
        sde: anything with ``drift(x, t)`` and ``diffusion(t)``: an SDE, an :class:`~sdelib.Ito`.
        score: ``score(x, t)``.
        x: (batch, *shape), floating-point and finite.
        t0: the time at which ``x`` lives, one number for all items.
        t1: the time to carry it to; both in [0, T] and different.
        rtol: relative tolerance of adaptive solvers, above 0.
        atol: absolute tolerance, in the units of x, above 0.
        method: an adaptive solver ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun"), one with fixed steps ("euler",
            "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams", the last three of order 4), or one of scipy's
            ("RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA", which torchdiffeq calls "scipy_solver").
        max_nfe: the most evaluations of the score.
        n_steps: how many equal steps a fixed-step solver takes, 100 if ``None``; the others choose theirs.
        keep: how many states to keep, evenly spaced in time (on its grid, for a fixed-step solver), first and last included; 0
            keeps none. Adaptive solvers interpolate, so that keeping changes neither ``x`` nor (but for DOP853) ``nfe``; what
            dopri5 interpolates is as good as ``x``, in dopri8 and bosh3 it is coarser.

    Returns:
        A :class:`Flow`.

    Raises:
        TypeError: if ``sde`` has no drift and diffusion (a chain has no flow), ``score`` cannot be called, ``x`` is not
            floating-point, or a time or a tolerance is not a number.
        ValueError: if ``x`` is not finite, the times are the same or not in [0, T], a tolerance is not above 0, ``method`` is
            unknown, ``max_nfe``, ``n_steps`` or ``keep`` does not fit, the score changes x's shape, or scipy is asked for
            gradients.
        NonFiniteError: at the first evaluation that gives NaN or infinity; it names the time and the number of items.
        SolverError: if ``max_nfe`` evaluations do not suffice, or no step is small enough. Both errors carry what was computed.
    """
    if isinstance(sde, Chain):
        raise TypeError(
            "sde: a Chain has levels and no continuous time, so it has no flow; its sampler without noise is "
            "simulate(reverse_diffusion(chain, score, eta=0.0), x, chain.times())"
        )
    drift, _ = reverse(sde, score, eta=0.0)
    ops.check_data(x)
    start, end = _check_ends(t0, t1, getattr(sde, "T", math.inf))
    for value, name in ((rtol, "rtol"), (atol, "atol")):
        ops.check_positive(value, name)
    plan = _plan(method, start, end, n_steps=n_steps, keep=keep, max_nfe=max_nfe)
    tracked = torch.is_grad_enabled() and x.requires_grad
    plan.check_gradients(tracked, "x")

    with torch.set_grad_enabled(tracked):
        state = x.to(torch.promote_types(x.dtype, torch.float32))  # 16 bits are too few to add small steps in
        guard = _Guard(_velocity(drift, x.dtype), (state,), plan, max_nfe)
        xs = _solve(guard, float(rtol), float(atol))[0].to(x.dtype)
    return Flow(xs[-1], guard.nfe, plan.times, xs) if keep else Flow(xs[-1], guard.nfe)


def _velocity(drift: Drift, dtype: torch.dtype) -> _Field:
    """The flow's drift at one time for all items. The score sees x in ``dtype`` and times in at least float32."""
    linear = getattr(drift, "linear", None)  # an SDE's drift is f(t) x + q(t) score: two numbers, known in float64
    shown = torch.promote_types(dtype, torch.float32)

    def field(x: Data, t: float) -> _State:
        times = torch.full(x.shape[:1], t, dtype=shown, device=x.device)
        v = (linear[0] if linear else drift)(x.to(dtype), times)
        if v.shape != x.shape:  # another shape broadcasts in silence
            raise ValueError(f"score: needs to keep x's shape, {tuple(x.shape)}, gave {tuple(v.shape)}")
        v = v.to(x.dtype)
        if linear:
            f, q = (float(rate) for rate in linear[1](torch.tensor(t, dtype=torch.float64)))
            v = f * x + q * v
        return (v,)

    return field


# --- at the door ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """Who solves; ``times`` at which the state is wanted, the ends included; the ``grid`` of a fixed-step solver."""

    method: str
    times: Grid
    grid: Tensor | None

    @property
    def ends(self) -> tuple[float, float]:
        return float(self.times[0]), float(self.times[-1])

    def check_gradients(self, tracked: bool, name: str) -> None:
        """Refuse to record gradients of ``name`` where the solver cannot."""
        if tracked and self.method in SCIPY:
            raise ValueError(
                f"method: scipy's {self.method!r} records no gradients, which {name} requires; detach {name}, or take 'dopri5'"
            )


def _plan(method: str, start: float, end: float, *, n_steps: int | None, keep: int, max_nfe: int) -> _Plan:
    """Check what a caller chooses about the solver."""
    names = (*ADAPTIVE, *FIXED, *SCIPY)
    method = _ALIASES.get(method, method)
    if method not in names:
        near = {name.lower(): name for name in names}
        close = difflib.get_close_matches(str(method).lower(), near, n=1)
        hint = f"; did you mean {near[close[0]]!r}?" if close else ""
        raise ValueError(f"method: needs one of {', '.join(map(repr, names))}, got {method!r}{hint}")
    ops.check_count(max_nfe, "max_nfe", "evaluations")
    most = math.inf
    grid = None
    if method in FIXED:
        n = 100 if n_steps is None else n_steps
        ops.check_count(n, "n_steps", "steps")
        if n * FIXED[method] > max_nfe:
            raise ValueError(
                f"n_steps: {n} steps of {method!r} take at least {n * FIXED[method]} evaluations, more than max_nfe={max_nfe}"
            )
        grid, most = torch.linspace(start, end, n + 1, dtype=torch.float64), n + 1
    elif n_steps is not None:
        raise ValueError(
            f"n_steps: {method!r} chooses its own steps, by rtol and atol; n_steps is for {', '.join(map(repr, FIXED))}"
        )
    if isinstance(keep, bool) or not isinstance(keep, int) or not (keep == 0 or 2 <= keep <= most):
        allowed = "" if grid is None else f" to the grid's {most} times"
        raise ValueError(f"keep: needs 0, or a whole number from 2{allowed}, got {keep!r}")
    if grid is None:
        return _Plan(method, torch.linspace(start, end, max(keep, 2), dtype=torch.float64), None)
    wanted = [round(i * (len(grid) - 1) / (keep - 1)) for i in range(keep)] if keep else [0, -1]
    return _Plan(method, grid[wanted], grid)


def _check_ends(t0: float | Tensor, t1: float | Tensor, T: float) -> tuple[float, float]:
    """Two different times in [0, T]."""
    ends: list[float] = []
    for t, name in ((t0, "t0"), (t1, "t1")):
        if isinstance(t, Tensor) and t.ndim == 0:
            t = float(t)
        if isinstance(t, bool) or not isinstance(t, Real):
            got = f"shape {tuple(t.shape)}" if isinstance(t, Tensor) else type(t).__name__
            raise TypeError(f"{name}: needs one number, the same time for all items, got {got}")
        # a float32 time may sit a hair outside a bound that was computed in float64
        if not 0.0 <= t <= T * (1.0 + 4 * torch.finfo(torch.float32).eps):
            raise ValueError(f"{name}: needs a time in [0, {T:g}], got {float(t):g}")
        ends.append(min(float(t), float(T)))
    if ends[0] == ends[1]:
        raise ValueError(f"t1: needs a time other than t0, got {ends[1]:g} for both")
    return ends[0], ends[1]


# --- any solver, held to the promises -------------------------------------------------------------------------------


class _Guard:
    """The right-hand side as a solver sees it: it counts, stays inside the interval, and ends what has gone wrong."""

    def __init__(self, field: _Field, state: _State, plan: _Plan, max_nfe: int) -> None:
        self.field, self.state, self.plan, self.max_nfe = field, state, plan, max_nfe
        self.nfe = 0
        self.low, self.high = sorted(plan.ends)
        self.reached: tuple[float | Tensor, Data] = (plan.ends[0], state[0])  # the last accepted x, and when

    def __call__(self, t: Tensor, state: Tensor | _State) -> Tensor | _State:
        """As torchdiffeq calls it."""
        return self.rates(float(t), (state,))[0] if isinstance(state, Tensor) else self.rates(float(t), state)

    def rates(self, t: float, state: _State) -> _State:
        """The field, counted and checked."""
        t = self._inside(t)
        if self.nfe >= self.max_nfe:
            finer = "" if state[0].dtype == torch.float64 else ", or use float64 for tolerances below 1e-7"
            self.give_up(
                f"max_nfe: {self.max_nfe} evaluations did not suffice", f"loosen rtol and atol, allow more{finer}"
            )
        rates = self.field(state[0], t)
        self.nfe += 1
        for i, rate in enumerate(rates):
            if not math.isfinite(rate.sum().item()):  # one reduction; look closer only when it fires
                self.check_finite(rate, "the velocity's divergence" if i else "the flow's velocity", t)
        return rates

    def _inside(self, t: float) -> float:
        """t, clamped. Solvers look just before the end, and the smallest float before 0 is no time for a score: take the end."""
        near = 1e-12 * (self.high - self.low)
        return self.low if t < self.low + near else self.high if t > self.high - near else t

    def callback_step(self, t: Tensor, state: Tensor | _State, dt: Tensor) -> None:
        """torchdiffeq calls this before it tries a step, with what it has accepted so far."""
        self.reached = t, state if isinstance(state, Tensor) else state[0]

    def check_finite(self, value: Tensor, what: str, time: float) -> None:
        """Stop if an item is NaN or infinite (a sum of finite numbers can overflow too)."""
        bad = ops.bad_items(value)
        if bad:
            hint = "; where std(0) is 0, a score that divides by it needs a small time above 0" if time == 0.0 else ""
            raise NonFiniteError(
                f"{what} at t = {time:g} is NaN or infinite in {bad} of {len(value)} items, after {self.nfe} evaluations; "
                f"what was computed before is in this error's .path{hint}",
                self.path(),
            )

    def give_up(self, why: str, cure: str) -> NoReturn:
        """End a solve that does not come to its end."""
        path, (start, end) = self.path(), self.plan.ends
        raise SolverError(
            f"{why}: {self.plan.method!r} came from t = {start:g} to {float(self.reached[0]):g} on its way to {end:g}, with "
            f"{self.nfe} evaluations; {cure}. What was computed is in this error's .path",
            path,
        )

    def path(self) -> Path:
        """Start and last accepted state."""
        (start, _), (t, x) = self.plan.ends, self.reached
        times, xs = [start], [self.state[0]]
        if float(t) != start:
            times, xs = [start, float(t)], [xs[0], x]
        return Path(x.detach(), torch.tensor(times, dtype=torch.float64), torch.stack(xs).detach(), self.nfe)


def _solve(guard: _Guard, rtol: float, atol: float) -> _State:
    """Every part of the state at the plan's times, (times, batch, *shape)."""
    parts = (_by_scipy if guard.plan.method in SCIPY else _by_torchdiffeq)(guard, rtol, atol)
    for part in parts:
        guard.check_finite(part[-1], "the state", guard.plan.ends[1])
    return parts


def _by_torchdiffeq(guard: _Guard, rtol: float, atol: float) -> _State:
    from torchdiffeq import odeint  # imported late: it brings all of scipy.integrate

    plan, alone = guard.plan, len(guard.state) == 1
    device = guard.state[0].device
    precise = torch.float32 if device.type == "mps" else torch.float64  # Apple GPUs have no float64
    times = plan.times.to(device, precise)
    options: dict[str, Any]
    if plan.grid is None:
        # Left to itself it takes a first step far beyond the end, for at T the flow hardly moves, and a last one past the end.
        first_step = 0.01 * (guard.high - guard.low)
        options = {"norm": _worst_item, "dtype": precise, "first_step": first_step, "step_t": times[-1:]}
    else:
        grid = plan.grid.to(times)
        options = {"grid_constructor": lambda func, y, t: grid}
        if plan.method.endswith("adams"):  # torchdiffeq goes up to order 12, where the explicit one blows up on VE
            options["max_order"] = 5 if plan.method == "explicit_adams" else 4
    y = guard.state[0] if alone else guard.state
    try:
        out = odeint(guard, y, times, rtol=rtol, atol=atol, method=plan.method, options=options)
    except AssertionError as error:
        if not str(error).startswith(("underflow in dt", "non-finite values in state")):
            raise  # a score's own
        guard.give_up("no step was small enough", f"loosen rtol={rtol:g} and atol={atol:g}, or use float64")
    return (out,) if alone else out


def _by_scipy(guard: _Guard, rtol: float, atol: float) -> _State:
    """scipy's own solvers, stepped here: torchdiffeq's wrapper rounds times to float32 and does not see that a solve failed."""
    import scipy.integrate  # comes with torchdiffeq

    start, end = guard.plan.ends

    def flat(parts: _State) -> np.ndarray:
        return np.concatenate([part.detach().cpu().double().numpy().ravel() for part in parts])

    def state(y: np.ndarray) -> _State:  # a copy, for scipy reuses its arrays
        pieces = torch.from_numpy(y.copy()).split([part.numel() for part in guard.state])
        return tuple(new.reshape(old.shape).to(old) for new, old in zip(pieces, guard.state, strict=True))

    def right(t: float, y: np.ndarray) -> np.ndarray:
        return flat(guard.rates(t, state(y)))

    solver = getattr(scipy.integrate, guard.plan.method)(right, start, flat(guard.state), end, rtol=rtol, atol=atol)
    found, wanted = [guard.state], guard.plan.times[1:-1].tolist()
    while solver.status == "running":
        message = solver.step()
        if solver.status == "failed":
            guard.give_up(
                f"no step was small enough ({message})", f"loosen rtol={rtol:g} and atol={atol:g}, or use float64"
            )
        guard.reached = solver.t, state(solver.y)[0]
        inside = [t for t in wanted if (t - solver.t) * (end - start) <= 0]
        if inside:
            dense, wanted = solver.dense_output(), wanted[len(inside) :]
            found += [state(dense(t)) for t in inside]
    found.append(state(solver.y))
    return tuple(torch.stack(part) for part in zip(*found, strict=True))


def _worst_item(error: Tensor | _State) -> Tensor:
    """Of all items' errors, in units of the tolerance, the largest root mean square; of a tuple, that of its worst part."""
    parts = (error,) if isinstance(error, Tensor) else error
    rows = [part.reshape(len(part), -1) for part in parts]
    worst = [torch.linalg.vector_norm(row, dim=1).max() / math.sqrt(row.shape[1]) for row in rows]
    return worst[0] if len(worst) == 1 else torch.stack(worst).max()
