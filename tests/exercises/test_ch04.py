"""Plausible wrong answers to chapter 4's exercises, and a phrase of what the check must say to each."""

import math

import torch


def moments(mean=1.0, variance=1.0, median=1.0):
    """The right moments, each with a factor that may depend on the game."""

    def three(mu, gamma, x0, t):
        m = x0 * math.exp(mu * t)
        right = (m, m**2 * math.expm1(gamma**2 * t), x0 * math.exp((mu - gamma**2 / 2) * t))
        factors = (k(gamma**2 * t) if callable(k) else k for k in (mean, variance, median))
        return tuple(r * k for r, k in zip(right, factors, strict=True))

    return three


def slope(y, v):
    return torch.autograd.grad(y.sum(), v, create_graph=True)[0]


def residual(noise=0.5, drift_sign=1.0, inside=True):
    def left_over(p, drift, g, x, t):
        x, t = x.clone().requires_grad_(), t.clone().requires_grad_()
        value = p(x, t)
        moved = slope(drift(x, t) * value, x) if inside else drift(x, t) * slope(value, x)
        return (slope(value, t) + drift_sign * moved - noise * g**2 * slope(slope(value, x), x)).detach()

    return left_over


def stake(x):
    return 1 + 0.5 * torch.sin(x)


def milstein(factor=0.5, minus=1.0):
    return lambda x, mu, gamma, dt, dw: x + mu * x * dt + gamma * x * dw + factor * gamma**2 * x * (dw**2 - minus * dt)


WRONG = {
    "ex-4-moments": [
        (moments(mean=lambda u: math.exp(u / 2)), "Stratonovich"),
        (moments(variance=lambda u: math.exp(u) / math.expm1(u)), "mean of x²"),
        (lambda mu, gamma, x0, t: (x0 * math.exp(mu * t), moments()(mu, gamma, 1.0, t)[1], x0), "x0² is missing"),
        (moments(median=lambda u: math.exp(u / 2)), "that is the mean"),
        (moments(median=lambda u: math.exp(-u / 2)), "has a 1/2"),
        (lambda mu, gamma, x0, t: x0 * math.exp(mu * t), "three numbers"),
    ],
    "ex-4-strat": [
        (lambda x: -x, "her drift"),
        (lambda x: -x - 0.25 * stake(x) * torch.cos(x), "sign of the correction"),
        (lambda x: -x + 0.5 * stake(x) * torch.cos(x), "has a 1/2"),
        (lambda x: 0.25 * stake(x) * torch.cos(x), "correction alone"),
    ],
    "ex-4-residual": [
        ((residual(noise=1.0), 0.67), "g² where g²/2"),
        ((residual(drift_sign=-1.0), 0.67), "drift term has the wrong sign"),
        ((residual(noise=-0.5), 0.67), "noise term has the wrong sign"),
        ((residual(inside=False), 0.67), "inside the derivative"),
        ((lambda p, drift, g, x, t: 0 * x, 0.67), "leaves something over"),
        ((lambda p, drift, g, x, t: residual()(p, drift, g, x, t) / p(x, t), 0.67), "over p"),
        ((residual(), 1.33), "g²/c"),
        ((residual(), 0.8), "too large"),
    ],
    "ex-4-milstein": [
        (milstein(factor=0.0), "Euler-Maruyama"),
        (milstein(minus=0.0), "dt is missing"),
        (milstein(factor=1.0), "half of"),
        (milstein(factor=-0.5), "sign is wrong"),
        (
            lambda x, mu, gamma, dt, dw: milstein()(x, mu, gamma, dt, dw) + mu * x * dt * (gamma * dw + 0.5 * mu * dt),
            "stops before them",
        ),
    ],
}
