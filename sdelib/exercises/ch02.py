"""Graders of chapter 2: Noise levels."""

import math

import numpy as np
import torch

from sdelib import data
from sdelib.exercises import Wrong, grader, near

# GM2's floor at the 20 levels from 0.1 to 10, each by 80,000 draws (standard error below half a percent); the last ones
# agree with the closed form of large noise, the sum of c/(c + σ²) over the eigenvalues c of the covariance.
FLOOR = [1.806, 1.710, 1.581, 1.422, 1.250, 1.093, 0.991, 0.967, 0.978, 0.950]
FLOOR += [0.843, 0.678, 0.502, 0.349, 0.233, 0.151, 0.0958, 0.0601, 0.0375, 0.02325]


def _phi(x):
    """Distribution function of N(0, 1) at a tensor ``x``."""
    return torch.special.ndtr(x)


@grader(
    "ex-2-tweedie",
    "best_guess(noisy): the posterior mean of each number of a vector, noise 1, Laplace's prior, by quadrature",
    "from_score(noisy): the same by Tweedie's formula",
)
def tweedie(best_guess, from_score):
    y = torch.arange(9, dtype=torch.float64)
    # completing squares: two halves of normal laws at y − 1 and y + 1; the score of the blurred density is `push`
    right, left = torch.exp(-y) * _phi(y - 1), torch.exp(y) * _phi(-y - 1)
    push = (left - right) / (left + right)
    traps = [
        (y - 1, "that is the answer far out; near 0 the other side of the peak has votes, too"),
        ((y - 1).clamp_min(0), "that is the most probable x, not the mean"),
        (y / 2, "that is a normal prior's answer: a factor"),
        (2 * y / 3, "that is the answer of a normal prior with Laplace's variance: a factor"),
        (y - push, "the score is added, not subtracted"),
        (push, "that is the score: a guess is x̃ + σ² score"),
        ((right + left) * math.sqrt(math.e) / 2, "that is the blurred density"),
        (y, "that is x̃ itself"),
    ]
    for name, function in (("best_guess", best_guess), ("from_score", from_score)):
        near(f"{name} at 0, 1, …, 8", function(y.clone()), y + push, rtol=2e-3, atol=2e-3, traps=traps)
    return "Two ways, one number: Tweedie's formula needs no prior, only the blurred density's slope."


def _overlap(gamma, D):
    """Share of the lengths at one level, in ``D`` dimensions, that lie among those of the level ``gamma`` times higher."""
    a = math.sqrt(2 * D) * (gamma - 1)
    return 0.5 * (math.erfc(-(a + 3 * gamma) / math.sqrt(2)) - math.erfc(-(a - 3 * gamma) / math.sqrt(2)))


def _solved(D, share=0.5, stretch=1.0):
    """Return γ by bisection, in ``D`` dimensions at this ``share``; ``stretch`` is for a mistake."""
    low, high = 1.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _overlap(middle, D * stretch) > share else (low, middle)
    return low


@grader(
    "ex-2-ladder",
    "ratio(D): the factor between neighbouring levels in D dimensions",
    "levels_needed(D): the number of levels from 0.01 to 50, both ends included",
)
def ladder(ratio, levels_needed):
    for D in (8, 64, 3072):
        gamma = _solved(D)
        near(
            f"ratio({D})",
            ratio(D),
            gamma,
            rtol=1e-4,
            traps=[
                (100.0, "the bisection went to its upper end: the overlap must fall as γ grows; its root is of 2D"),
                (_solved(D, stretch=0.5), "the root is of 2D, not of D"),
                (1.0, "the bisection went to its lower end: overlap falls as γ grows"),
                (gamma - 1, "γ is the factor itself, which is above 1"),
                (1 / gamma, "count upwards: γ is above 1"),
            ],
        )
    for D in (8, 64, 3072):
        steps = math.log(50 / 0.01) / math.log(_solved(D))
        near(
            f"levels_needed({D})",
            levels_needed(D),
            math.ceil(steps) + 1,
            atol=0.01,
            traps=[
                (math.ceil(steps), "that many steps need one level more: both ends count"),
                (steps + 1, "round up: a level is whole"),
                (math.floor(steps) + 1, "round up, not down: the factor must not exceed γ"),
                (steps, "round up, and count both ends"),
            ],
        )
    return "The factor shrinks towards 1 like one over the root of D, and the ladder grows like the root."


