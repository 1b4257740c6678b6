"""Plausible wrong answers to chapter 1's exercises, and a phrase of what the check must say to each."""

import math

import torch

from sdelib import Gaussian

stationary = lambda step, std: std**2 / (1 - step / (2 * std**2))
largest = lambda std: 2 * std**2


def mala(law, x, step, n, generator, *, factor=4, heights=1, proposals=1, at="y", refuse=True, share=1.0):
    """The right answer, and by its switches the wrong ones."""
    accepted = 0.0
    for _ in range(n):
        noise = torch.randn(x.shape, generator=generator)
        y = x + step * law.score(x) + math.sqrt(2 * step) * noise
        back = x - y - step * law.score(y if at == "y" else x)
        log_ratio = heights * (law.log_prob(y) - law.log_prob(x))
        log_ratio = log_ratio + proposals * (0.5 * (noise**2).sum(1) - (back**2).sum(1) / (factor * step))
        yes = (torch.rand(len(x), generator=generator).log() < log_ratio) | (not refuse)
        x = torch.where(yes[:, None], y, x)
        accepted += yes.double().mean().item() / n
    return x, accepted * share


def with_switch(**switches):
    return lambda *arguments: mala(*arguments, **switches)


def dropping(law, x, step, n, generator):
    x, accepted = mala(law, x, step, n, generator)
    return x[: int(accepted * len(x))], accepted


score = lambda x: -4 * x / (3 + x**2)
BEYOND = 50_000 * 2 * 0.5 * (1 - 2 / math.pi * (math.sqrt(3) * 10 / 103 + math.atan(10 / math.sqrt(3))))

WRONG = {
    "ex-1-bias": [
        ((lambda step, std: std**2, largest), "law's own variance"),
        ((lambda step, std: math.sqrt(stationary(step, std)), largest), "standard deviation"),
        ((lambda step, std: 1 / (1 - step / 2), largest), "std = 1 only"),
        ((lambda step, std: stationary(step, std) / 2, largest), "adds 2 step"),
        ((lambda step, std: -stationary(step, std), largest), "wrong sign"),
        ((stationary, lambda std: std**2), "negative; what matters is its size"),
        ((stationary, lambda std: 2), "right for std = 1 only"),
        ((stationary, 0.5), "must be a function"),
    ],
    "ex-1-mala": [
        (with_switch(refuse=False), "every proposal seems to be accepted"),
        (with_switch(at="x"), "uses the score at x in place of y"),
        (with_switch(proposals=0), "seems to lack q"),
        (with_switch(proposals=-1), "exchanged"),
        (with_switch(heights=-1), "too large"),
        (with_switch(factor=2), "divided by 4 step"),
        (with_switch(share=60), "divide by n"),
        (with_switch(share=4000), "over the walkers"),
        (dropping, "stays where it was"),
        (lambda *arguments: mala(*arguments)[0], "two are wanted"),
    ],
    "ex-1-student": [
        ((lambda x: -x, 106, 750), "score of N(0, 1)"),
        ((lambda x: -score(x), 106, 750), "wrong sign"),
        ((lambda x: -2 / (1 + x**2 / 3), 106, 750), "derivative of x²/ν"),
        ((lambda x: -3 * x / (3 + x**2), 106, 750), "(ν + 1)/2"),
        ((score, BEYOND / 2, 750), "both tails"),
        ((score, 18, 750), "have not found the tails"),
        ((score, BEYOND / 50_000, 750), "probability"),
        ((score, BEYOND, 700), "shakes add 2"),
        ((score, BEYOND, 27.4), "square root"),
        ((score, BEYOND, 900), "have not moved"),
    ],
    "ex-1-mixing": [
        ((8.58, ...), "half of the walkers"),
        ((9.65, ...), "1,000 steps of 0.05"),
        ((8.34, ...), "weights"),
        ((5.7, ...), "one τ"),
        ((4.1, ...), "d is the whole way"),
        ((8.23, 4.1), "d is the whole way"),
        ((8.23, 9.0), "too large"),
    ],
}


def test_the_right_ones_are_right():
    assert abs(BEYOND - 106.0) < 1
    law = Gaussian(0.0, 1.0)
    assert mala(law, torch.zeros(10, 1), 1.0, 5, torch.Generator().manual_seed(0))[0].shape == (10, 1)
