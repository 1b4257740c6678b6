"""Graders of chapter 1: Scores and Langevin dynamics."""

import math

import torch

from sdelib.exact import Gaussian
from sdelib.exercises import Wrong, grader, near


@grader(
    "ex-1-bias",
    "stationary_variance(step, std): the variance at which the chain on N(0, std²) comes to rest",
    "largest_step(std): the step size from which on it never rests",
)
def bias(stationary_variance, largest_step):
    for step, std in ((0.1, 1.0), (0.125, 0.5)):
        precision = 1 / std**2
        near(
            f"stationary_variance({step}, {std})",
            stationary_variance(step, std),
            std**2 / (1 - step / (2 * std**2)),
            rtol=1e-6,
            traps=[
                (std**2, "that is the law's own variance; the chain's is larger, for each step overshoots"),
                (std / math.sqrt(1 - step / (2 * std**2)), "that is the standard deviation"),
                (1 / (1 - step / 2), "that is right for std = 1 only: the score is −x/std²"),
                (std**2 / (1 - step / (2 * std)), "the score is −x/std², with the square"),
                (1 / (precision * (1 + step * precision / 2)), "one step multiplies x by 1 − step/std², with a minus"),
                (2 * step / (1 - (1 - step * precision)), "the variance is multiplied by the square of 1 − step/std²"),
                (
                    step / (1 - (1 - step * precision) ** 2),
                    "the shake is √(2 step) long: it adds 2 step to the variance, not step",
                ),
            ],
        )
    for std in (1.0, 0.5):
        near(
            f"largest_step({std})",
            largest_step(std),
            2 * std**2,
            rtol=1e-6,
            traps=[
                (std**2, "there the factor 1 − step/std² is 0, and beyond it negative; what matters is its size"),
                (2.0, "that is right for std = 1 only"),
                (2 * std, "the score is −x/std², with the square"),
                (4 * std**2, "ask for which step 1 − step/std² is −1"),
            ],
        )
    return "The bias grows with the step; from twice the law's variance on, nothing holds the walkers."


@grader(
    "ex-1-mala",
    "mala(law, x, step, n, generator): where the walkers x stand after n proposals, and the share of accepted ones",
)
def mala(mala):
    # At step = variance a proposal is a fresh point of N(mean, 2 variance), whatever x is, so that the share accepted is
    # twice the probability that it lies nearer to the mean than a point of the law: 4/π atan(1/√2) in 1D, 2/3 in 2D.
    for law, step, share in (
        (Gaussian(0.0, 1.0), 1.0, 4 / math.pi * math.atan(1 / math.sqrt(2))),
        (Gaussian([1.0, 1.0], [[0.25, 0.0], [0.0, 0.25]]), 0.25, 2 / 3),
    ):
        g = torch.Generator().manual_seed(1)
        dimension = law.mean.numel()
        first = torch.rand((4000, dimension), generator=g, dtype=law.mean.dtype) - 0.5
        result = mala(law, law.mean + 3 * math.sqrt(step) * first, step, 60, g)
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise Wrong(
                "mala returns one thing where two are wanted: the walkers, and the share of accepted proposals."
            )
        x, accepted = result
        if tuple(getattr(x, "shape", ())) != tuple(first.shape):
            raise Wrong(
                f"mala returns walkers of shape {tuple(getattr(x, 'shape', ()))}, and was given {tuple(first.shape)}. "
                "Whoever is refused stays where it was and is counted again."
            )
        name = f"on N({law.mean[0]:g}, {step:g}) in {dimension}D at step {step:g}, the walkers' variance"
        near(
            name,
            x.var(0).mean() / step,
            1.0,
            atol=0.1,  # four standard errors of 4,000 walkers
            traps=[
                (2.0, "every proposal seems to be accepted, or the way back uses the score at x in place of y"),
                (0.67, "A seems to lack q, the ratio of the two proposals: the heights alone do not do it"),
                (0.5, "the two q seem to be exchanged: the way back, q(x | y), stands above"),
            ],
        )
        near(f"on N({law.mean[0]:g}, {step:g}) in {dimension}D, the walkers' mean", x.mean(), law.mean[0], atol=0.1)
        near(
            f"on N({law.mean[0]:g}, {step:g}) in {dimension}D at step {step:g}, the share of accepted proposals",
            accepted,
            share,
            atol=0.02,  # the first proposals, from a start that is not the law, count too
            traps=[
                (60 * share, "it is summed over the proposals: divide by n"),
                (4000 * share, "it is summed over the walkers"),
                (1 - share, "that is the share of the refused"),
                (
                    0.706 if dimension == 1 else 0.5,
                    "in log q the square is divided by 4 step, twice the variance 2 step",
                ),
            ],
        )
    return "The variance is the law's at every step size. The price is paid in refusals."


