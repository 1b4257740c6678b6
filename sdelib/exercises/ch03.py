"""Graders of chapter 3: The guessing game (DDPM)."""

import math

import torch

from sdelib.chain import ddpm, linear_betas
from sdelib.exercises import Wrong, grader, near

VARIANCE = 0.25  # of the chapter's law G1


def _alphas(N):
    return [1.0, *torch.cumprod(1 - linear_betas(N), 0).tolist()]


def _end(alphas, theta, *, power=1.0, keep_last=False):
    """Variance on G1 after walking back through levels with these ``alphas``, share ``theta`` of the forward variance."""
    v = 1.0
    for before, now in zip(alphas[-2::-1], alphas[:0:-1], strict=True):
        beta, V = 1 - now / before, VARIANCE * now + 1 - now
        fresh = beta * (theta + (1 - theta) * ((1 - before) / (1 - now)) ** power)
        v = (1 - beta / V) ** 2 / (1 - beta) * v + fresh * (before < 1 or keep_last)
    return v


@grader(
    "ex-3-skip",
    "jump_mean(x, score, alpha_j, alpha_i): the mean of x_j given x_i = x",
    "jump_variance(alpha_j, alpha_i): the variance of x_j given x_i and x_0",
    "final_variance: of the walk back on G1 through every twentieth of 1,000 levels",
)
def skip(jump_mean, jump_variance, final_variance):
    number = lambda value: torch.tensor(value, dtype=torch.float64)  # noqa: E731
    for alpha_j, alpha_i, x, score in ((0.9, 0.5, 2.0, -0.7), (0.3, 0.1, -1.0, 1.5)):
        a, b2 = math.sqrt(alpha_i / alpha_j), 1 - alpha_i / alpha_j
        near(
            f"jump_mean({x}, {score}, {alpha_j}, {alpha_i})",
            jump_mean(number(x), number(score), number(alpha_j), number(alpha_i)),
            (x + b2 * score) / a,
            rtol=1e-5,
            traps=[
                (a * (x + b2 * score), "divide by a: the walk back undoes the shrinking"),
                (x + b2 * score, "the division by a is missing"),
                (x / a + b2 * score, "divide both terms by a"),
                ((x + math.sqrt(b2) * score) / a, "the score is multiplied by the variance b², not by b"),
                ((x - b2 * score) / a, "the score is added"),
                ((x + (1 - alpha_i) * score) / a, "of all the noise since level 0 only that of this jump goes: b²"),
                ((x + (1 - alpha_i) * score) / math.sqrt(alpha_i), "that is the guess of x_0; stop at level j"),
                ((x + b2 * score) / a**2, "a is the root of alpha_i / alpha_j"),
            ],
        )
        near(
            f"jump_variance({alpha_j}, {alpha_i})",
            jump_variance(number(alpha_j), number(alpha_i)),
            b2 * (1 - alpha_j) / (1 - alpha_i),
            rtol=1e-5,
            traps=[
                (b2, "that is the forward variance: knowing x_0 makes it smaller"),
                (
                    b2 * (1 - alpha_i) / (1 - alpha_j),
                    "the ratio stands upside down: knowing x_0 makes the variance smaller",
                ),
                (1 - alpha_j, "that is the variance of x_j given x_0 alone"),
                (1 - alpha_i, "that is the variance of x_i given x_0"),
            ],
        )
    alphas = _alphas(1000)[::20]
    near(
        "final_variance",
        final_variance,
        _end(alphas, 1.0),
        rtol=5e-5,
        traps=[
            (_end(_alphas(50), 1.0), "that is the chain that has only 50 levels"),
            (_end(_alphas(1000), 1.0), "that is the walk through all 1,000 levels"),
            (_end(alphas, 0.0), "that is with the posterior variance"),
            (_end(alphas, 1.0, keep_last=True), "the last step still adds noise: `denoise=True` leaves it out"),
            (VARIANCE, "that is G1's own: the walk back does not end exactly there"),
        ],
    )
    return "Nothing asks the two levels to be neighbours: one chain in training, walks of many lengths back."


@grader(
    "ex-3-dialects",
    "x0_from_v(x, v, scale, std)",
    "noise_from_v(x, v, scale, std)",
    "factor_x0: by which recovering x_0 from the noise makes errors larger at level 1,000",
    "factor_noise: by which recovering the noise from x_0 makes errors larger at level 1",
)
def dialects(x0_from_v, noise_from_v, factor_x0, factor_noise):
    x0, z = torch.tensor([0.7, -0.2, 1.0]), torch.tensor([-1.1, 0.4, 0.3])
    for scale, std in torch.tensor([[0.8, 0.6], [0.28, 0.96]]):
        x, v = scale * x0 + std * z, scale * z - std * x0
        for name, function, truth, other in (("x0_from_v", x0_from_v, x0, z), ("noise_from_v", noise_from_v, z, x0)):
            near(
                f"{name} at scale {scale:g}",
                function(x, v, scale, std),
                truth,
                atol=1e-5,
                traps=[
                    (scale * x + std * v, "turn the other way round: v = scale z − std x_0 carries a minus"),
                    (std * x - scale * v, "check the sign: v = scale z − std x_0"),
                    (other, "that is the other of the two"),
                    (x / scale, "v is not used"),
                    ((x - std * v) / scale, "v is not the noise"),
                ],
            )
    chain = ddpm(linear_betas(1000))
    top, bottom = 1 / chain.scales[1000].item(), 1 / chain.stds[1].item()
    middle = 1 / chain.scales[500].item()
    near(
        "factor_x0",
        factor_x0,
        top,
        rtol=0.02,
        traps=[(middle, "that is level 500"), (bottom, "that is (b): (a) divides by scale")],
    )
    near("factor_noise", factor_noise, bottom, rtol=0.02, traps=[(top, "that is (a): (b) divides by std")])
    return "Whoever divides multiplies errors; a rotation divides by nothing."


