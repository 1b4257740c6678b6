"""Graders of chapter 99: How wide is a random walk?"""

from sdelib.exercises import grader, near


@grader("ex-99-pull", "resting_variance(a): the variance of the walkers after many steps, shrunk by `a` in each")
def pull(resting_variance):
    for a in (0.5, 0.9):
        near(
            f"resting_variance({a})",
            resting_variance(a),
            1 / (1 - a**2),
            rtol=1e-6,
            traps={1 / (1 - a): "shrinking by a factor shrinks the variance by its square"},
        )
    return "Near 1 the factor lets the cloud grow without bound, as it must: at 1 it is the walk without a pull."
