"""Graders of chapter 13: controllable generation."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sdelib.exercises import Wrong, grader, near


@grader(
    "ex-13-witness",
    "told(sigma, rho, y): mean and variance of the law that the replaced score drives the second number to",
)
def witness(told: Callable[[float, float, float], tuple[float, float]]) -> str:
    """The law of the second number beside a noisy first one, with the first at its mean."""
    for sigma, rho, y in ((0.7, 0.8, 1.5), (2.0, -0.6, 0.7), (0.1, 0.3, 2.0)):
        mean, variance = _pair(f"told({sigma}, {rho}, {y})", told(sigma, rho, y))
        both = 1 + sigma**2
        near(
            f"the mean of told({sigma}, {rho}, {y})",
            mean,
            rho * y / both,
            rtol=1e-9,
            traps=[
                (rho * y, "that is the right law's mean; the score takes the copy for a noisy neighbour"),
                (rho * y / both**2, "once is enough: the copy itself has the mean y"),
                (rho * y / math.sqrt(both), "the slope is covariance over variance, not over standard deviation"),
                (y / both, "the correlation is missing"),
            ],
        )
        near(
            f"the variance of told({sigma}, {rho}, {y})",
            variance,
            both - rho**2 / both,
            rtol=1e-9,
            traps=[
                (both - rho**2, "that is the right law's variance"),
                (1 - rho**2, "that is the variance at noise scale 0"),
                (1 - rho**2 / both, "the second number is noisy, too"),
                (both * (1 - rho**2), "noise weakens the correlation: it is ρ/(1 + σ²) there"),
                (math.sqrt(both - rho**2 / both), "that is the standard deviation"),
                (
                    both - rho**2 / both + (rho * sigma / both) ** 2,
                    "that is the variance beside one random copy; the copies' noise averages out over the steps",
                ),
            ],
        )
    return "At small σ it is the right law, and there the walker hardly moves."


@grader("ex-13-calls", "best_times(calls): how often each step should be done, of the divisors of calls")
def calls(best_times: Callable[[int], int]) -> str:
    """The divisor with the smallest KL."""
    for budget in (120, 400, 600):
        got = best_times(budget)
        if isinstance(got, Tensor):
            got = got.item()
        if not isinstance(got, int) or got < 1 or budget % got:
            raise Wrong(f"best_times({budget}) must be a whole number that divides {budget}, got {got!r}.")
        tries = [n for n in range(1, budget // 4 + 1) if budget % n == 0]
        kls = {n: _miss(budget // n, n) for n in tries}
        best = min(kls, key=lambda n: kls[n])
        if got not in kls:
            raise Wrong(f"best_times({budget}) = {got} leaves {budget // got} steps, with which nobody gets home.")
        if got != best:
            side = "few repetitions leave the bias" if got < best else "few steps leave the predictor's error"
            if got == 1:
                side = "done once, the bias is all there, however many steps"
            elif got == budget // best:
                side = "that is the number of steps"
            raise Wrong(f"best_times({budget}) = {got} is not the best divisor: {side}.")
    return "A balance of two errors: the witness's, and the predictor's."


@grader("ex-13-pull", "pull(x, scale, std, y, sigma, m, v): the gradient of log p(y given x) in x")
def pull(pull: Callable[..., Any]) -> str:
    """J (y - E[x0 | x]) / (C + sigma^2)."""
    x = torch.tensor([-1.0, 0.2, 1.7], dtype=torch.float64)
    for scale, std, y, sigma, m, v in ((0.8, 0.6, 1.2, 0.4, 0.5, 0.25), (1.0, 2.0, -0.3, 0.7, 0.1, 1.5)):
        total = scale**2 * v + std**2
        J, C = v * scale / total, v * std**2 / total
        gap = y - m - J * (x - scale * m)
        post = 1 / (1 / v + 1 / sigma**2)
        centre = post * (m / v + y / sigma**2)
        whole = -(x - scale * centre) / (scale**2 * post + std**2)
        near(
            f"pull(x, {scale}, {std}, {y}, {sigma}, {m}, {v})",
            pull(x, scale, std, y, sigma, m, v),
            J * gap / (C + sigma**2),
            rtol=1e-9,
            traps=[
                (J * gap / sigma**2, "the doubt about x(0) is missing: its variance given x belongs to σ²"),
                (gap / (C + sigma**2), "differentiate by x, not by x(0): the slope of the mean is missing"),
                (gap / sigma**2, "the doubt about x(0) and the slope of its mean are missing"),
                (J * gap / (C + sigma), "the variance of the measurement is σ², not σ"),
                (J * gap / C, "the measurement's own variance is missing"),
                (
                    scale * (scale * y - x) / (std**2 + (scale * sigma) ** 2) / scale,
                    "that is the term through y(t), which knows nothing of the data",
                ),
                (whole, "that is the whole score given y; wanted is the term alone"),
                (-J * gap / (C + sigma**2), "the sign: it pulls the guess towards y"),
            ],
        )
    return "With it the sum is the score of the posterior, at every time."


@grader("ex-13-blur", "posterior(A, y, sigma, mean, cov): mean and covariance of the signal given the measurement")
def blur(posterior: Callable[..., Any]) -> str:
    """Bayes' rule for normal laws."""
    g = torch.Generator().manual_seed(13)
    for D, M, sigma in ((3, 2, 0.5), (5, 3, 0.2)):
        draw = lambda *shape: torch.randn(shape, generator=g, dtype=torch.float64)  # noqa: E731
        A, y, mean, root = draw(M, D), draw(M), draw(D), draw(D, D)
        cov = root @ root.T + 0.1 * torch.eye(D, dtype=torch.float64)
        with _double():
            got_mean, got_cov = _pair("posterior(...)", posterior(A, y, sigma, mean, cov))
        inverse = torch.linalg.inv(cov)
        truth_cov = torch.linalg.inv(inverse + A.T @ A / sigma**2)
        truth_mean = truth_cov @ (inverse @ mean + A.T @ y / sigma**2)

        def gain(noise: float, A: Tensor = A, cov: Tensor = cov) -> Tensor:
            return cov @ A.T @ torch.linalg.inv(A @ cov @ A.T + noise * torch.eye(len(A), dtype=torch.float64))

        near(
            f"the mean of posterior(...) for {D} numbers and {M} measurements",
            got_mean,
            truth_mean,
            rtol=1e-7,
            atol=1e-9,
            traps=[
                (gain(sigma**2) @ (y - A @ mean), "the prior's mean is missing in front"),
                (mean + gain(sigma**2) @ y, "what the prior expects, A times its mean, has to be taken from y"),
                (mean + gain(sigma) @ (y - A @ mean), "the error's variance is σ², not σ"),
                (mean + gain(0.0) @ (y - A @ mean), "the error of the measurement is missing"),
            ],
        )
        near(
            f"the covariance of posterior(...) for {D} numbers and {M} measurements",
            got_cov,
            truth_cov,
            rtol=1e-7,
            atol=1e-9,
            traps=[
                (cov, "that is the prior's covariance: a measurement narrows it"),
                (gain(sigma**2) @ A @ cov, "that is what the measurement takes away; subtract it from the prior's"),
                (cov - gain(sigma) @ A @ cov, "the error's variance is σ², not σ"),
                (cov - gain(0.0) @ A @ cov, "the error of the measurement is missing"),
            ],
        )
    return "The covariance does not depend on what was measured, only on how."


