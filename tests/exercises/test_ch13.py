"""Plausible wrong answers to chapter 13's exercises, and a phrase of what the check must say to each."""

import math

import torch


def told(mean, variance):
    return lambda sigma, rho, y: (mean(sigma, rho, y), variance(sigma, rho, y))


def right_mean(sigma, rho, y):
    return rho * y / (1 + sigma**2)


def right_variance(sigma, rho, y):
    return 1 + sigma**2 - rho**2 / (1 + sigma**2)


def pull(x, scale, std, y, sigma, m, v, *, doubt=1.0, slope=True, sign=1.0, own=True, power=2):
    total = scale**2 * v + std**2
    J, C = v * scale / total, v * std**2 / total
    gap = y - m - J * (x - scale * m)
    return sign * (J if slope else 1.0) * gap / (doubt * C + own * sigma**power)


def altered(**how):
    return lambda *args: pull(*args, **how)


def posterior(A, y, sigma, mean, cov, *, power=2, centred=True, front=True, minus=True, noise=True):
    S = A @ cov @ A.T + noise * sigma**power * torch.eye(len(A), dtype=cov.dtype)
    gain = cov @ A.T @ torch.linalg.inv(S)
    away = gain @ A @ cov
    return (mean if front else 0) + gain @ (y - (A @ mean if centred else 0)), cov - away if minus else away


def bayes(**how):
    return lambda *args: posterior(*args, **how)


WRONG = {
    "ex-13-witness": [
        (told(lambda s, r, y: r * y, right_variance), "the right law's mean"),
        (told(lambda s, r, y: r * y / (1 + s**2) ** 2, right_variance), "once is enough"),
        (told(lambda s, r, y: r * y / math.sqrt(1 + s**2), right_variance), "over standard deviation"),
        (told(lambda s, r, y: y / (1 + s**2), right_variance), "correlation is missing"),
        (told(right_mean, lambda s, r, y: 1 + s**2 - r**2), "the right law's variance"),
        (told(right_mean, lambda s, r, y: 1 - r**2), "at noise scale 0"),
        (told(right_mean, lambda s, r, y: 1 - r**2 / (1 + s**2)), "noisy, too"),
        (told(right_mean, lambda s, r, y: (1 + s**2) * (1 - r**2)), "weakens the correlation"),
        (told(right_mean, lambda s, r, y: math.sqrt(right_variance(s, r, y))), "standard deviation"),
        (
            told(right_mean, lambda s, r, y: right_variance(s, r, y) + (r * s / (1 + s**2)) ** 2),
            "averages out",
        ),
        (lambda s, r, y: right_mean(s, r, y), "two things"),
    ],
    "ex-13-calls": [
        (lambda calls: 1, "however many steps"),
        (lambda calls: 7, "divides"),
        (lambda calls: 2, "leave the bias"),
        (lambda calls: calls // 4, "predictor's error"),
        (lambda calls: calls, "nobody gets home"),
        (lambda calls: 2.5, "whole number"),
    ],
    "ex-13-pull": [
        (altered(doubt=0.0), "doubt about x(0) is missing"),
        (altered(slope=False), "slope of the mean is missing"),
        (altered(doubt=0.0, slope=False), "and the slope"),
        (altered(power=1), "not σ"),
        (altered(own=False), "measurement's own variance"),
        (altered(sign=-1.0), "the sign"),
        (lambda x, a, b, y, s, m, v: (a * y - x) / (b**2 + (a * s) ** 2), "through y(t)"),
    ],
    "ex-13-blur": [
        (bayes(front=False), "missing in front"),
        (bayes(centred=False), "taken from y"),
        (bayes(power=1), "not σ"),
        (bayes(noise=False), "error of the measurement is missing"),
        (bayes(minus=False), "takes away"),
        (lambda A, y, s, m, C: (posterior(A, y, s, m, C)[0], C), "prior's covariance"),
        (lambda A, y, s, m, C: m, "two things"),
    ],
}
