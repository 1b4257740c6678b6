"""Plausible wrong answers to chapter 1's exercises, and a phrase of what the check must say to each."""

import math

STATIONARY = lambda step, std: std**2 / (1 - step / (2 * std**2))
LARGEST = lambda std: 2 * std**2

WRONG = {
    "ex-1-bias": [
        ((lambda step, std: std**2, LARGEST), "law's own variance"),
        ((lambda step, std: math.sqrt(STATIONARY(step, std)), LARGEST), "standard deviation"),
        ((lambda step, std: 1 / (1 - step / 2), LARGEST), "std = 1 only"),
        ((lambda step, std: STATIONARY(step, std) / 2, LARGEST), "adds 2 step"),
        ((lambda step, std: -STATIONARY(step, std), LARGEST), "wrong sign"),
        ((STATIONARY, lambda std: std**2), "negative; what matters is its size"),
        ((STATIONARY, lambda std: 2), "right for std = 1 only"),
        ((STATIONARY, 0.5), "must be a function"),
    ],
}
