"""Likely mistakes in chapter 11's exercises, and the words they must meet."""

import math

import torch

LN2 = math.log(2.0)


def symmetric(J):
    return (J + J.T) / 2


def right_variance(J, kind):
    S = symmetric(J)
    return 2 * (S**2).sum() - (2 * (S.diag() ** 2).sum() if kind == "signs" else 0.0)


def swapped(J, kind):
    return right_variance(J, "normal" if kind == "signs" else "signs")


def unsymmetric(J, kind):
    return 2 * (J**2).sum() - (2 * (J.diag() ** 2).sum() if kind == "signs" else 0.0)


def offset(levels, low, high):
    return math.log2(levels / (high - low))


def mend(figure, levels, low, high, bug):
    at = offset(levels, low, high)
    return {
        "no offset": figure + at,
        "unit range": figure - math.log2(levels) + at,
        "nats": (figure - at) / LN2 + at,
        "wide noise": figure - 1,
    }[bug]


def mends_but(wrong_bug, value):
    return lambda f, n, a, b, bug: value(f, n, a, b) if bug == wrong_bug else mend(f, n, a, b, bug)


def rise(sde, t_min, scaled=True):
    one, start = torch.tensor(1.0, dtype=torch.float64), torch.tensor(t_min, dtype=torch.float64)
    noise = lambda t: sde.std(t) / (sde.scale(t) if scaled else 1.0)
    return float(torch.log(noise(one) / noise(start)))


RIGHT = {
    "ex-11-probes": right_variance,
    "ex-11-bits": lambda p, d, n, a, b: -p / (d * LN2) + offset(n, a, b),
    "ex-11-bugs": mend,
    "ex-11-price": rise,
}

WRONG = {
    "ex-11-probes": [
        (swapped, "other kind of probe"),
        (unsymmetric, "symmetric part"),
        (lambda J, kind: right_variance(J, kind) / 2, "occurs twice"),
        (lambda J, kind: 2 * right_variance(J, kind), "the factor is 2"),
        (lambda J, kind: 2 * (J.diag() ** 2).sum(), "the diagonal alone"),
    ],
    "ex-11-bits": [
        (lambda p, d, n, a, b: -p / (d * LN2), "undo the scaling"),
        (lambda p, d, n, a, b: -p / (d * LN2) - offset(n, a, b), "wrong sign"),
        (lambda p, d, n, a, b: -p / (d * LN2) + math.log2(n), "belongs to data in [0, 1]"),
        (lambda p, d, n, a, b: -p / d + offset(n, a, b), "1.44 bits"),
        (lambda p, d, n, a, b: -p / (d * LN2) + LN2 * offset(n, a, b), "the offset is in nats"),
        (lambda p, d, n, a, b: -p / LN2 + d * offset(n, a, b), "the whole item"),
        (lambda p, d, n, a, b: -p / LN2 + offset(n, a, b), "number of dimensions"),
        (lambda p, d, n, a, b: -p / (d * LN2) + offset(n - 1, a, b), "not levels - 1"),
        (lambda p, d, n, a, b: p / (d * LN2) + offset(n, a, b), "minus the logarithm"),
    ],
    "ex-11-bugs": [
        (mends_but("no offset", lambda f, n, a, b: f - offset(n, a, b)), "add it"),
        (mends_but("no offset", lambda f, n, a, b: f + math.log2(n)), "offset of [0, 1]"),
        (mends_but("unit range", lambda f, n, a, b: f + math.log2(n) - offset(n, a, b)), "the other way round"),
        (mends_but("unit range", lambda f, n, a, b: f + offset(n, a, b)), "still in it"),
        (mends_but("unit range", lambda f, n, a, b: f - math.log2(n)), "is missing"),
        (mends_but("nats", lambda f, n, a, b: f / LN2), "the offset was right"),
        (mends_but("nats", lambda f, n, a, b: (f - offset(n, a, b)) * LN2 + offset(n, a, b)), "divide by ln 2"),
        (mends_but("nats", lambda f, n, a, b: (f - offset(n, a, b)) / LN2), "not put back"),
        (mends_but("wide noise", lambda f, n, a, b: f + 1), "came out too large"),
        (mends_but("wide noise", lambda f, n, a, b: f / 2), "a difference of bits"),
        (mends_but("wide noise", lambda f, n, a, b: f), "too large by something"),
    ],
    "ex-11-price": [
        (lambda sde, t: 2 * rise(sde, t), "the factor 1/2"),
        (lambda sde, t: -rise(sde, t), "cannot make the bound better"),
        (lambda sde, t: rise(sde, t, scaled=False), "noise over the picture"),
    ],
}
