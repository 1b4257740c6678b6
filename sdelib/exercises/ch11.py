"""Graders of chapter 11: exact likelihood."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sdelib import VE, VP, SubVP
from sdelib.exercises import Wrong, grader, near
from sdelib.sde import SDE

_LN2 = math.log(2.0)


@grader("ex-11-probes", 'probe_variance(J, kind): the variance of v^T J v for probes of "signs" or "normal" numbers')
def probes(probe_variance: Callable[[Tensor, str], float]) -> str:
    """2 sum S_ij^2, without the diagonal for signs."""
    for size, seed in ((2, 0), (5, 1)):
        J = torch.randn((size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        S = (J + J.T) / 2
        full, diagonal, bare = (S**2).sum().item(), (S.diag() ** 2).sum().item(), (J**2).sum().item()
        for kind in ("signs", "normal"):
            part = diagonal if kind == "signs" else 0.0
            near(
                f'probe_variance(J, "{kind}") for a {size} x {size} matrix',
                probe_variance(J.clone(), kind),
                2 * (full - part),
                rtol=1e-9,
                traps=[
                    (2 * (bare - part), "that is right for a symmetric J; v^T J v sees the symmetric part of J alone"),
                    (
                        2 * full if kind == "signs" else 2 * (full - diagonal),
                        "that is the variance for the other kind of probe",
                    ),
                    (full - part, "each pair of coordinates occurs twice in v^T S v"),
                    (4 * (full - part), "with the sum over all i and j, not over i < j, the factor is 2"),
                    (2 * diagonal, "that is what the diagonal alone contributes"),
                ],
            )
    return "Signs read the diagonal for nothing; only what mixes coordinates makes them scatter."


@grader(
    "ex-11-bits", "bits(log_prob, dims, levels, low, high): bits per dimension of integers from a log-density in nats"
)
def bits(bits: Callable[[float, int, int, float, float], float]) -> str:
    """-log_prob / (D ln 2) + log2(L / (high - low))."""
    for log_prob, dims, levels, low, high in (
        (-130.0, 64, 17, -1.0, 1.0),
        (5000.0, 3072, 256, 0.0, 1.0),
        (3.0, 2, 8, 0.0, 4.0),
    ):
        bare, squeeze = -log_prob / (dims * _LN2), levels / (high - low)
        near(
            f"bits({log_prob}, {dims}, {levels}, {low}, {high})",
            bits(log_prob, dims, levels, low, high),
            bare + math.log2(squeeze),
            rtol=1e-9,
            traps=[
                (bare, "that is the density's own figure; undo the scaling"),
                (bare - math.log2(squeeze), "the offset has the wrong sign: squeezing makes a density larger"),
                (bare + math.log2(levels), "that offset belongs to data in [0, 1]"),
                (-log_prob / dims + math.log2(squeeze), "log_prob is in nats; a nat is 1.44 bits"),
                (bare + math.log(squeeze), "the offset is in nats, the rest in bits"),
                (
                    -log_prob / _LN2 + dims * math.log2(squeeze),
                    "those are the bits of the whole item, not of a dimension",
                ),
                (-log_prob / _LN2 + math.log2(squeeze), "divide by the number of dimensions"),
                (bare + math.log2((levels - 1) / (high - low)), "k + u runs over levels, not levels - 1, cells"),
                (-bare + math.log2(squeeze), "bits count how improbable an item is: minus the logarithm"),
            ],
        )
    return "Eight bits for a byte of which nothing is known, in whatever range it was scaled to."


@grader("ex-11-bugs", "mend(figure, levels, low, high, bug): what should have been printed")
def bugs(mend: Callable[[float, int, float, float, str], float]) -> str:
    """Undo each mistake for the bare term, then add the right offset."""
    for figure, levels, low, high in ((3.0, 256, -1.0, 1.0), (2.2, 17, -1.0, 1.0), (4.1, 32, 0.0, 4.0)):
        offset, unit = math.log2(levels / (high - low)), math.log2(levels)
        truth = {
            "no offset": figure + offset,
            "unit range": figure - unit + offset,
            "nats": (figure - offset) / _LN2 + offset,
            "wide noise": figure - 1.0,
        }
        traps = {
            "no offset": [
                (figure - offset, "the offset was forgotten: add it"),
                (figure + unit, "that is the offset of [0, 1]"),
            ],
            "unit range": [
                (figure + unit - offset, "take the wrong offset away and add the right one, not the other way round"),
                (figure + offset, "the wrong offset is still in it"),
                (figure - unit, "the right offset is missing"),
            ],
            "nats": [
                (figure / _LN2, "only the first term was in nats; the offset was right"),
                ((figure - offset) * _LN2 + offset, "a nat is more than a bit: divide by ln 2"),
                ((figure - offset) / _LN2, "the offset was taken away and not put back"),
            ],
            "wide noise": [
                (figure + 1.0, "the density is half as high, so the figure came out too large"),
                (figure / 2.0, "a factor of the density is a difference of bits"),
                (figure, "the figure is too large by something"),
            ],
        }
        for bug, value in truth.items():
            asked = f'mend({figure}, {levels}, {low}, {high}, "{bug}")'
            near(asked, mend(figure, levels, low, high, bug), value, rtol=1e-9, traps=traps[bug])
    return "A wrong offset shifts every figure by the same amount; nats for bits stretch them."


@grader(
    "ex-11-price",
    "price(sde, t_min): nats of the bound for each unit of squared distance from the best guess of the noise",
)
def price(price: Callable[[SDE, float], float]) -> str:
    """Half of the rise of log(std^2/scale^2)."""
    for sde, t_min in ((VP(), 1e-3), (SubVP(), 1e-2), (VE(), 1e-5)):
        start, end = torch.tensor(t_min, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
        noise = lambda t: float(torch.log(sde.std(t) / sde.scale(t)))  # noqa: B023, E731
        std = lambda t: float(torch.log(sde.std(t)))  # noqa: B023, E731
        rise = noise(end) - noise(start)
        name = f"price({type(sde).__name__}(), {t_min:g})"
        got = price(sde, t_min)
        traps = [
            (2 * rise, "mind the factor 1/2 in front of the integral"),
            (-rise, "the noise over the picture grows with time; an error cannot make the bound better"),
        ]
        if abs(std(end) - std(start) - rise) > 1e-6:
            traps.append((std(end) - std(start), "the picture shrinks too: noise over the picture, std/scale"))
        near(name, got, rise, rtol=1e-4, traps=traps)
    if float(price(VP(), 1e-5)) <= float(price(VP(), 1e-3)):
        raise Wrong("price must grow as t_min falls: more noise levels, more chances to err.")
    return "What counts is the range of noise, not the clock on the wall."