@grader(
    "ex-2-sliced",
    "explicit_v: E‖x̃‖²/D for GM2 blurred by 0.5, from its means and covariances",
    "denoising_v(y, z, sigma): the v at which the denoising loss of a batch is least",
    "sliced_v(y, p): the same for the sliced loss",
    "reduced_v(y, p): the same for the reduced loss",
)
def sliced(explicit_v, denoising_v, sliced_v, reduced_v):
    law = data.gm2()
    means = (law.means**2).sum(1)
    spreads = law.covs.diagonal(dim1=1, dim2=2).sum(1)
    clean = float((law.weights * (means + spreads)).sum())
    near(
        "explicit_v",
        explicit_v,
        clean / 2 + 0.25,
        rtol=1e-3,
        traps=[
            (clean / 2, "that is the clean law: the noise adds σ² in each dimension"),
            (clean / 2 + 0.125, "the noise adds σ² in each dimension, before the division by D"),
            (clean + 0.5, "divide by D = 2"),
            (clean / 2 + 0.5, "the noise adds σ² = 0.25, not σ"),
            (float((law.weights * spreads).sum()) / 2 + 0.25, "the tops' own squares ‖m‖² are missing"),
            (float((law.weights * means).sum()) / 2 + 0.25, "the hills' own variances are missing"),
            (float((means + spreads).mean()) / 2 + 0.25, "the hills have weights"),
        ],
    )
    g = torch.Generator().manual_seed(2)
    x, z, p = (torch.randn((64, 2), generator=g) for _ in range(3))
    sigma = 0.5
    y = 2 * x + sigma * z
    squares, cross, probes = (y**2).sum(), (y * z).sum(), (p**2).sum()
    along = ((y * p).sum(1) ** 2).sum()
    near(
        "denoising_v",
        denoising_v(y, z, sigma),
        sigma * squares / cross,
        rtol=1e-3,
        traps=[
            (squares / cross, "σ is missing: the loss is ‖σ s + z‖²"),
            (sigma**2 * squares / cross, "one σ too many: divide the two terms by σ, not by σ²"),
            (squares / 128, "that is E‖x̃‖²/D, explicit matching; denoising uses its own noise z"),
        ],
    )
    near(
        "sliced_v",
        sliced_v(y, p),
        along / probes,
        rtol=1e-3,
        traps=[
            (squares / probes, "that is the reduced loss; here the second term is (pᵀx̃)²/2v²"),
            (along / 128, "pᵀp is on average D, but on a batch it is what it is"),
            (((y * p) ** 2).sum() / probes, "pᵀx̃ is a sum over the coordinates: sum first, then square"),
            ((y * p).sum() ** 2 / probes, "square for each point, then sum over the points"),
        ],
    )
    near(
        "reduced_v",
        reduced_v(y, p),
        squares / probes,
        rtol=1e-3,
        traps=[
            (along / probes, "that is the plain sliced loss; here the second term is ‖x̃‖²/2v²"),
            (squares / 128, "pᵀp is on average D, but on a batch it is what it is"),
        ],
    )
    return "Three losses, one minimum, three scatters: which is least depends on the noise."


@grader(
    "ex-2-effort",
    "floor_by_level: the loss of the exact score at the 20 levels, smallest noise first",
    "excess_by_level: what the network's loss is above it",
)
def effort(floor_by_level, excess_by_level):
    floor, sigmas = np.array(FLOOR), np.geomspace(0.1, 10.0, 20)
    near(
        "floor_by_level",
        floor_by_level,
        floor,
        rtol=0.06,  # four standard errors of some 10,000 draws
        traps=[
            (floor[::-1], "that is the order from the largest noise to the smallest"),
            (floor / sigmas**2, "it lacks the weight σ², which `dsm` gives by itself"),
            (floor / 2, "that is the mean over the two coordinates: the loss is their sum"),
            (sigmas**2 / (1 + sigmas**2), "that is how the floor of N(0, 1) looks from the other side"),
            (2 / (1 + sigmas**2), "that is the floor of N(0, I)"),
        ],
    )
    near("the number of entries of excess_by_level", len(excess_by_level), 20, atol=0.1)
    excess = np.array([float(e) for e in excess_by_level])
    near("the network's loss, excess_by_level + floor,", excess + floor, floor, rtol=0.3, atol=0.3, traps=[
        (2 * floor, "that is the network's whole loss: subtract the floor"),
    ])  # fmt: skip
    if excess.min() < -0.01:
        i = int(excess.argmin())
        raise Wrong(
            f"excess_by_level[{i}] is {excess[i]:.3g}, below 0: nothing lies below the floor but by chance. "
            "Are the examples, levels and noises the same for both?"
        )
    if np.abs(excess).max() < 1e-6:
        raise Wrong("excess_by_level is 0 throughout: is `learned` there, or the exact score twice?")
    return "Where the hills are separate there is most to learn, and there the excess is largest."
