"""Graders of chapter 10: the probability flow."""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from sdelib.exercises import Wrong, grader, near
from sdelib.types import Drift


def _moments(m: float, v: float, t: float) -> tuple[float, float]:
    """Mean and variance at time t of data N(m, v) under VP with its usual beta."""
    left = math.exp(-(0.1 * t + 9.95 * t * t))
    return m * math.sqrt(left), v * left - math.expm1(-(0.1 * t + 9.95 * t * t))


def _kl(m: float, v: float, mu: float, var: float) -> float:
    """KL of N(m, v) from N(mu, var), nats."""
    return 0.5 * ((v + (m - mu) ** 2) / var - 1 - math.log(v / var))


@grader(
    "ex-10-keep", "end_gap(m, v, t): KL at time t of the crowd that an exact flow carries there from N(0, 1) at time 1"
)
def keep(end_gap: Callable[[float, float, float], float]) -> str:
    """KL of N(0, 1) from p_1, whatever t."""
    for m, v, t in ((20.0, 400.0, 0.5), (-30.0, 0.25, 0.1), (5.0, 900.0, 0.001)):
        mu, var = _moments(m, v, 1.0)
        here = _moments(m, v, t)
        near(
            f"end_gap({m}, {v}, {t})",
            end_gap(m, v, t),
            _kl(0.0, 1.0, mu, var),
            rtol=1e-6,
            traps=[
                (_kl(mu, var, 0.0, 1.0), "that is the divergence the other way round: the crowd's law stands first"),
                (_kl(0.0, 1.0, *here), "that leaves the crowd at N(0, 1); the flow has carried it to time t"),
                (_kl(*here, 0.0, 1.0), "that compares p_t with N(0, 1), which is the crowd's law at time 1 only"),
                (_kl(0.0, 1.0, m, v), "that compares N(0, 1) with the data"),
                (0.0, "an exact flow adds no error, but it does not remove the one at the start either"),
                (
                    0.5 * mu**2 / var,
                    "that is the part of the wrong mean alone; the variance of p_1 is not exactly 1 either",
                ),
            ],
        )
    return "Whatever the time: nothing is added and nothing forgiven."


@grader(
    "ex-10-members",
    "flow_velocity(D, k, s): the velocity of the flow that belongs to the backward SDE dx = D dt + k dw̄",
    "sidewind(s): for scores s of shape (n, 2), a field that is not 0 and moves no density",
)
def members(flow_velocity: Callable[[Tensor, Tensor, Tensor], Tensor], sidewind: Callable[[Tensor], Tensor]) -> str:
    """D + k^2/2 s; a multiple of (s_2, -s_1)."""
    for D, k, s in ((0.7, 1.5, -2.0), (-0.3, 0.8, 1.25), (0.4, 0.0, 3.0)):
        args = [torch.tensor([value], dtype=torch.float64) for value in (D, k, s)]
        near(
            f"flow_velocity(D={D}, k={k}, s={s})",
            flow_velocity(*args),
            D + k**2 / 2 * s,
            rtol=1e-9,
            traps=[
                (D - k**2 / 2 * s, "that is right for a forward SDE; in one that runs backwards time has another sign"),
                (D + k**2 * s, "half of k²: the second derivative has the factor 1/2"),
                (D + k / 2 * s, "the variance of the kicks counts, k², not k"),
                (D, "that is right for k = 0 only"),
            ],
        )
    scores = torch.tensor([[1.0, 0.5], [-2.0, 0.25], [0.5, 3.0], [-1.0, -1.0]], dtype=torch.float64)
    got = sidewind(scores.clone())
    got = torch.as_tensor(got, dtype=torch.float64).detach()
    if got.shape != scores.shape:
        raise Wrong(
            f"sidewind(s) must have s's shape {tuple(scores.shape)}, one velocity a point, got {tuple(got.shape)}."
        )
    if not bool((got != 0).any()):
        raise Wrong("sidewind(s) is 0 everywhere; wanted is a wind that blows.")
    across = torch.stack([scores[:, 1], -scores[:, 0]], 1)
    size = float((got * across).sum() / (across * across).sum())
    if torch.allclose(got, size * across, atol=1e-9):
        return "One flow for all members of the family, and still not the only motion with these densities."
    if bool(((got * scores).sum(1).abs() < 1e-9).all()):
        raise Wrong(
            "sidewind(s) blows along the contours, as it must, but not in proportion to the score's length: "
            "its divergence is not 0."
        )
    if torch.allclose(got, scores * (got * scores).sum() / (scores * scores).sum(), atol=1e-9):
        raise Wrong("sidewind(s) blows along the score: it carries the crowd up the hill and changes its density.")
    raise Wrong("sidewind(s) must blow along the contours of p, at right angles to the score; it does not.")


