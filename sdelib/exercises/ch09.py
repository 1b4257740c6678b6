"""Graders of chapter 9: predictor and corrector."""

import math
from collections.abc import Callable
from functools import cache

from sdelib.exercises import Wrong, grader, near


@grader(
    "ex-9-bias", "resting(r): the crowd's variance over the right one, once the paper's corrector alone has settled"
)
def bias(resting: Callable[[float], float]) -> str:
    """1 + r^2."""
    for r in (0.16, 0.4, 0.7):
        near(
            f"resting({r})",
            resting(r),
            1 + r**2,
            rtol=1e-9,
            traps=[
                (1 / (1 - r**2), "that is where a fixed step 2 r² v_t settles; here the step knows the crowd's width"),
                (1 / (1 - 2 * r**2), "a step of 2 r², in units of the variance, gives 1/(1 - r²) if it is fixed"),
                (1 + 2 * r**2, "the step is ε = 2 r² v_t²/v, and the shake has the variance 2 ε"),
                (1 + 4 * r**4, "that adds the bias of one step; the crowd takes many and forgets 4 r² in each"),
                (r**2, "that is the excess; wanted is the variance over the right one"),
                (math.sqrt(1 + r**2), "that is the standard deviation's ratio"),
                (1.0, "a step that is not infinitely small leaves a bias"),
            ],
        )
    return "No predictor and no number of steps gets below it: the floor of the map."


@grader(
    "ex-9-only",
    "steps_needed(r, sigma_min, sigma_max): how many steps the corrector alone needs to keep up with VE's ladder",
)
def only(steps_needed: Callable[[float, float, float], float]) -> str:
    """2 log(sigma_max/sigma_min) / r^2."""
    for r, low, high in ((0.16, 0.01, 50.0), (0.3, 0.02, 10.0), (0.1, 0.01, 90.0)):
        rungs = math.log(high / low)
        near(
            f"steps_needed({r}, {low}, {high})",
            steps_needed(r, low, high),
            2 * rungs / r**2,
            rtol=0.05,  # a whole number will do, and so will log(1 + r^2) in place of r^2, which is exact
            traps=[
                (
                    rungs / (2 * r**2),
                    "that lets the step keep its size; a crowd that lags has long scores and short steps",
                ),
                (rungs / r**2, "the variance falls by twice the logarithm by which σ falls"),
                (4 * rungs / r**2, "q w² - 4 r² w + 4 r² = 0 has a solution if 16 r⁴ is at least 16 q r²"),
                (2 * rungs / r, "the corrector's pull goes with r²"),
                (2 * (high / low) / r**2, "σ grows by one factor a step: its logarithm counts"),
            ],
        )
    return "Half the r needs four times the steps, and has a quarter of the floor."


@cache
def _kl(n: int, r: float, order: str = "code") -> float:
    """KL at 1e-5 of G1 under VE by n steps of reverse diffusion with one rest each, in the code's order or the box's."""
    grid = [1.0 + (1e-5 - 1.0) * i / n for i in range(n + 1)]
    noise = [(0.01 * 5000.0**t) ** 2 for t in grid]
    m, v = 0.0, 2500.0

    def rest(m: float, v: float, right: float) -> tuple[float, float]:
        centre, spread = (0.5 - m) / right, v / right**2
        size = math.sqrt(2 * spread / math.pi) * math.exp(-(centre**2) / (2 * spread))
        size += centre * math.erf(centre / math.sqrt(2 * spread))
        step = 2 * (r * math.sqrt(2 / math.pi) / size) ** 2
        keep = 1 - step / right
        return keep * m + (1 - keep) * 0.5, keep**2 * v + 2 * step

    for i in range(n):
        b2, right = noise[i] - noise[i + 1], 0.25 + noise[i]
        if order == "code":
            m, v = rest(m, v, right)
        keep = 1 - b2 / right
        m, v = keep * m + (1 - keep) * 0.5, keep**2 * v + b2
        if order == "box":
            m, v = rest(m, v, 0.25 + noise[i + 1])
    ratio = v / (0.25 + noise[-1])
    return 0.5 * (ratio - 1 - math.log(ratio) + (m - 0.5) ** 2 / (0.25 + noise[-1]))


@grader(
    "ex-9-r", "best_r(n): the r with the smallest KL for n steps of reverse diffusion with one rest each, G1 under VE"
)
def ratio(best_r: Callable[[int], float]) -> str:
    """By trying; about 1.2 / sqrt(n)."""
    for n in (50, 200):
        got = float(best_r(n))
        if not 0 < got < 1:
            raise Wrong(f"best_r({n}) must lie between 0 and 1, got {got:g}.")
        lowest, at = min((_kl(n, 0.0025 * k), 0.0025 * k) for k in range(4, 121))
        if _kl(n, got) > 1.03 * lowest:
            side = "the corrector's own floor rules there" if got > at else "the predictor's error rules there"
            raise Wrong(
                f"with r = best_r({n}) = {got:.4g} the KL after {n} steps is {_kl(n, got):.3g}, and {lowest:.3g} is possible: "
                f"r is too {'large' if got > at else 'small'}, {side}."
            )
    return "Four times the steps, half the r. No single number can be right."


@grader("ex-9-order", "box_kl(n, r): the KL when every predictor step is followed by the rest, as in the paper's box")
def order(box_kl: Callable[[int, float], float]) -> str:
    """The same recursion with the rest at t_next, after the predictor."""
    for n, r in ((50, 0.16), (100, 0.12), (30, 0.25)):
        near(
            f"box_kl({n}, {r})",
            box_kl(n, r),
            _kl(n, r, "box"),
            rtol=1e-6,
            traps=[
                (_kl(n, r, "code"), "that is the code's order, the rest first"),
                (_kl(n, 1e-9, "box"), "that is the predictor alone"),
            ],
        )
    return "A little better than the code's order at the same cost, and the last word is a shake."
