"""Plausible wrong answers to chapter 10's exercises, and a phrase of what the check must say to each."""

import math
from itertools import pairwise

import torch


def moments(m, v, t):
    left = math.exp(-(0.1 * t + 9.95 * t * t))
    return m * math.sqrt(left), v * left + 1 - left


def kl(m, v, mu, var):
    return 0.5 * ((v + (m - mu) ** 2) / var - 1 - math.log(v / var))


def right_velocity(D, k, s):
    return D + k**2 / 2 * s


def across(s):
    return torch.stack([s[:, 1], -s[:, 0]], 1)


def again(velocity, y, t, t_next, rounds):
    x = y
    for _ in range(rounds):
        x = y - (t_next - t) * velocity(x, torch.full((len(y),), t, dtype=y.dtype))
    return x


def solver(rule):
    """A loop around one step, rule(velocity, x, t, h)."""

    def run(velocity, x, times):
        for t, s in pairwise(times):
            x = rule(velocity, x, t.expand(len(x)), s - t)
        return x

    return run


def late(velocity, x, t, h):
    return x + h * velocity(x + h * velocity(x, t), t + h)


def stale(velocity, x, t, h):
    k = velocity(x, t)
    return x + h / 2 * (k + velocity(x + h * k, t))


def wasteful(velocity, x, t, h):
    return x + h / 2 * (velocity(x, t) + velocity(x + h * velocity(x, t), t + h))


WRONG = {
    "ex-10-keep": [
        (lambda m, v, t: kl(*moments(m, v, 1.0), 0.0, 1.0), "the other way round"),
        (lambda m, v, t: kl(0.0, 1.0, *moments(m, v, t)), "carried it to time t"),
        (lambda m, v, t: kl(*moments(m, v, t), 0.0, 1.0), "at time 1 only"),
        (lambda m, v, t: kl(0.0, 1.0, m, v), "with the data"),
        (lambda m, v, t: 0.0, "does not remove"),
        (lambda m, v, t: 0.5 * moments(m, v, 1.0)[0] ** 2 / moments(m, v, 1.0)[1], "the wrong mean alone"),
    ],
    "ex-10-members": [
        ((lambda D, k, s: D - k**2 / 2 * s, across), "runs backwards"),
        ((lambda D, k, s: D + k**2 * s, across), "half of k²"),
        ((lambda D, k, s: D + k / 2 * s, across), "not k"),
        ((lambda D, k, s: D, across), "k = 0 only"),
        ((right_velocity, lambda s: 0 * s), "0 everywhere"),
        ((right_velocity, lambda s: s), "along the score"),
        ((right_velocity, lambda s: across(s) / s.norm(dim=1, keepdim=True)), "not in proportion"),
        ((right_velocity, lambda s: s.flip(1)), "at right angles"),
        ((right_velocity, lambda s: s[:, 0]), "must have s's shape"),
    ],
    "ex-10-undo": [
        (lambda f, y, t, s: y - (s - t) * f(y, torch.full((len(y),), s, dtype=y.dtype)), "an Euler step back"),
        (lambda f, y, t, s: again(f, y, t, s, 1), "iterate"),
        (lambda f, y, t, s: again(f, y, t, s, 2), "stands still"),
        (lambda f, y, t, s: y + (s - t) * f(y, torch.full((len(y),), t, dtype=y.dtype)), "not one back"),
    ],
    "ex-10-heun": [
        (solver(lambda f, x, t, h: x + h * f(x, t)), "that is Euler"),
        (solver(lambda f, x, t, h: x + h * f(x + h / 2 * f(x, t), t + h / 2)), "midpoint rule"),
        (solver(stale), "at the end of the step"),
        (solver(late), "the mean of both"),
        (solver(wasteful), "two a step"),
        (lambda f, x, times: x, "has not moved"),
    ],
}
