"""Graders of chapter 12: codes."""

import math
from collections.abc import Callable
from statistics import NormalDist

import torch
from torch import Tensor

from sdelib.exercises import Wrong, grader, near

_NORMAL = NormalDist()


@grader(
    "ex-12-temperature",
    "left_share(w, tau): the share that ends in the left hill when all codes are multiplied by tau",
    "tempered_share(w, tau): the left hill's share under the law in proportion to p^(1/tau²)",
)
def temperature(left_share: Callable[[float, float], float], tempered_share: Callable[[float, float], float]) -> str:
    """Phi(Phi^-1(w) / tau); w^k / (w^k + (1 - w)^k) with k = 1/tau^2."""
    for w, tau in ((0.7, 0.5), (0.3, 0.75), (0.6, 1.25)):
        c, power = _NORMAL.inv_cdf(w), 1 / tau**2
        tempered = w**power / (w**power + (1 - w) ** power)
        near(
            f"left_share({w}, {tau})",
            left_share(w, tau),
            _NORMAL.cdf(c / tau),
            atol=1e-6,
            traps=[
                (w, "that is the share of the data; the watershed stays where it is, and the codes move"),
                (_NORMAL.cdf(c * tau), "that moves the watershed inwards with the codes"),
                (_NORMAL.cdf(-c / tau), "that is the right hill's share"),
                (_NORMAL.cdf(c / tau**2), "codes are multiplied by tau, not by its square"),
                (tempered, "that is the tempered law's share"),
                (c / tau, "that is the place of the watershed among the unscaled codes; which share lies left of it?"),
            ],
        )
        near(
            f"tempered_share({w}, {tau})",
            tempered_share(w, tau),
            tempered,
            atol=1e-6,
            traps=[
                (w**power, "the two shares must have the sum 1"),
                (w ** (1 / tau) / (w ** (1 / tau) + (1 - w) ** (1 / tau)), "the power is 1/tau², not 1/tau"),
                (w**tau / (w**tau + (1 - w) ** tau), "the power is 1/tau²: cold means a large power"),
                (w ** (tau**2) / (w ** (tau**2) + (1 - w) ** (tau**2)), "the power is 1/tau², not tau²"),
                (_NORMAL.cdf(c / tau), "that is what scaling the codes does"),
            ],
        )
    return "One counts codes, the other weighs probabilities."


@grader(
    "ex-12-shell",
    "straight_length(u): length of (1 - u) a + u b over √D for two independent codes in high dimensions",
    "walk_between(a, b, u): a mixture of a and b that is N(0, I) for each u if both are",
)
def shell(straight_length: Callable[[float], float], walk_between: Callable[[Tensor, Tensor, float], Tensor]) -> str:
    """sqrt((1 - u)^2 + u^2); the straight mixture divided by it, or other weights whose squares have the sum 1."""
    for u in (0.5, 0.2, 0.9):
        square = (1 - u) ** 2 + u**2
        near(
            f"straight_length({u})",
            straight_length(u),
            math.sqrt(square),
            rtol=1e-9,
            traps=[
                (square, "that is the mean square of a coordinate; its root is wanted"),
                (1.0, "lengths do not add like that: independent directions are at right angles"),
                (1 / math.sqrt(square), "that is the factor which would repair the length"),
            ],
        )
    rows = torch.cat([torch.eye(4, dtype=torch.float64), torch.tensor([[2.0, -1.0, 0.5, 3.0]], dtype=torch.float64)])
    one, other = rows[:, None, :2], rows[:, None, 2:]
    for u in (0.0, 0.2, 0.5, 0.9, 1.0):
        got = torch.as_tensor(walk_between(one.clone(), other.clone(), u))
        if got.shape != one.shape:
            raise Wrong(f"walk_between(a, b, {u}) must have a's shape {tuple(one.shape)}, got {tuple(got.shape)}.")
        if not bool(torch.isfinite(got).all()):
            raise Wrong(
                f"walk_between(a, b, {u}) is not finite for some a and b: does it divide by a length or an angle?"
            )
        alpha, beta = float(got[0, 0, 0]), float(got[2, 0, 0])
        if not torch.allclose(got.double(), alpha * one + beta * other, atol=1e-9):
            raise Wrong(f"walk_between(a, b, {u}) is not linear in a and b: the weights must depend on u alone.")
        for end, pair in ((0.0, (1.0, 0.0)), (1.0, (0.0, 1.0))):
            if u == end and max(abs(alpha - pair[0]), abs(beta - pair[1])) > 1e-9:
                raise Wrong(f"walk_between(a, b, {u}) must be {'ab'[int(u)]}, and is {alpha:.3g} a + {beta:.3g} b.")
        size = alpha**2 + beta**2
        if abs(size - 1) > 1e-9:
            straight = abs(alpha - (1 - u)) < 1e-9 and abs(beta - u) < 1e-9
            square = (1 - u) ** 2 + u**2
            over = abs(alpha - (1 - u) / square) < 1e-9
            why = (
                "it is the straight mixture, unrepaired"
                if straight
                else "divide by the root of the sum of squares, not by the sum"
                if over
                else "it must be 1"
            )
            raise Wrong(f"walk_between(a, b, {u}) has the variance {size:.4g} a coordinate: {why}.")
        turned = abs(alpha - math.cos(math.pi / 2 * u)) < 1e-9 and abs(beta - math.sin(math.pi / 2 * u)) < 1e-9
        if turned and u not in (0.0, 0.5, 1.0):
            raise Wrong(f"walk_between(a, b, {u}) is the quarter turn: right, and not what is asked; find another.")
    return "Any weights whose squares have the sum 1 stay on the shell."


