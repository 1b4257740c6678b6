"""Graders of chapter 8: predictors."""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sdelib.exercises import Wrong, grader, near


@grader("ex-8-reverse-diffusion", "step_back(x, s, k, mu, b): the mean of the reverse diffusion step from x")
def reverse_diffusion(step_back: Callable[[float, float, float, float, float], float]) -> str:
    """x - k (mu - x) + b^2 s."""
    for x, s, k, mu, b in ((1.5, -0.8, 0.1, 0.5, 0.4), (-0.7, 1.3, 0.05, 2.0, 0.6), (0.9, 0.25, 0.2, 0.0, 0.3)):
        near(
            f"step_back(x={x}, s={s}, k={k}, mu={mu}, b={b})",
            step_back(x, s, k, mu, b),
            x - k * (mu - x) + b**2 * s,
            rtol=1e-9,
            traps=[
                (x + k * (mu - x) + b**2 * s, "that walks forward with the drift; backwards it is taken away"),
                (x - k * (mu - x) + b * s, "the score is multiplied by the squared noise, b²"),
                (x - k * (mu - x) - b**2 * s, "the score has the wrong sign: go up the slope of the density"),
                (x - k * (mu - x) + b**2 * s / 2, "half of the score belongs to the flow, which has no noise"),
                (x + k * x + b**2 * s, "that is right for mu = 0 only"),
                ((x - k * mu + b**2 * s) / (1 - k), "that is the ancestral mean, exact; asked is reverse diffusion's"),
                (x - k * (mu - x), "the score is missing"),
            ],
        )
    return "The chain's own increments, taken back: no SDE is needed."


@grader(
    "ex-8-limit",
    "gap(beta, h, x, s): the ancestral mean minus the Euler-Maruyama mean",
    "power: the power of h with which it vanishes",
)
def limit(gap: Callable[[float, float, float, float], float], power: float) -> str:
    """exp(beta h/2) x + 2 sinh(beta h/2) s - (1 + beta h/2) x - beta h s, of order h^2."""
    for beta, h, x, s in ((4.0, 0.1, 1.2, -0.7), (10.0, 0.05, -0.4, 0.9), (1.0, 0.5, 2.0, 0.0)):
        up, euler = math.exp(beta * h / 2), (1 + beta * h / 2) * x + beta * h * s
        ancestral = up * x + (up - 1 / up) * s
        forward_sign = (1 - beta * h / 2) * x + beta * h * s
        near(
            f"gap(beta={beta}, h={h}, x={x}, s={s})",
            gap(beta, h, x, s),
            ancestral - euler,
            rtol=1e-9,
            atol=1e-13,
            traps=[
                (euler - ancestral, "that is Euler-Maruyama minus ancestral"),
                (ancestral, "that is the ancestral mean itself; subtract Euler-Maruyama's"),
                (ancestral - forward_sign, "going back, Euler-Maruyama takes the drift away: + beta h x/2"),
                (ancestral - (1 + beta * h / 2) * x, "Euler-Maruyama's mean has the score, too: beta h s"),
                ((x + (1 - 1 / up**2) * s) - euler, "divide by a: the step back turns the contrast up again"),
                ((x + (1 - 1 / up**2) * s) * up**2 - euler, "divide by a = exp(-beta h/2), not by a²"),
                (beta**2 * h**2 * x / 8, "that is the leading term; asked is the whole gap"),
            ],
        )
    near(
        "power",
        power,
        2.0,
        atol=1e-9,
        traps=[
            (1.0, "one power is used up by the sum over 1/h steps; asked is the gap of one step"),
            (3.0, "that is the power of the score's part; the part with x vanishes more slowly"),
        ],
    )
    return "Second order in one step, so first order on the whole way."