def _pair(name: str, answer: Any) -> tuple[Any, Any]:
    if isinstance(answer, Tensor) and answer.shape == (2,):
        answer = answer.tolist()
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise Wrong(f"{name} must return two things, mean and variance, got {type(answer).__name__}.")
    return answer[0], answer[1]


class _double:
    """torch's default dtype is float64 inside, as in the chapter."""

    def __enter__(self) -> None:
        self.before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)

    def __exit__(self, *_: object) -> None:
        torch.set_default_dtype(self.before)


def _miss(n: int, times: int, rho: float = 0.8, y: float = 1.5) -> float:
    """KL of the chapter's pair after n steps of reverse diffusion under VP, each done a number of times."""

    def total(t: float) -> float:
        return 0.1 * t + 9.95 * t * t

    grid = [1 + (1e-3 - 1) * i / (n - 1) for i in range(n)] + [0.0]
    m, v, kick = 0.0, 1.0, 0.0
    for t, t_next in pairwise(grid):
        s, std2 = math.exp(-total(t) / 2), -math.expm1(-total(t))
        a, kick = math.exp((total(t_next) - total(t)) / 2), -math.expm1(total(t_next) - total(t))
        k = rho * s * s
        w = kick / (1 - k * k)
        for i in range(times):
            if i:
                m, v = a * m, a * a * v + kick
            m, v = (2 - a - w) * m + w * k * s * y, (2 - a - w) ** 2 * v + (w * k) ** 2 * std2 + kick
    v = v - kick
    if not v > 0:
        return math.inf
    truth = 1 - rho * rho
    return 0.5 * (v / truth - 1 - math.log(v / truth) + (m - rho * y) ** 2 / truth)