@grader(
    "ex-1-student",
    "student_score(x): the score of Student's t with ν = 3",
    "expected_beyond: of 50,000 points of p, how many lie beyond |x| = 10",
    "mean_square: the mean of x² at time 25 of walkers that start at 30",
)
def student(student_score, expected_beyond, mean_square):
    x = torch.tensor([[-30.0], [-1.0], [0.0], [0.5], [3.0], [100.0]], dtype=torch.get_default_dtype())
    inner = 1 + x**2 / 3
    near(
        "student_score at x = −30, −1, 0, 0.5, 3, 100",
        student_score(x),
        -4 * x / (3 + x**2),
        rtol=1e-4,
        atol=1e-6,
        traps=[
            (-x, "that is the score of N(0, 1)"),
            (-3 * x / (3 + x**2), "the exponent is (ν + 1)/2, not ν/2"),
            (-2 / inner, "the derivative of x²/ν is missing"),
            (-4 * x / 3 * inner**-3, "that is the slope of p, up to a factor: take the logarithm first"),
            (-2 * torch.log(inner), "that is log p, up to a constant: differentiate it"),
            (inner**-2, "that is p, up to a factor"),
            (-4 * x / (1 + x**2), "inside the bracket stands x²/ν"),
        ],
    )
    u = 10 / math.sqrt(3)
    beyond = 50_000 * (1 - 2 / math.pi * (u / (1 + u**2) + math.atan(u)))
    near(
        "expected_beyond",
        expected_beyond,
        beyond,
        atol=0.6,  # a reader may round to a count
        traps=[
            (beyond / 2, "count both tails"),
            (beyond / 50_000, "that is a probability: how many of 50,000?"),
            (50_000 - beyond, "that many lie within 10"),
            (50_000 * math.erfc(10 / math.sqrt(2)), "that is what a normal law would have"),
            (18.0, "that is what the walkers show at time 10, who have not found the tails; use F of the hint"),
        ],
    )
    near(
        "mean_square",
        mean_square,
        750.0,
        rtol=0.02,  # five standard errors of 20,000 walkers, 2.9
        traps=[
            (700.0, "the shakes add 2 in unit time to the mean of x²"),
            (825.0, "one step changes x² by 2 step · x s(x), not by step · x s(x)"),
            (900.0, "they have not moved: did the walk run 500 steps of 0.05?"),
            (3.0, "that is the law's own, which they reach much later"),
        ],
    )
    return "Where the arrows fade, the walk crawls: it is late into the tails and late out of them."


@grader(
    "ex-1-mixing",
    "predicted: the distance, in widths, at which Ohm's law lets 1 % of the walkers cross in 1,000 steps of 0.05",
    "measured: the same distance, from walkers",
)
def mixing(predicted, measured):
    truth = _reach(50.0, 0.02)
    near(
        "predicted",
        predicted,
        truth,
        atol=0.06,  # a grid of distances
        traps=[
            (_reach(50.0, 0.01), "half of the walkers belong on the right in the end: crossed is ½ (1 − exp(−t/τ))"),
            (_reach(1000.0, 0.02), "the time is 1,000 steps of 0.05"),
            (_reach(50.0, 0.02, (0.8, 0.2)), "balancing_time takes the weights: here both are 0.5"),
            (_reach(50.0, 1 - math.exp(-1)), "that is where the time is one τ; ask for a share of 0.01"),
            (truth / 2, "the tops stand at ± d/2: d is the whole way"),
        ],
    )
    near("measured", measured, truth, atol=0.4, traps=[(truth / 2, "the tops stand at ± d/2: d is the whole way")])
    return "The reach grows like the root of the logarithm of the time: patience is a poor bridge."


def _reach(time, forgotten, weights=(0.5, 0.5)):
    """Return the distance d at which 1 − exp(−time/τ(d)) is the share ``forgotten``, by bisection."""
    low, high = 2.0, 16.0
    for _ in range(30):
        d = (low + high) / 2
        x = torch.linspace(-d / 2, d / 2, 4001, dtype=torch.float64)
        p = sum(w * torch.exp(-0.5 * (x - m) ** 2) for w, m in zip(weights, (-d / 2, d / 2), strict=True))
        tau = weights[0] * weights[1] * math.sqrt(2 * math.pi) * torch.trapezoid(1 / p, x).item()
        low, high = (d, high) if 1 - math.exp(-time / tau) > forgotten else (low, d)
    return low
