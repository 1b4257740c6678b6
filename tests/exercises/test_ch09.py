"""Plausible wrong answers to chapter 9's exercises, and a phrase of what the check must say to each."""

import math

import pytest

from sdelib.exercises import judge
from sdelib.exercises.ch09 import _kl

WRONG = {
    "ex-9-bias": [
        (lambda r: 1 / (1 - r**2), "knows the crowd's width"),
        (lambda r: 1 / (1 - 2 * r**2), "if it is fixed"),
        (lambda r: 1 + 2 * r**2, "the shake has the variance"),
        (lambda r: 1 + 4 * r**4, "one step"),
        (lambda r: r**2, "the excess"),
        (lambda r: math.sqrt(1 + r**2), "standard deviation"),
        (lambda r: 1.0, "leaves a bias"),
    ],
    "ex-9-only": [
        (lambda r, low, high: math.log(high / low) / (2 * r**2), "short steps"),
        (lambda r, low, high: math.log(high / low) / r**2, "variance falls"),
        (lambda r, low, high: 4 * math.log(high / low) / r**2, "has a solution"),
        (lambda r, low, high: 2 * math.log(high / low) / r, "goes with r²"),
        (lambda r, low, high: 2 * high / low / r**2, "logarithm counts"),
    ],
    "ex-9-r": [
        (lambda n: 1.5, "between 0 and 1"),
        (lambda n: 0.3, "floor rules"),
        (lambda n: 0.05, "predictor's error rules"),
    ],
    "ex-9-order": [
        (lambda n, r: _kl(n, r), "rest first"),
        (lambda n, r: _kl(n, 1e-9, "box"), "predictor alone"),
    ],
}


@pytest.mark.parametrize(
    "answer",
    [
        lambda r, low, high: math.ceil(2 * math.log(high / low) / r**2),
        lambda r, low, high: 2 * math.log(high / low) / math.log1p(r**2),  # all orders of the recursion
    ],
)
def test_a_whole_number_and_all_orders_will_do(answer):
    assert judge("ex-9-only", answer).status == "right"