@grader(
    "ex-12-seeds",
    "beyond(x, a, b): correlation of what is left of two codes when the best affine functions of x are subtracted",
)
def seeds(beyond: Callable[[Tensor, Tensor, Tensor], float]) -> str:
    """Least squares with a constant, then the correlation of all remaining numbers."""
    g = torch.Generator().manual_seed(12)
    x = torch.randn((60, 3), generator=g, dtype=torch.float64) + 2.0
    bent = torch.sin(3 * x)
    noise = torch.randn((2, 60, 3), generator=g, dtype=torch.float64)
    mix = torch.randn((2, 3, 3), generator=g, dtype=torch.float64)
    a, b = (x @ mix[k] + 5.0 + bent + 0.6 * noise[k] for k in (0, 1))

    def rest(c: Tensor, columns: Tensor) -> Tensor:
        return c - columns @ torch.linalg.lstsq(columns, c).solution

    def all_numbers(p: Tensor, q: Tensor) -> float:
        return float((p * q).sum() / (p.norm() * q.norm()))

    def centred(p: Tensor) -> Tensor:
        return p - p.mean(0)

    ones = torch.cat([x, torch.ones(60, 1, dtype=torch.float64)], 1)
    ra, rb = rest(a, ones), rest(b, ones)
    columnwise = float(((ra * rb).sum(0) / (ra.norm(dim=0) * rb.norm(dim=0))).mean())
    near(
        "beyond(x, a, b)",
        beyond(x.clone(), a.clone(), b.clone()),
        all_numbers(ra, rb),
        atol=1e-6,
        traps=[
            (all_numbers(centred(a), centred(b)), "that is the correlation of the whole codes: nothing was subtracted"),
            (all_numbers(a, b), "that is the cosine of the whole codes: nothing was subtracted, not even the means"),
            (all_numbers(rest(a, x), rest(b, x)), "an affine function has a constant, too: put a column of ones beside x"),
            (all_numbers(centred(rest(a, x)), centred(rest(b, x))), "fit slopes and constant together, ones beside x"),
            (all_numbers(ra, centred(b)), "that subtracts the affine part from a alone"),
            (all_numbers(rest(a, torch.cat([ones, b], 1)), rb), "b is not to be explained by a, only each of them by x"),
            (all_numbers(a - x, b - x), "that subtracts x itself, not the best affine function of it"),
            (columnwise, "that is the mean of the coordinates' correlations; take all numbers together"),
            (all_numbers(ra, rb) ** 2, "that is the square of the correlation"),
        ],
    )  # fmt: skip
    return "What any model would have found has been taken out."


def _root(m: Tensor) -> Tensor:
    """The symmetric root of the inverse."""
    values, vectors = torch.linalg.eigh(m)
    return vectors @ values.rsqrt().diag() @ vectors.mT


@grader(
    "ex-12-breaks",
    "code_matrix(C, K): the matrix A of the code z = A x of N(0, C) under noise with covariance ρ² K, for large ρ",
)
def breaks(code_matrix: Callable[[Tensor, Tensor], Tensor]) -> str:
    """(K^-1/2 C K^-1/2)^-1/2 K^-1/2."""
    pairs = (
        ([[2.0, 0.6], [0.6, 0.5]], [[1.0, 0.3], [0.3, 0.4]]),
        ([[1.0, -0.4, 0.2], [-0.4, 1.5, 0.3], [0.2, 0.3, 0.7]], [[4.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 0.3]]),
    )
    for c, k in pairs:
        C, K = torch.tensor(c, dtype=torch.float64), torch.tensor(k, dtype=torch.float64)
        units = _root(K)
        inner = units @ C @ units
        right = _root(inner) @ units
        near(
            "code_matrix(C, K)",
            code_matrix(C.clone(), K.clone()),
            right,
            atol=1e-6,
            traps=[
                (_root(C), "that is the code under round noise"),
                (_root(inner), "that is the code of y = K^(-1/2) x; what is it in terms of x?"),
                (units @ _root(inner), "the units are changed first: K^(-1/2) acts on x, then the whitening"),
                    (_root(C) @ units, "C is the covariance of x; whiten that of K^(-1/2) x"),
                (torch.linalg.inv(right), "that is its inverse, which decodes"),
                (torch.linalg.inv(torch.linalg.cholesky(C)), "that whitens, but it is Cholesky's factor and knows nothing of K"),
                (_root(K @ C @ K) @ K, "y = K^(-1/2) x: the noise is divided out, not multiplied in"),
            ],
        )  # fmt: skip
    return "The noise's idea of directions decides which whitening it is."
