"""Graders of chapter 4: SDEs in an evening."""

import math

import torch

from sdelib.exercises import Wrong, grader, near


@grader("ex-4-moments", "game_moments(mu, gamma, x0, t): mean, variance and median of the game, three plain numbers")
def moments(game_moments):
    for mu, gamma, x0, t in ((0.1, 0.5, 2.0, 1.0), (-0.3, 0.8, 1.0, 2.0)):
        got = game_moments(mu, gamma, x0, t)
        asked = f"game_moments({mu}, {gamma}, {x0}, {t})"
        if not isinstance(got, tuple | list) or len(got) != 3:
            raise Wrong(f"{asked} must return three numbers (mean, variance, median), got {got!r}.")
        mean = x0 * math.exp(mu * t)
        near(
            f"The mean, {asked}[0],",
            got[0],
            mean,
            rtol=1e-6,
            traps=[
                (x0 * math.exp((mu + gamma**2 / 2) * t), "that is the Stratonovich game's; Itô's dw term has mean 0"),
                (x0 * math.exp((mu - gamma**2 / 2) * t), "that is the median; the mean feels no kicks"),
                (math.exp(mu * t), "the game starts at x0"),
            ],
        )
        variance = mean**2 * math.expm1(gamma**2 * t)
        near(
            f"The variance, {asked}[1],",
            got[1],
            variance,
            rtol=1e-6,
            traps=[
                (mean**2 * math.exp(gamma**2 * t), "that is the mean of x²; the square of the mean is still in it"),
                (x0**2 * math.expm1(gamma**2 * t), "the growth rate is missing: that is right for mu = 0 only"),
                (mean**2 * math.expm1(2 * gamma**2 * t), "the kicks count once: φ'' = 2 cancels Itô's 1/2"),
                (math.exp(2 * mu * t) * math.expm1(gamma**2 * t), "the game starts at x0: a factor x0² is missing"),
                (gamma**2 * t, "that is the variance of log x"),
                (mean**2 * math.expm1(gamma**2 * t / 2), "Itô's 1/2 is cancelled by φ'' = 2"),
            ],
        )
        near(
            f"The median, {asked}[2],",
            got[2],
            x0 * math.exp((mu - gamma**2 / 2) * t),
            rtol=1e-6,
            traps=[
                (mean, "that is the mean; the typical player loses by the curvature of the logarithm"),
                (x0 * math.exp((mu - gamma**2) * t), "the curvature term of Itô's formula has a 1/2"),
                (x0 * math.exp((mu + gamma**2 / 2) * t), "the second derivative of log x is negative"),
                (math.log(x0) + (mu - gamma**2 / 2) * t, "that is the median of log x"),
            ],
        )
    return "The mean grows while the typical player is ruined for 0 < mu < gamma²/2."


@grader("ex-4-strat", "ito_drift(x): the drift, in Itô's sense, of the SDE that the midpoint rule solves")
def strat(ito_drift):
    x = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64)
    stake, slope = 1 + 0.5 * torch.sin(x), 0.5 * torch.cos(x)
    near(
        "ito_drift(x) at nine places from −2 to 2",
        ito_drift(x),
        -x + 0.5 * stake * slope,
        atol=1e-6,
        traps=[
            (-x, "that is her drift; the midpoint rule pushes as well, since the stake changes within a step"),
            (-x - 0.5 * stake * slope, "the sign of the correction is wrong: that would translate from Itô"),
            (-x + stake * slope, "the correction has a 1/2: the average of two stakes feels half of the change"),
            (0.5 * stake * slope, "that is the correction alone; her drift −x is still to be added"),
            (-x + 0.5 * slope, "the correction is ½ G times its derivative: G itself is missing"),
            (-x + 0.5 * slope**2, "the correction is ½ G G', not ½ G'²"),
            (-x + 0.5 * stake**2, "that is ½ G²; the correction is ½ G G'"),
        ],
    )
    return "Where G does not depend on x the correction is 0, and the two senses agree."


def _leash(drift_rate, g, start, x, t):
    """Density of the leash from N(0, start), any rate."""
    fade = torch.exp(-2 * drift_rate * t)
    v = start * fade + g**2 / (2 * drift_rate) * (1 - fade)
    return torch.exp(-(x**2) / (2 * v)) / (2 * math.pi * v).sqrt()


