"""Graders of chapter 6: running time backwards."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sdelib.exercises import Wrong, grader, near


@grader(
    "ex-6-last-steps", "next_variance(t, h): the walkers' variance after one step from time t, where it is t, to t - h"
)
def last_steps(next_variance: Callable[[float, float], float]) -> str:
    """t (1 - h/t)^2 + h."""
    for t, h in ((1.0, 0.1), (0.5, 0.25), (0.02, 0.005)):
        near(
            f"next_variance({t}, {h})",
            next_variance(t, h),
            t - h + h**2 / t,
            rtol=1e-9,
            traps=[
                (t - h, "that is the law's variance at t - h; the step misses it"),
                (t * (1 - h / t) ** 2, "the fresh kick is missing: it has the variance h"),
                (t * (1 - h / t) + h, "a number multiplied by c has its variance multiplied by c²"),
                (t * (1 + h / t) ** 2 + h, "backwards the score is added, and it points to 0: the factor is below 1"),
                (t * (1 - h / (2 * t)) ** 2 + h, "with all of the noise the score has the factor g² = 1, not a half"),
                (math.sqrt(t - h + h**2 / t), "that is the standard deviation"),
                (h**2 / (t * (t - h)), "that is the fraction; wanted is the variance"),
                (h**2 / t, "that is the excess over t - h; wanted is the variance"),
            ],
        )
    return "Too large by h²/t: steps must be short against t, and no step from t = h is."


@grader(
    "ex-6-trade", "forward_drift(f, g, k, s): the drift that keeps the marginals, run forward with kicks of strength k"
)
def trade(forward_drift: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> str:
    """f - (g^2 - k^2)/2 s."""
    for f, g, k, s in ((0.7, 1.5, 0.5, -2.0), (-0.3, 0.8, 2.0, 1.25), (0.4, 1.2, 0.0, 3.0), (0.25, 1.1, 1.1, 2.0)):
        args = [torch.tensor([value], dtype=torch.float64) for value in (f, g, k, s)]
        near(
            f"forward_drift(f={f}, g={g}, k={k}, s={s})",
            forward_drift(*args),
            f - (g**2 - k**2) / 2 * s,
            rtol=1e-9,
            traps=[
                (f - (g**2 + k**2) / 2 * s, "that is the drift for time running backwards; here it runs forward"),
                (
                    f + (g**2 - k**2) / 2 * s,
                    "the score has the wrong sign: with k = 0 the crowd must flow down the slope of p",
                ),
                (f - (g**2 - k**2) * s, "half of g² - k²: the second derivative has the factor 1/2"),
                (f - (g - k) ** 2 / 2 * s, "variances are traded, not strengths: g² - k², not (g - k)²"),
                (f - g**2 / 2 * s, "that is right for k = 0 only; the kicks that you put back have to be paid for"),
                (f, "that is right for k = g only"),
            ],
        )
    return "k = g is the SDE itself, k = 0 the probability flow, which needs no turning round."


@grader("ex-6-banana", "spread(x): the divergence of G Gᵀ at points of shape (n, 2), in that shape")
def banana(spread: Callable[[Tensor], Tensor]) -> str:
    """(0, 1) everywhere."""
    x = torch.tensor([[0.5, -1.0], [-2.0, 0.25], [1.5, 3.0]], dtype=torch.float64)
    got = spread(x.clone())
    if got is None:
        raise Wrong("spread(x) returns nothing.")
    got = torch.as_tensor(got, dtype=torch.float64).detach()
    if got.shape != x.shape:
        raise Wrong(f"spread(x) must have x's shape {tuple(x.shape)}, one vector a point, got {tuple(got.shape)}.")
    one, zero = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    known = [
        (torch.stack([one, zero], 1), "the rows are exchanged: (div M)_i sums over the columns of row i"),
        (torch.stack([zero, zero], 1), "M is not constant: x₁ stands in its second row"),
        (
            torch.stack([zero, 1 + 2 * x[:, 0]], 1),
            "both terms of the second row were differentiated by x₁; the second one goes by x₂",
        ),
        (torch.stack([zero, 2 * x[:, 0]], 1), "only the diagonal was differentiated, and by x₁"),
        (torch.stack([one, 2 * x[:, 0]], 1), "every entry was differentiated by x₁; column j goes by x_j"),
        (torch.stack([zero, 0.5 * one], 1), "no half here: for the whole reverse SDE the term has the factor 1"),
    ]
    for value, why in known:
        if torch.allclose(got, value, atol=1e-9):
            raise Wrong(f"spread(x) is wrong: {why}.")
    near("the first component of spread(x)", got[:, 0], zero, atol=1e-9)
    near("the second component of spread(x)", got[:, 1], one, atol=1e-9)
    return "A constant, though M is none: forget it, and everything is displaced."


def _variance(eta: float, n: int) -> tuple[float, float]:
    """Final variance of G1 under VP after n Euler-Maruyama steps from the exact law at 1 to 0.001, and the exact one."""

    def exact(t: float) -> float:
        return 1 - 0.75 * math.exp(-(0.1 * t + 9.95 * t * t))

    h = (1 - 1e-3) / n
    v = exact(1.0)
    for i in range(n):
        t = 1.0 - i * h
        beta = 0.1 + 19.9 * t
        v = (1 - h * beta * (-0.5 + (1 + eta**2) / (2 * exact(t)))) ** 2 * v + eta**2 * beta * h
    return v, exact(1e-3)


@grader("ex-6-eta", "best_eta(n): the η between 0 and 1 with which n steps end with the exact variance of G1 at 0.001")
def eta(best_eta: Callable[[int], float]) -> str:
    """The zero of the variance's error, by bisection."""
    for n in (30, 120):
        got = float(best_eta(n))
        if not 0 < got < 1:
            raise Wrong(f"best_eta({n}) must lie between 0 and 1, got {got:g}.")
        v, exact = _variance(got, n)
        low, high = 0.0, 1.0
        while high - low > 1e-10:
            middle = (low + high) / 2
            low, high = (middle, high) if _variance(middle, n)[0] < exact else (low, middle)
        if abs(got - low) > 1e-4:
            how = "wide: less noise" if v > exact else "narrow: more noise"
            raise Wrong(
                f"with η = best_eta({n}) = {got:.4g} the {n} steps end at the variance {v:.6f}, "
                f"where {exact:.6f} is right: too {how}."
            )
    return "Near a half, for this law. Whether that helps another is the open part."