@grader("ex-8-last", "ends(s, sigma): the variances of stopping, of a last step with its noise, of its mean")
def last(ends: Callable[[float, float], Sequence[float]]) -> str:
    """s^2 + sigma^2; s^4/(s^2 + sigma^2) + sigma^2; s^4/(s^2 + sigma^2)."""
    for s, sigma in ((0.01, 0.01), (0.5, 0.2), (0.03, 0.1)):
        got = ends(s, sigma)
        try:
            values = [float(v) for v in got]
        except TypeError:
            raise Wrong(f"ends({s}, {sigma}) must return three numbers, got {got!r}.") from None
        if len(values) != 3:
            raise Wrong(f"ends({s}, {sigma}) must return three numbers, got {len(values)}.")
        total = s**2 + sigma**2
        guess, once = s**4 / total, s**2 / total
        spread = "that is the standard deviation; wanted are variances"
        near(
            f"the first of ends({s}, {sigma})",
            values[0],
            total,
            rtol=1e-9,
            traps=[(s**2, "that is the data's variance; the noise is still on"), (math.sqrt(total), spread)],
        )
        near(
            f"the third of ends({s}, {sigma})",
            values[2],
            guess,
            rtol=1e-9,
            traps=[
                (s**2, "that would be a draw of the data; the mean of the step varies less"),
                (once, "that is the factor in front of x; the variance takes its square, times that of x"),
                (once * total, "a number multiplied by c has its variance multiplied by c²"),
                (once**2, "the walkers' own variance is missing: square of the factor times s² + sigma²"),
                (s**2 * sigma**2 / total, "that is the variance of x0 given x, what the mean leaves out"),
                (guess + sigma**2, "that is the second: the third is without the kick"),
                (math.sqrt(guess), spread),
            ],
        )
        near(
            f"the second of ends({s}, {sigma})",
            values[1],
            guess + sigma**2,
            rtol=1e-9,
            traps=[
                (guess, "that is the third: the kick of variance b² = sigma² is missing"),
                (s**2, "right it would be with the true variance of x0 given x; the forward variance is sigma²"),
                (guess + sigma, "the kick's variance is b² = sigma²"),
            ],
        )
    return "None of the three is s², and s itself decides which is nearest."


def _kl(times: Tensor, v0: float) -> float:
    """KL of Euler-Maruyama's law under VP on this grid to the exact one at 0.001, data N(0.5, v0), exact start."""

    def big_b(t: float) -> float:
        return 0.1 * t + 9.95 * t * t

    def law(t: float) -> tuple[float, float]:
        return 0.5 * math.exp(-big_b(t) / 2), 1 + (v0 - 1) * math.exp(-big_b(t))

    grid = times.tolist()
    mean, v = law(grid[0])
    for t, t_next in itertools.pairwise(grid):
        h, beta, (m, V) = t - t_next, 0.1 + 19.9 * t, law(t)
        mean = (1 + beta * h / 2) * mean - beta * h * (mean - m) / V
        v = (1 + beta * h / 2 - beta * h / V) ** 2 * v + beta * h
    m, V = law(grid[-1])
    return 0.5 * (v / V - 1 - math.log(v / V) + (mean - m) ** 2 / V)


@grader("ex-8-grid", "grid(n): n + 1 falling times from 1 to 0.001 that serve thick and thin data")
def grid(grid: Callable[[int], Tensor]) -> str:
    """For instance the geometric one."""
    for n, allowed in ((50, 0.01), (100, 0.003)):
        times = torch.as_tensor(grid(n), dtype=torch.float64).detach().cpu()
        if times.shape != (n + 1,):
            raise Wrong(f"grid({n}) must hold {n + 1} times, for {n} steps, got shape {tuple(times.shape)}.")
        if not bool((times.diff() < 0).all()):
            raise Wrong(f"grid({n}) must fall from 1 to 0.001; yours does not fall everywhere.")
        if abs(float(times[0]) - 1) > 1e-6 or abs(float(times[-1]) - 1e-3) > 1e-8:
            ends = f"{float(times[0]):.6g} to {float(times[-1]):.6g}"
            raise Wrong(f"grid({n}) must run from 1 to 0.001, it runs from {ends}.")
        thick, thin = _kl(times, 0.25), _kl(times, 1e-4)
        if thick + thin >= allowed:
            worse = (
                "the thin direction needs shorter steps near 0.001"
                if thin > thick
                else "the thick direction needs more of the steps between 0.05 and 1"
            )
            raise Wrong(
                f"with grid({n}) the KL is {thick:.2g} for the thick direction and {thin:.2g} for the thin one, "
                f"together not below {allowed:g}: {worse}."
            )
    return "Near the data a step must be short against t, not against 1."