@grader(
    "ex-4-residual",
    "residual(p, drift, g, x, t): ∂p/∂t minus the right side of the Fokker-Planck equation",
    "q: the constant for which N(0, q (1 − exp(−6t))) is a density of dx = −3x dt + 2 dw",
)
def residual_(residual, q):
    x = torch.linspace(-1.6, 1.6, 9, dtype=torch.float64)
    t = torch.full_like(x, 0.4)
    asked = "residual(...) for the leash c = 1, g = 1.2 and its own density"
    v = torch.exp(-2 * t) * 0.3 + 0.72 * (1 - torch.exp(-2 * t))
    p = _leash(1.0, 1.2, 0.3, x, t)
    p_t = (2 * 0.72 - 2 * v) / (2 * v) * (x**2 / v - 1) * p
    fp_x, p_xx = -p + x**2 / v * p, (x**2 / v - 1) / v * p
    near(
        asked,
        residual(lambda x, t: _leash(1.0, 1.2, 0.3, x, t), lambda x, t: -x, 1.2, x, t),
        torch.zeros_like(x),
        atol=1e-9,
        traps=[
            (p_t + fp_x - 1.44 * p_xx, "that has g² where g²/2 should stand"),
            (p_t + fp_x - 0.6 * p_xx, "that has g/2 where g²/2 should stand"),
            (p_t - fp_x - 0.72 * p_xx, "the drift term has the wrong sign: on the left it is + ∂(f p)/∂x"),
            (p_t + fp_x + 0.72 * p_xx, "the noise term has the wrong sign: on the left it is − ½ g² ∂²p/∂x²"),
            (p_t + x**2 / v * p - 0.72 * p_xx, "the drift stands inside the derivative: ∂(f p)/∂x, not f ∂p/∂x"),
            (-fp_x + 0.72 * p_xx, "that is the right side alone"),
            (p_t, "that is the left side alone"),
        ],
    )
    hill = torch.exp(-(x**2) / 2)  # p = (1 + sin t) hill, drift sin t, g = 0.5
    grows, carried, spread = torch.cos(t), -torch.sin(t) * x, 0.125 * (x**2 - 1)
    near(
        "residual(...) for g = 0.5, a drift sin(t) and a p that does not solve it",
        residual(
            lambda x, t: (1 + torch.sin(t)) * torch.exp(-(x**2) / 2), lambda x, t: torch.sin(t) + 0 * x, 0.5, x, t
        ),
        (grows + (1 + torch.sin(t)) * (carried - spread)) * hill,
        atol=1e-9,
        traps=[
            (torch.zeros_like(x), "this p leaves something over, so residual does not use all its arguments"),
            (
                grows / (1 + torch.sin(t)) + carried - spread,
                "that is the residual over p; what is asked for is not divided",
            ),
        ],
    )
    near(
        "q",
        q,
        2 / 3,
        atol=0.006,  # steps of 0.01
        traps=[
            (4 / 3, "that is g²/c; leash and kicks balance at half of it"),
            (1 / 3, "that has g in place of g²"),
            (1.0, "the variance at rest is 1 for g² = 2c only"),
        ],
    )
    return "It is 0 for a solution and not for an impostor; a check that is always 0 would say nothing."


@grader("ex-4-milstein", "milstein_step(x, mu, gamma, dt, dw): the purse after one step")
def milstein(milstein_step):
    for x, mu, gamma, dt, dw in ((1.0, 1.0, 0.8, 0.1, 0.2), (2.0, 0.3, 0.5, 0.04, -0.3)):
        euler = x + mu * x * dt + gamma * x * dw
        area = dw**2 - dt
        near(
            f"milstein_step(x={x}, mu={mu}, gamma={gamma}, dt={dt}, dw={dw})",
            milstein_step(x, mu, gamma, dt, dw),
            euler + 0.5 * gamma**2 * x * area,
            rtol=1e-9,
            traps=[
                (euler, "that is Euler-Maruyama: the stake is held fixed during the step"),
                (euler + 0.5 * gamma**2 * x * dw**2, "the mean of the correction must be 0: − dt is missing"),
                (euler + gamma**2 * x * area, "∫ (w − w_k) dw is half of (Δw)² − Δt"),
                (euler - 0.5 * gamma**2 * x * area, "the correction's sign is wrong"),
                (euler + 0.5 * gamma * x * area, "the stake's slope is a second factor gamma"),
                (euler + 0.5 * gamma**2 * x**2 * area, "x comes in once: stake gamma x times its slope gamma"),
                (
                    euler + 0.5 * gamma**2 * x * area + mu * gamma * x * dw * dt + 0.5 * mu**2 * x * dt**2,
                    "the terms with mu gamma and mu² are right, but smaller: Milstein's step stops before them",
                ),
                (
                    x * math.exp((mu - gamma**2 / 2) * dt + gamma * dw),
                    "that is the exact step; Milstein's is its expansion",
                ),
            ],
        )
    return "Its mean is Euler-Maruyama's: the correction repairs the path and leaves the mean as it was."
