"""Graders of chapter 7: Learning the score."""

# ruff: noqa: E501 - what is asked stays one string, as the page shows it

import math

import torch

from sdelib.exercises import Wrong, grader, near
from sdelib.sde import VP

T_MIN = 1e-3


@grader(
    "ex-7-floor",
    "likelihood_floor(variance, t): the exact score's expected loss at time t under VP, data N(0, variance) on a line, weight g(t)²",
)
def floor(likelihood_floor):
    vp = VP()
    for v, t in ((1.0, 0.1), (0.25, 0.5), (4.0, 0.01)):
        time = torch.tensor(t, dtype=torch.float64)
        scale, std, g = (float(one(time)) for one in (vp.scale, vp.std, vp.g))
        signal = scale**2 * v
        near(
            f"likelihood_floor({v}, {t})",
            likelihood_floor(v, t),
            g**2 / std**2 * signal / (signal + std**2),
            rtol=1e-5,
            traps=[
                (signal / (signal + std**2), "that is the floor with the weight std²; here an item weighs g²"),
                (g**2 * signal / (signal + std**2), "the floor with the weight std² is to be multiplied by g²/std²"),
                (
                    g**2 / std**2 * v / (v + std**2),
                    "the data's variance at time t is scale² times variance: where is the scale?",
                ),
                (g**2 / std**2, "that is the loss of a score that is 0 everywhere"),
                (g**2 / (signal + std**2), "that is g² times the mean square of the score, not what it misses"),
                (g / std * signal / (signal + std**2), "the weight is g², with the square, and so is std²"),
            ],
        )
    return "Near time 0 it goes like 1/t: every decade of times brings the same share of this loss."


@grader(
    "ex-7-times",
    "draw_time(u): times on [0.001, 1] with density proportional to g²/std² under VP, for uniform u (float64 tensor)",
)
def times(draw_time):
    def B(t):
        return 0.1 * t + 9.95 * t**2

    def time_of(b):
        return (math.sqrt(0.01 + 39.8 * b) - 0.1) / 19.9

    low, high = (math.log(math.expm1(B(t))) for t in (T_MIN, 1.0))
    for u in (0.0, 0.3, 0.5, 0.9, 1.0):
        b = math.log1p(math.exp(low + (high - low) * u))
        near(
            f"draw_time({u})",
            draw_time(torch.tensor([u], dtype=torch.float64)),
            time_of(b),
            rtol=1e-4,
            traps=[
                (T_MIN + (1 - T_MIN) * u, "that is u itself, stretched: uniform times"),
                (T_MIN ** (1 - u), "that is uniform in log t: close for early times, where B is 0.1 t, but not later"),
                (time_of(B(T_MIN) + (B(1.0) - B(T_MIN)) * u), "that is uniform in B; log(e^B − 1) is to be uniform"),
                (
                    time_of(B(T_MIN) ** (1 - u) * B(1.0) ** u),
                    "that is uniform in log B, which is log(e^B − 1) for small B only",
                ),
                (time_of(math.log1p(math.exp(high + (low - high) * u))), "it falls where u rises: swap the ends"),
            ],
        )
    return "Uniform in the logarithm of noise over signal: every item of the loss now weighs the same."


@grader(
    "ex-7-hearing",
    "deaf: last excess with 2, 1e-6 over that of the default",
    "number: last excess with 2, 0.02 over that of the default",
)
def hearing(deaf, number):
    got = {"deaf": float(deaf), "number": float(number)}
    for name, value in got.items():
        if not math.isfinite(value) or value <= 0:
            raise Wrong(f"{name} is {value:g}: a ratio of two excesses is above 0.")
    if got["deaf"] < 1:
        if got["deaf"] < got["number"]:
            raise Wrong("deaf is the smaller one and below 1: divide by the default's excess, not the other way round.")
        raise Wrong(f"deaf is {got['deaf']:.3g}: that looks like an excess not yet divided by the default's.")
    if got["deaf"] < 1.5 * got["number"]:
        raise Wrong(
            "a network that cannot hear the time must do far worse than one that hears a number: are they swapped?"
        )
    for name, (low, high) in {"deaf": DEAF, "number": NUMBER}.items():
        if not low <= got[name] <= high:
            side = "too small" if got[name] < low else "too large"
            raise Wrong(
                f"{name} is {got[name]:.3g}, {side}: 500 steps, generator=seeded(10), the last entry of the curve?"
            )
    return (
        "A deaf network must give all times one field, and no budget mends that; a plain number only needs more steps."
    )


DEAF, NUMBER = (8.0, 100.0), (1.5, 20.0)
"""What other seeds and processors may make of the two ratios."""


@grader(
    "ex-7-examples",
    "ten: excess on the ruler after 600 steps on 10 examples",
    "three_hundred: the same with 300",
)
def examples(ten, three_hundred):
    got = [float(v) for v in (ten, three_hundred)]
    if min(got) <= 0:
        raise Wrong("an excess is a mean of squares, above 0; give the excess, not its logarithm or a difference.")
    if min(got) > 0.3:
        raise Wrong(
            f"the smaller is {min(got):.3g}: that looks like a loss with its floor of 0.45; the excess is what is above it."
        )
    if got[0] <= got[1]:
        raise Wrong("more examples must leave a smaller excess: are the two in the order 10, 300?")
    for name, value, (low, high) in zip(("ten", "three_hundred"), got, EXCESSES, strict=True):
        if not low <= value <= high:
            side = "small" if value < low else "large"
            raise Wrong(f"{name} is {value:.3g}, too {side}: 600 steps, lr 3e-3, batches of 256, the averaged weights?")
    return "What ten examples cannot say no number of steps will find; from there on steps learn the list."


EXCESSES = ((0.03, 1.0), (0.003, 0.1))
"""What other seeds and processors may make of the two."""
