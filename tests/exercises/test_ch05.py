"""Plausible wrong answers to chapter 5's exercises, and a phrase of what the check must say to each."""

import math

import pytest
import torch

from sdelib.exercises import judge

u = lambda B: -math.expm1(-B)
SHAKE = lambda beta, B, p: beta * u(B) ** (p - 1) * (1 + (p - 1) * math.exp(-B))
ANGLE = lambda t: math.pi / 2 * (t + 0.008) / 1.008
BETA = lambda t: math.pi / 1.008 * math.tan(ANGLE(t))
EVEN = 0.49604986
ENOUGH = lambda D: 2 * math.log(D * 0.125 / 1e-6) - 0.1

WRONG = {
    "ex-5-gentler": [
        ((lambda beta, B, p: beta * p * u(B) ** (p - 1) * math.exp(-B)), "the drift takes β v away"),
        ((lambda beta, B, p: beta * (p * u(B) ** (p - 1) * math.exp(-B) - u(B) ** p)), "check the sign"),
        ((lambda beta, B, p: math.sqrt(SHAKE(beta, B, p))), "g, not its square"),
        ((lambda beta, B, p: beta * (1 - math.exp(-2 * B))), "p = 2 only"),
        ((lambda beta, B, p: beta * (1 - math.exp(-2 * B)) ** (p - 1)), "do not take the power"),
        ((lambda beta, B, p: beta * (1 - torch.exp(-2 * B)) ** (p - 1)), "do not take the power"),
        ((lambda beta, B, p: p * u(B) ** (p - 1) * math.exp(-B) + beta * u(B) ** p), "B' = β"),
    ],
    "ex-5-cosine": [
        ((lambda t: BETA(t) / 2, EVEN), "the rate of the scale"),
        ((lambda t: -BETA(t) / 2, EVEN), "that is f"),
        ((lambda t: 2 * math.tan(ANGLE(t)), EVEN), "angle's own derivative"),
        ((BETA, 0.496), "six decimals"),
        ((BETA, 2 * 1.008 / 3 - 0.008), "t_even"),
        ((BETA, 0.5), "without the shift"),
    ],
    "ex-5-enough": [
        ((lambda D: ENOUGH(1)), "gaps of independent pixels add up"),
        ((lambda D: ENOUGH(math.sqrt(D))), "not √D times"),
        ((lambda D: ENOUGH(D) + 0.1), "subtract β_min"),
        ((lambda D: ENOUGH(2 * D)), "factor 1/2"),
        ((lambda D: round(ENOUGH(D), 1)), "three decimals"),
    ],
    "ex-5-clock": [
        ((lambda N: torch.logspace(-2, 2, N, dtype=torch.float64)), "VE's clock"),
        ((lambda N: torch.linspace(0.01, 100, N, dtype=torch.float64)), "0.002 is the mark"),
        ((lambda N: torch.logspace(2, -2, N, dtype=torch.float64)), "must ascend"),
        ((lambda N: torch.logspace(-2, 2, N + 1, dtype=torch.float64)), "50 numbers"),
        ((lambda N: 0.5 * torch.tan(torch.linspace(0.02, 1.56, N, dtype=torch.float64))), "between the same ends"),
    ],
}


@pytest.mark.parametrize(
    "label, answers",
    [
        ("ex-5-gentler", ((lambda beta, B, p: SHAKE(beta, B, p)),)),
        ("ex-5-gentler", ((lambda beta, B, p: beta * torch.expm1(-B).abs() ** (p - 1) * (1 + (p - 1) * (-B).exp())),)),
        ("ex-5-cosine", (BETA, EVEN)),
        ("ex-5-cosine", ((lambda t: math.pi / 1.008 * torch.tan(ANGLE(t))), EVEN)),
        ("ex-5-cosine", ((lambda t: math.pi / 1.008 * ANGLE(t).tan()), torch.tensor(EVEN))),
    ],
)
def test_an_answer_may_be_written_in_plain_numbers_or_in_torch(label, answers):
    verdict = judge(label, *answers)
    assert verdict.status == "right", verdict.text
