"""Plausible wrong answers to chapter 6's exercises, and a phrase of what the check must say to each."""

import torch


def vector(first, second):
    """A constant vector at every point, or one made of x₁."""

    def spread(x):
        return torch.stack([f(x[:, 0]) if callable(f) else torch.full_like(x[:, 0], f) for f in (first, second)], 1)

    return spread


WRONG = {
    "ex-6-last-steps": [
        (lambda t, h: t - h, "the step misses it"),
        (lambda t, h: t * (1 - h / t) ** 2, "the fresh kick is missing"),
        (lambda t, h: t * (1 - h / t) + h, "multiplied by c²"),
        (lambda t, h: t * (1 + h / t) ** 2 + h, "the factor is below 1"),
        (lambda t, h: t * (1 - h / (2 * t)) ** 2 + h, "not a half"),
        (lambda t, h: (t - h + h**2 / t) ** 0.5, "standard deviation"),
        (lambda t, h: h**2 / (t * (t - h)), "the fraction"),
        (lambda t, h: h**2 / t, "the excess"),
    ],
    "ex-6-trade": [
        (lambda f, g, k, s: f - (g**2 + k**2) / 2 * s, "time running backwards"),
        (lambda f, g, k, s: f + (g**2 - k**2) / 2 * s, "wrong sign"),
        (lambda f, g, k, s: f - (g**2 - k**2) * s, "half of"),
        (lambda f, g, k, s: f - (g - k) ** 2 / 2 * s, "variances are traded"),
        (lambda f, g, k, s: f - g**2 / 2 * s, "k = 0 only"),
        (lambda f, g, k, s: f, "k = g only"),
    ],
    "ex-6-banana": [
        (vector(1.0, 0.0), "rows are exchanged"),
        (vector(0.0, 0.0), "not constant"),
        (vector(0.0, lambda x: 1 + 2 * x), "by x₂"),
        (vector(0.0, lambda x: 2 * x), "only the diagonal"),
        (vector(1.0, lambda x: 2 * x), "column j"),
        (vector(0.0, 0.5), "no half"),
        (lambda x: torch.tensor([0.0, 1.0]), "shape"),
    ],
    "ex-6-eta": [
        (lambda n: 1.5, "between 0 and 1"),
        (lambda n: 0.9, "less noise"),
        (lambda n: 0.1, "more noise"),
    ],
}
