"""Plausible wrong answers to chapter 8's exercises, and a phrase of what the check must say to each."""

import math

import torch


def means(beta, h, x, s):
    """The ancestral mean and Euler-Maruyama's."""
    up = math.exp(beta * h / 2)
    return up * x + (up - 1 / up) * s, (1 + beta * h / 2) * x + beta * h * s


def right(beta, h, x, s):
    ancestral, euler = means(beta, h, x, s)
    return ancestral - euler


def root(power):
    return lambda n: torch.linspace(1, 1e-3 ** (1 / power), n + 1, dtype=torch.float64) ** power


total = lambda s, sigma: s**2 + sigma**2
guess = lambda s, sigma: s**4 / total(s, sigma)

WRONG = {
    "ex-8-reverse-diffusion": [
        (lambda x, s, k, mu, b: x + k * (mu - x) + b**2 * s, "forward with the drift"),
        (lambda x, s, k, mu, b: x - k * (mu - x) + b * s, "squared noise"),
        (lambda x, s, k, mu, b: x - k * (mu - x) - b**2 * s, "wrong sign"),
        (lambda x, s, k, mu, b: x - k * (mu - x) + b**2 * s / 2, "belongs to the flow"),
        (lambda x, s, k, mu, b: x + k * x + b**2 * s, "mu = 0 only"),
        (lambda x, s, k, mu, b: (x - k * mu + b**2 * s) / (1 - k), "ancestral mean"),
        (lambda x, s, k, mu, b: x - k * (mu - x), "score is missing"),
    ],
    "ex-8-limit": [
        ((lambda beta, h, x, s: -right(beta, h, x, s), 2), "minus ancestral"),
        ((lambda beta, h, x, s: means(beta, h, x, s)[0], 2), "subtract Euler-Maruyama"),
        ((lambda beta, h, x, s: right(beta, h, x, s) + beta * h * x, 2), "takes the drift away"),
        ((lambda beta, h, x, s: right(beta, h, x, s) + beta * h * s, 2), "has the score, too"),
        ((lambda beta, h, x, s: x + (1 - math.exp(-beta * h)) * s - means(beta, h, x, s)[1], 2), "divide by a"),
        (
            (lambda beta, h, x, s: x * math.exp(beta * h) + math.expm1(beta * h) * s - means(beta, h, x, s)[1], 2),
            "not by a²",
        ),
        ((lambda beta, h, x, s: beta**2 * h**2 * x / 8, 2), "leading term"),
        ((right, 1), "one power is used up"),
        ((right, 3), "score's part"),
    ],
    "ex-8-last": [
        (lambda s, sigma: total(s, sigma), "three numbers"),
        (lambda s, sigma: (total(s, sigma), guess(s, sigma)), "three numbers"),
        (lambda s, sigma: (s**2, guess(s, sigma) + sigma**2, guess(s, sigma)), "noise is still on"),
        (lambda s, sigma: (total(s, sigma) ** 0.5, guess(s, sigma) + sigma**2, guess(s, sigma)), "standard deviation"),
        (lambda s, sigma: (total(s, sigma), guess(s, sigma) + sigma**2, s**2 / total(s, sigma)), "factor in front"),
        (
            lambda s, sigma: (total(s, sigma), guess(s, sigma) + sigma**2, guess(s, sigma) / total(s, sigma)),
            "own variance",
        ),
        (
            lambda s, sigma: (total(s, sigma), guess(s, sigma) + sigma**2, (s * sigma) ** 2 / total(s, sigma)),
            "leaves out",
        ),
        (lambda s, sigma: (total(s, sigma), guess(s, sigma), guess(s, sigma) + sigma**2), "that is the second"),
        (lambda s, sigma: (total(s, sigma), guess(s, sigma), guess(s, sigma)), "kick of variance"),
        (lambda s, sigma: (total(s, sigma), s**2, guess(s, sigma)), "true variance"),
    ],
    "ex-8-grid": [
        (lambda n: torch.linspace(1, 1e-3, n), "51 times"),
        (lambda n: torch.linspace(1e-3, 1, n + 1), "must fall"),
        (lambda n: torch.linspace(1, 0, n + 1), "from 1 to 0.001"),
        (root(1), "thin direction"),
        (root(3), "thin direction"),
        (lambda n: torch.cat([torch.ones(1), torch.logspace(math.log10(0.02), -3, n)]), "thick direction"),
    ],
}