@grader(
    "ex-3-cosine",
    "cosine: the chain, by `ddpm`",
    "idle_linear: the share of the linear table's levels at which the twin's loss is below 1",
    "idle_cosine: the same for the cosine table",
)
def cosine(cosine, idle_linear, idle_cosine):
    if isinstance(cosine, torch.Tensor) or not hasattr(cosine, "scales"):
        raise Wrong(f"cosine is a {type(cosine).__name__} where a chain is wanted: `ddpm(betas)` makes one.")
    f = torch.cos(math.pi / 2 * (torch.linspace(0, 1, 1001, dtype=torch.float64) + 0.008) / 1.008) ** 2
    rough = torch.cos(math.pi / 2 * torch.linspace(0, 1, 1001, dtype=torch.float64)) ** 2
    shown = [0, 1, 10, 500, 900, 990]
    squares = [f, f.sqrt(), rough, 1 - linear_betas(1000).cumsum(0)]
    near("the number of the cosine chain's levels", len(cosine.scales) - 1, 1000, atol=0.1)
    near(
        "the cosine chain's α at levels 0, 1, 10, 500, 900, 990",
        cosine.scales[shown] ** 2,
        f[shown] / f[0],
        rtol=1e-4,
        traps=[
            (ddpm(linear_betas(1000)).scales[shown] ** 2, "that is the linear table"),
            (squares[2][shown], "the offset 0.008 is missing"),
            (squares[1][shown] / squares[1][0], "f is the square of the cosine"),
            (f[shown] ** 2 / f[0] ** 2, "the square is taken twice"),
        ],
    )
    near("the cosine chain's last β", cosine.b[-1] ** 2, 0.999, atol=1e-6)
    for name, share, truth in (("idle_linear", idle_linear, 0.465), ("idle_cosine", idle_cosine, 0.151)):
        near(
            name,
            share,
            truth,
            atol=0.004,
            traps=[
                (1000 * truth, "that is a count of levels: what is their share?"),
                (100 * truth, "that is in percent: give a share between 0 and 1"),
                (1 - truth, "that is the share at which the loss is above 1"),
                (0.616 - truth, "that is the other table's"),
            ],
        )
    return "The cosine table takes levels from where nothing is learned and gives them to where something is."


@grader(
    "ex-3-between",
    "best_theta(N): the constant share θ at which N levels end with variance 0.25",
    "true_theta: the share that the true variance has at the levels 1, …, 1000 of the chain of 1,000",
)
def between(best_theta, true_theta):
    for N in (25, 100):
        alphas = _alphas(N)
        truth = _solve(alphas)
        near(
            f"best_theta({N})",
            best_theta(N),
            truth,
            atol=2e-3,
            traps=[
                (1 - truth, "θ is the forward variance's share, 1 − θ the posterior's"),
                (0.0, "the bisection went to its lower end: the final variance grows with θ"),
                (1.0, "the bisection went to its upper end: the final variance grows with θ"),
                (_solve(alphas, keep_last=True), "the last step adds no noise"),
                (0.5, "that is the middle; solve for the final variance 0.25"),
            ],
        )
    alpha = torch.tensor(_alphas(1000), dtype=torch.float64)
    before, now = alpha[:-1], alpha[1:]
    beta, V = 1 - now / before, VARIANCE * alpha + 1 - alpha
    posterior = beta * (1 - before) / (1 - now)
    truth = (beta * V[:-1] / V[1:] - posterior) / (beta - posterior)
    near(
        "true_theta",
        true_theta,
        truth,
        atol=5e-3,
        traps=[
            (1 - truth, "θ is the forward variance's share, 1 − θ the posterior's"),
            (truth.flip(0), "that is the order from level 1,000 down"),
            (V[:-1] / V[1:], "that is the true variance over the forward one; θ is where it stands between the two"),
            (beta * V[:-1] / V[1:], "that is the true variance; θ is where it stands between the two"),
            (posterior / beta, "that is the posterior variance over the forward one"),
        ],
    )
    return "Early levels want the forward variance, late ones the data's own share: a constant can only trade errors."


def _solve(alphas, *, keep_last=False):
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if _end(alphas, middle, keep_last=keep_last) < VARIANCE else (low, middle)
    return low