def _wave(x: Tensor, t: Tensor) -> Tensor:
    """A velocity that depends on place and time and has no simple inverse."""
    return torch.sin(x) - 0.5 * x * t.reshape(-1, *[1] * (x.ndim - 1)) ** 2


@grader("ex-10-undo", "undo(velocity, y, t, t_next): the x from which an Euler step from t to t_next leads to y")
def undo(undo: Callable[[Drift, Tensor, float, float], Tensor]) -> str:
    """The fixed point of x = y - h velocity(x, t)."""
    x = torch.tensor([[0.3, -1.2], [2.0, 0.7], [-0.4, 1.9]], dtype=torch.float64)
    for t, t_next in ((0.5, 0.3), (0.2, 0.55)):
        h = t_next - t
        now, then = torch.full((3,), t, dtype=torch.float64), torch.full((3,), t_next, dtype=torch.float64)
        y = x + h * _wave(x, now)
        once = y - h * _wave(y, now)
        near(
            f"undo(velocity, y, {t}, {t_next})",
            undo(_wave, y.clone(), t, t_next),
            x,
            atol=1e-7,
            traps=[
                (y - h * _wave(y, then), "that is an Euler step back, with the velocity at y and at t_next"),
                (once, "that takes the velocity at y; the step took it at x, which you do not know yet: iterate"),
                (y - h * _wave(once, now), "a good beginning, two rounds of it; go on until it stands still"),
                (y + h * _wave(y, now), "that is one more step on, not one back"),
            ],
        )
    return "An Euler step has an inverse, and Euler's step in the other direction is not it."


@grader("ex-10-heun", "heun(velocity, x, times): x carried along the grid of times by Heun's steps")
def heun(heun: Callable[[Drift, Tensor, Tensor], Tensor]) -> str:
    """Average of the velocities at both ends of an Euler step."""
    calls = 0

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        t = torch.as_tensor(t, dtype=torch.float64)
        if t.shape not in ((), x.shape[:1]):
            raise Wrong(f"velocity was given a time of shape {tuple(t.shape)}: one number, or one an item.")
        return _wave(x, t.expand(len(x)))

    x0 = torch.tensor([[0.3, -1.2], [2.0, 0.7]], dtype=torch.float64)
    for times in ([0.9, 0.4, 0.1], [0.0, 0.6]):
        grid = torch.tensor(times, dtype=torch.float64)
        right, euler, middle, stale, after = (x0.clone() for _ in range(5))
        for t, s in pairwise(times):
            h, at = s - t, lambda u: torch.full((2,), u, dtype=torch.float64)
            k = _wave(right, at(t))
            right = right + h / 2 * (k + _wave(right + h * k, at(s)))
            euler = euler + h * _wave(euler, at(t))
            k = _wave(middle, at(t))
            middle = middle + h * _wave(middle + h / 2 * k, at(t + h / 2))
            k = _wave(stale, at(t))
            stale = stale + h / 2 * (k + _wave(stale + h * k, at(t)))
            k = _wave(after, at(t))
            after = after + h * _wave(after + h * k, at(s))
        calls = 0
        got = heun(velocity, x0.clone(), grid)
        near(
            f"heun(velocity, x, {times})",
            got,
            right,
            rtol=1e-9,
            traps=[
                (euler, "that is Euler"),
                (middle, "that is the midpoint rule: also of order 2, but not Heun's"),
                (stale, "the second velocity belongs to the time at the end of the step"),
                (after, "that takes the second velocity alone; take the mean of both"),
                (x0, "x has not moved"),
            ],
        )
        if calls > 2 * (len(times) - 1):
            raise Wrong(
                f"heun is right, but asks for {calls} velocities where {2 * (len(times) - 1)} suffice: two a step."
            )
    return "Order two for two evaluations a step."
