"""Graders of chapter 1: Scores and Langevin dynamics."""

import math

from sdelib.exercises import grader, near


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
