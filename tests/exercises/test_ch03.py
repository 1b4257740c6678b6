"""Plausible wrong answers to chapter 3's exercises, and a phrase of what the check must say to each."""

import math

import torch

from sdelib import ddpm, linear_betas
from sdelib.exercises.ch03 import _alphas as alphas
from sdelib.exercises.ch03 import _end as end
from sdelib.exercises.ch03 import _solve as solve


def mean(x, score, alpha_j, alpha_i, *, sign=1, power=1.0, undo=-1):
    a, b2 = (alpha_i / alpha_j) ** 0.5, 1 - alpha_i / alpha_j
    return (x + sign * b2**power * score) * a**undo


variance = lambda j, i: (1 - i / j) * (1 - j) / (1 - i)
FINAL = end(alphas(1000)[::20], 1.0)

x0 = lambda x, v, scale, std: scale * x - std * v
noise = lambda x, v, scale, std: std * x + scale * v


def betas(offset=0.008, power=2):
    f = torch.cos(math.pi / 2 * (torch.arange(1001, dtype=torch.float64) / 1000 + offset) / (1 + offset)) ** power
    return (1 - f[1:] / f[:-1]).clamp_max(0.999)


alpha = torch.tensor(alphas(1000), dtype=torch.float64)
V = 0.25 * alpha + 1 - alpha
beta = linear_betas(1000)
posterior = beta * (1 - alpha[:-1]) / (1 - alpha[1:])
theta = (beta * V[:-1] / V[1:] - posterior) / (beta - posterior)
best = lambda N: solve(alphas(N))

WRONG = {
    "ex-3-skip": [
        ((lambda *a: mean(*a, sign=-1), variance, FINAL), "the score is added"),
        ((lambda *a: mean(*a, undo=1), variance, FINAL), "divide by a"),
        ((lambda *a: mean(*a, undo=0), variance, FINAL), "division by a is missing"),
        ((lambda *a: mean(*a, power=0.5), variance, FINAL), "not by b"),
        ((mean, lambda j, i: 1 - i / j, FINAL), "forward variance"),
        ((mean, lambda j, i: (1 - i / j) * (1 - i) / (1 - j), FINAL), "upside down"),
        ((mean, lambda j, i: variance(j, i) ** 0.5, FINAL), "square root"),
        ((mean, variance, 0.26619), "only 50 levels"),
        ((mean, variance, end(alphas(1000)[::20], 0.0)), "posterior variance"),
        ((mean, variance, end(alphas(1000)[::20], 1.0, keep_last=True)), "denoise=True"),
    ],
    "ex-3-dialects": [
        ((lambda x, v, scale, std: scale * x + std * v, noise, 157, 100), "carries a minus"),
        ((x0, lambda x, v, scale, std: std * x - scale * v, 157, 100), "check the sign"),
        ((noise, x0, 157, 100), "the other of the two"),
        ((x0, noise, 0.00635, 100), "one over"),
        ((x0, noise, 100, 157), "divides by scale"),
        ((x0, noise, 157.4, 157.4), "divides by std"),
    ],
    "ex-3-cosine": [
        ((betas(), 0.465, 0.151), "where a chain is wanted"),
        ((ddpm(betas(offset=0.0)), 0.465, 0.151), "0.008 is missing"),
        ((ddpm(betas(power=1)), 0.465, 0.151), "square of the cosine"),
        ((ddpm(linear_betas(1000)), 0.465, 0.151), "linear table"),
        ((ddpm(betas()), 465, 0.151), "count of levels"),
        ((ddpm(betas()), 0.535, 0.151), "above 1"),
        ((ddpm(betas()), 0.151, 0.465), "other table"),
        ((ddpm(betas()), 0.465, 15.1), "percent"),
    ],
    "ex-3-between": [
        ((lambda N: 1 - best(N), theta), "forward variance's share"),
        ((lambda N: 0.0, theta), "lower end"),
        ((lambda N: solve(alphas(N), keep_last=True), theta), "last step adds no noise"),
        ((best, 1 - theta), "forward variance's share"),
        ((best, theta.flip(0)), "from level 1,000 down"),
        ((best, V[:-1] / V[1:]), "between the two"),
        ((best, theta[1:]), "shape (999,)"),
    ],
}


def test_the_walk_back_is_the_chapters():
    assert abs(end(alphas(50), 1.0) - 0.26619) < 1e-5
    assert abs(FINAL - 0.26186) < 1e-5
    assert abs(best(25) - 0.713) < 1e-3
