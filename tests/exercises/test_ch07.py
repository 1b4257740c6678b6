"""Plausible wrong answers to chapter 7's exercises, and a phrase of what the check must say to each."""

import math

import torch

from sdelib.sde import VP


def parts(t):
    vp, time = VP(), torch.tensor(t, dtype=torch.float64)
    return float(vp.scale(time)), float(vp.std(time)), float(vp.g(time))


def variance_floor(v, t):
    scale, std, _ = parts(t)
    return scale**2 * v / (scale**2 * v + std**2)


def no_division(v, t):
    return parts(t)[2] ** 2 * variance_floor(v, t)


def no_scale(v, t):
    _, std, g = parts(t)
    return g**2 / std**2 * v / (v + std**2)


def silent(v, t):
    _, std, g = parts(t)
    return g**2 / std**2


def uniform_in_b(u):
    low, high = (0.1 * t + 9.95 * t**2 for t in (1e-3, 1.0))
    return (torch.sqrt(0.01 + 39.8 * (low + (high - low) * u)) - 0.1) / 19.9


WRONG = {
    "ex-7-floor": [
        (variance_floor, "the weight std²"),
        (no_division, "multiplied by g²/std²"),
        (no_scale, "where is the scale"),
        (silent, "0 everywhere"),
    ],
    "ex-7-times": [
        (lambda u: 1e-3 + 0.999 * u, "uniform times"),
        (lambda u: 1e-3 ** (1 - u), "uniform in log t"),
        (uniform_in_b, "uniform in B"),
        (lambda u: math.nan * u, "not a number"),
    ],
    "ex-7-hearing": [
        ((0.04, 0.16), "other way round"),
        ((0.25, 0.06), "not yet divided"),
        ((6.0, 25.0), "swapped"),
        ((1000.0, 4.0), "too large"),
    ],
    "ex-7-examples": [
        ((0.01, 0.06), "in the order"),
        ((0.6, 0.46), "floor of 0.45"),
        ((-1.0, 0.02), "above 0"),
        ((0.1, 0.00001), "too small"),
    ],
}
