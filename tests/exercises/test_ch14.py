"""Plausible wrong answers to chapter 14's exercises, and a phrase of what the check must say to each."""

import math


def numbers(c, out, heard):
    return 2 * (c + out) + 9 * c * out + 9 * out * out + 2 * out + heard * out + out + (c * out + out) * (c != out)


def factor(k):
    return 1 / math.sqrt(1 + k)


def share(k, n):
    return (1 + k) ** (-n)


WRONG = {
    "ex-14-count": [
        (lambda c, out, heard: numbers(c, out, heard) - (c * out + out) * (c != out), "1 × 1 convolution"),
        (lambda c, out, heard: numbers(c, out, heard) - 2 * (c + out), "two normalisations"),
        (lambda c, out, heard: numbers(c, out, heard) - heard * out - out, "dense layer"),
        (lambda c, out, heard: numbers(c, out, heard) + (c * out + out) * (c == out), "no shortcut"),
    ],
    "ex-14-branches": [
        ((lambda k: 1 / (1 + k), share), "factor of the variance"),
        ((lambda k: math.sqrt(0.5), share), "for one correction"),
        ((factor, lambda k, n: (1 + k) ** (-n / 2)), "share of the standard deviation"),
        ((factor, lambda k, n: 1 / (1 + k * n)), "without the factor"),
    ],
    "ex-14-leak": [
        (lambda taps: 0.1817 / 0.8183 if len(taps) == 2 else 0.0, "the ratio to what is below"),
        (lambda taps: 0.8183, "the share below"),
        (lambda taps: 1 - math.sqrt(0.5), "square of the response"),
        (lambda taps: math.nan, "not a number"),
    ],
    "ex-14-ablation": [
        ((0.9, 0.9), "the same to the last digit"),
        ((58.0, 57.0), "summed over 64 pixels"),
        ((math.nan, 0.9), "diverge"),
        ((0.9, 0.01), "somewhat below"),
    ],
}
