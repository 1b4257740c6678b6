"""Graders of chapter 5: VE, VP, sub-VP."""

import math

import torch

from sdelib.exercises import Wrong, grader, near


def _ask(function, *numbers):
    """Call an answer with plain numbers, and if it is written in torch, which refuses them, with tensors of them."""
    try:
        return function(*numbers)
    except Wrong as wrong:
        if not isinstance(wrong.__cause__, TypeError | AttributeError):
            raise
    return function(*(torch.tensor(number, dtype=torch.float64) for number in numbers))


@grader("ex-5-gentler", "shake_squared(beta, B, p): g² for VP's drift and the kernel variance (1 − exp(−B))^p")
def gentler(shake_squared):
    for beta, B, p in ((2.0, 0.7, 2.0), (3.0, 0.4, 3.0), (1.5, 1.1, 0.5), (0.1, 0.2, 1.0)):
        u, left = -math.expm1(-B), math.exp(-B)
        gain, loss = beta * p * u ** (p - 1) * left, beta * u**p
        near(
            f"shake_squared({beta:g}, {B:g}, {p:g})",
            _ask(shake_squared, beta, B, p),
            gain + loss,
            rtol=1e-6,
            traps=[
                (
                    gain,
                    "that is what the variance gains on balance; the drift takes β v away, which g² must give back too",
                ),
                (
                    gain - loss,
                    "the drift takes variance away, 2 f v with f = −β/2, so g² has to make up for it: check the sign",
                ),
                (gain + loss / 2, "the variance follows the drift twice as fast: 2 f v, not f v"),
                (math.sqrt(gain + loss), "that is g, not its square"),
                (
                    beta * (1 - left**2) ** (p - 1),
                    "do not take the power of sub-VP's g²: put the new variance into the moment equation, which is for v",
                ),
                (beta**p * (1 - left**2) ** (p - 1), "the moment equation is for v: do not take the power of g²"),
                (beta * (1 - left**2), "that is sub-VP, right for p = 2 only"),
                (p * u ** (p - 1) * left + beta * u**p, "differentiating exp(−B) brings out B' = β"),
                (beta * u ** (p - 1) * left + loss, "differentiating the power p brings out a factor p"),
            ],
        )
    return "With p = 1 it is VP and with p = 2 sub-VP, as it should be."


@grader(
    "ex-5-cosine",
    "cosine_beta(t): the rate β(t) of the cosine schedule",
    "t_even: the time at which ρ is 1, to six decimals",
)
def cosine(cosine_beta, t_even):
    for t in (0.1, 0.5, 0.9):
        angle = math.pi / 2 * (t + 0.008) / 1.008
        beta = math.pi / 1.008 * math.tan(angle)
        near(
            f"cosine_beta({t:g})",
            _ask(cosine_beta, t),
            beta,
            rtol=1e-6,
            traps=[
                (beta / 2, "that is β/2, the rate of the scale; in VP, scale = exp(−B/2) and β is B'"),
                (-beta / 2, "that is f; the rate is β = −2 f"),
                (-beta, "a rate of forgetting is positive: check the sign"),
                (2 * math.tan(angle), "the angle's own derivative, π / (2 · 1.008), is missing"),
                (math.pi * math.tan(angle), "the angle runs to 1.008: its derivative is π / (2 · 1.008)"),
                (math.sqrt(beta), "that is g; β is its square"),
            ],
        )
    start = math.cos(math.pi / 2 * 0.008 / 1.008)

    def even(scale):
        return 2 * 1.008 / math.pi * math.acos(start * scale) - 0.008

    near(
        "t_even",
        t_even,
        even(math.sqrt(0.5)),
        atol=2e-6,
        traps=[
            (even(0.5), "there the scale is 1/2; ρ = 1 means scale² = std² = 1/2"),
            (0.496, "close: six decimals are asked for, and the division by cos φ(0) moves the answer by 5e-5"),
            (0.5, "without the shift of 0.008 it would be; six decimals are asked for"),
        ],
    )
    return "Noise and picture are even almost exactly at half-time: that is what the cosine is for."


@grader(
    "ex-5-enough",
    "enough_beta_max(D): the smallest β_max for which D pixels of G1 have a prior gap of at most 1e-6 nats",
)
def enough(enough_beta_max):

    def rule(count, gap=1e-6):
        return 2 * math.log(count * 0.125 / gap) - 0.1

    for D in (1, 3072, 3 * 1024**2):
        near(
            f"enough_beta_max({D})",
            enough_beta_max(D),
            rule(D),
            atol=1.5e-3,
            traps=[
                (round(rule(D), 1), "close: three decimals are asked for"),
                (round(rule(D), 2), "close: three decimals are asked for"),
                (rule(1), "that is the answer for one pixel; the gaps of independent pixels add up"),
                (rule(math.sqrt(D)), "the gap is D times that of one pixel, not √D times"),
                (rule(D) + 0.1, "B(1) is the mean of β_min and β_max: subtract β_min"),
                (rule(D) / 2, "B(1) = (β_min + β_max)/2: β_max is about twice B(1)"),
                (rule(D) / 2 + 0.05, "that is B(1), not β_max"),
                (2 * math.log(D * 0.5 / 1e-6) - 0.1, "G1's mean is 0.5; its square is 0.25"),
                (2 * math.log(D * 0.25 / 1e-6) - 0.1, "the divergence has a factor 1/2"),
            ],
        )
    return "Logarithmic in the number of pixels: forgetting is exponential in B."


@grader("ex-5-clock", "my_clock(N): N values of ρ from 0.01 to 100, ascending, whose score for N = 50 is below 0.002")
def clock(my_clock):
    ratios = torch.as_tensor(my_clock(50), dtype=torch.float64).flatten()
    if len(ratios) != 50:
        raise Wrong(f"my_clock(50) must be 50 numbers, got {len(ratios)}.")
    if not bool((ratios.diff() > 0).all()):
        first = int((~(ratios.diff() > 0)).nonzero()[0])
        raise Wrong(f"my_clock(50) must ascend: number {first + 2} is not above number {first + 1}.")
    for name, end, want in (("first", ratios[0], 0.01), ("last", ratios[-1], 100.0)):
        if abs(float(end) / want - 1) > 1e-6:
            raise Wrong(
                f"The {name} number must be {want:g}, got {float(end):.6g}: clocks are compared between the same ends."
            )
    score = _score(ratios)
    if score >= 0.002:
        geometric = torch.logspace(-2, 2, 50, dtype=torch.float64)
        known = " That is VE's clock." if torch.allclose(ratios, geometric, rtol=1e-6) else ""
        near_half = int(((ratios > 0.1) & (ratios < 2.5)).sum())
        raise Wrong(
            f"Its score is {score:.4f}, and 0.002 is the mark.{known} {near_half} of the 50 numbers lie within a factor of "
            "5 of the data's width, 0.5; try to spend more of them there, and hurry at both ends."
        )
    return "A clock that lingers where noise and data are equally wide, and hurries at both ends."


def _score(ratios):
    """KL to G1 after ancestral steps, posterior variance, through these noise scales: a recursion of the variance."""
    squares = [0.0, *(float(r) ** 2 for r in ratios)]
    v = 0.25 + squares[-1]
    for k in range(len(squares) - 1, 0, -1):
        b2, V = squares[k] - squares[k - 1], 0.25 + squares[k]
        v = (1 - b2 / V) ** 2 * v + b2 * squares[k - 1] / squares[k]
    return 0.5 * (v / 0.25 - 1 - math.log(v / 0.25))
