"""Losses: their minimiser, their floor, and what ties one to another, with expectations by quadrature instead of draws.

On Gaussian mixtures in one dimension an expectation over x(t) = scale x0 + std noise is an integral over two Gaussians.
The trapezoidal rule gives it to rounding: its error falls as exp(-2 pi d/h), d the distance to the integrand's nearest pole.
"""

import itertools
import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from scipy import stats

from sdelib import (
    VE,
    VP,
    Gaussian,
    GaussianMixture,
    Ito,
    SubVP,
    ddpm,
    dsm,
    explicit,
    finite_difference,
    geometric_sigmas,
    linear_betas,
    net_score,
    sliced,
    smld,
)

MODES = [(0.4, -1.0, 0.3), (0.6, 0.8, 0.5)]  # weight, mean, std of the data
mixture = GaussianMixture(*(list(v) for v in ([0.4, 0.6], [[-1.0], [0.8]], [0.09, 0.25])))
CASES = [
    (VE(), 0.3),
    (VP(), 0.2),
    (VP(), 0.9),
    (SubVP(), 0.4),
    (smld(geometric_sigmas(20)), 0.4),
    (ddpm(linear_betas(50)), 0.5),
]


def normal_rule(n=181):
    """Nodes and weights of E f(z), z ~ N(0, 1)."""
    z = torch.linspace(-9, 9, n, dtype=torch.float64)
    return z, torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi) * (18 / (n - 1))


def draws():
    """x0, noise (n^2 a mode, 1) and weights: E f(x0, noise) = sum weights f, over the mixture's modes."""
    z, w = normal_rule()
    x0 = torch.cat([m + s * z for _, m, s in MODES])
    w0 = torch.cat([p * w for p, _, _ in MODES])
    x0, noise = torch.meshgrid(x0, z, indexing="ij")
    return x0.reshape(-1, 1), noise.reshape(-1, 1), (w0[:, None] * w).reshape(-1)


def expected_dsm(noising, score, t, **options):
    x0, noise, w = draws()
    return float(
        (
            w
            * dsm(noising, score, x0, t=torch.full((len(x0),), t, dtype=torch.float64), noise=noise, **options).detach()
        ).sum()
    )


def expected(loss, noising, score, t):
    """E of a loss on x(t) itself: x(t) is a mixture too, so one Gauss-Hermite rule a mode is enough."""
    z, w = normal_rule(721)
    time = torch.full((1,), t, dtype=torch.float64)
    scale, std = float(noising.scale(time)), float(noising.std(time))
    x = torch.cat([scale * m + math.hypot(scale * s, std) * z for _, m, s in MODES])[:, None]
    weights = torch.cat([p * w for p, _, _ in MODES])
    return float((weights * loss(score, x, time.expand(len(x))).detach()).sum())


def wrong_scores():
    """Three score functions that are not the score."""
    return [
        lambda x, t: -0.7 * x + 0.2,
        lambda x, t: torch.tanh(x) * t[:, None] - 0.5 * x,
        lambda x, t: torch.sin(x + 0.3) / (1 + t[:, None]),
    ]


def shifted(score, eps, seed):
    """score + eps phi with a smooth bounded phi."""
    a, b, c = np.random.default_rng(seed).normal(size=3)
    phi = lambda x: torch.tanh(0.5 * a * x + b) + 0.2 * c
    return lambda x, t: score(x, t) + eps * phi(x), phi


# --- what the losses say ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("s", [0.5, 2.0])
def test_the_floor_on_gaussian_data(s, t):
    """No score does better than E Var[noise given x] = s^2/(s^2 + sigma^2) on N(0, s^2) under VE."""
    z, w = normal_rule()
    x0, noise = (v.reshape(-1, 1) for v in torch.meshgrid(s * z, z, indexing="ij"))
    ve, t_all = VE(), torch.full((len(x0),), t, dtype=torch.float64)
    loss = dsm(ve, Gaussian([0.0], s**2).score_fn(ve), x0, t=t_all, noise=noise)
    sigma2 = 0.01**2 * 5000 ** (2 * t)
    assert float((w[:, None] * w).reshape(-1) @ loss) == pytest.approx(s**2 / (s**2 + sigma2), rel=1e-10)


@pytest.mark.parametrize("noising, t", CASES, ids=str)
def test_denoising_minus_explicit_score_matching_is_one_constant(noising, t):
    """E|s - target|^2 - 2 E[tr ds/dx + |s|^2/2] = E|target|^2 = 1/std^2, whatever s is (Vincent 2011)."""
    std = float(noising.std(torch.tensor(t, dtype=torch.float64)))
    for score in [*wrong_scores(), mixture.score_fn(noising)]:
        one = expected_dsm(noising, score, t, weight=lambda t: torch.ones_like(t))
        two = expected(explicit, noising, score, t)
        # rounding of sums as large as 1/std^2
        assert one - 2 * two == pytest.approx(1 / std**2, rel=1e-10)


@pytest.mark.parametrize("noising, t", CASES, ids=str)
@pytest.mark.parametrize("eps", [1.0, -0.3])
def test_the_score_minimises_and_the_excess_is_the_error(noising, t, eps):
    """L(score + eps phi) - L(score) = lambda eps^2 E phi^2 for DSM, half of it without lambda for the others: no linear term."""
    exact = mixture.score_fn(noising)
    std2 = float(noising.std(torch.tensor(t, dtype=torch.float64))) ** 2
    for seed in range(3):
        other, phi = shifted(exact, eps, seed)
        square = expected(lambda s, x, t, phi=phi: phi(x)[:, 0] ** 2, noising, exact, t)
        excess = expected_dsm(noising, other, t) - expected_dsm(noising, exact, t)
        assert excess == pytest.approx(std2 * eps**2 * square, rel=1e-8, abs=1e-12)
        ones = lambda s, x, t: sliced(s, x, t, probe=torch.ones_like(x))  # one dimension: v = 1 is exact
        for loss in (explicit, ones):
            excess = expected(loss, noising, other, t) - expected(loss, noising, exact, t)
            # two losses of size 1/std^2 are subtracted: rounding of that size
            assert excess == pytest.approx(0.5 * eps**2 * square, rel=1e-8, abs=1e-12 + 1e-12 / std2)


def test_without_a_kernel_the_losses_find_a_double_wells_score():
    """x - x^3 with noise 1 has the stationary density exp(x^2 - x^4/2)/Z and score 2 (x - x^3); integrals on a grid."""
    x = torch.linspace(-4, 4, 4001, dtype=torch.float64)[:, None]
    p = torch.softmax((x**2 - x**4 / 2)[:, 0], 0)
    well = Ito(lambda x, t: x - x**3, lambda t: 1.0)
    exact = lambda x, t: 2 * well.drift(x, t)
    t, v = torch.zeros(len(x), dtype=torch.float64), torch.ones_like(x)
    with pytest.raises(
        TypeError, match=r"noising: needs a transition kernel, which Ito lacks.*use sliced or finite_difference"
    ):
        dsm(well, exact, x)
    losses = {
        "explicit": lambda s: explicit(s, x, t),
        "sliced": lambda s: sliced(s, x, t, probe=v),
        "reduced": lambda s: sliced(s, x, t, probe=v, variance_reduced=True),
        "differences": lambda s: finite_difference(s, x, t, probe=v, h=1e-3),
    }
    for name, loss in losses.items():
        mean = lambda s, loss=loss: float((p * loss(s).detach()).sum())
        for seed in range(3):
            other, phi = shifted(exact, 0.5, seed)
            square = float((p * phi(x)[:, 0] ** 2).sum())
            slack = 2e-4 if name == "differences" else 1e-8  # its minimiser is off by O(h^2) times third derivatives
            assert mean(other) - mean(exact) == pytest.approx(0.125 * square, rel=0, abs=slack)


# --- denoising score matching --------------------------------------------------------------------------------------------


def test_equation_1_by_a_hand_written_loop(generator):
    """SMLD: sum over levels of sigma_i^2 |s(x0 + sigma_i z, sigma_i) + z/sigma_i|^2."""
    sigmas = geometric_sigmas(12, sigma_min=0.05, sigma_max=20.0)
    chain = smld(sigmas)
    x0 = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    z = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    net = lambda x, sigma: -x / (1 + sigma**2)
    by_hand = 0.0
    for i in range(12):
        sigma = float(sigmas[i])
        s = net(x0[i] + sigma * z[i], sigma)
        by_hand += sigma**2 * float(((s + z[i] / sigma) ** 2).sum())
    levels = torch.arange(1, 13, dtype=torch.float64) / 12
    loss = dsm(chain, lambda x, t: net(x, chain.std(t)[:, None]), x0, t=levels, noise=z)
    assert float(loss.sum()) == pytest.approx(by_hand, rel=1e-12)


def test_equation_3_by_a_hand_written_loop(generator):
    """DDPM: sum over levels of (1 - alpha_i) |s(sqrt(alpha_i) x0 + sqrt(1 - alpha_i) z, i) + z/sqrt(1 - alpha_i)|^2."""
    betas = linear_betas(30)
    x0 = torch.randn(30, 2, generator=generator, dtype=torch.float64)
    z = torch.randn(30, 2, generator=generator, dtype=torch.float64)
    net = lambda x, i: torch.sin(x) * i / 30
    by_hand, alpha = 0.0, 1.0
    for i in range(30):
        alpha *= 1 - float(betas[i])
        s = net(math.sqrt(alpha) * x0[i] + math.sqrt(1 - alpha) * z[i], i + 1)
        by_hand += (1 - alpha) * float(((s + z[i] / math.sqrt(1 - alpha)) ** 2).sum())
    levels = torch.arange(1, 31, dtype=torch.float64) / 30
    loss = dsm(ddpm(betas), lambda x, t: net(x, (30 * t).round()[:, None]), x0, t=levels, noise=z)
    assert float(loss.sum()) == pytest.approx(by_hand, rel=1e-12)


def test_levels_are_drawn_uniformly(generator):
    """A mean over drawn levels is the sum of eq. 1 and 3 over N: a chi-squared test of 50 levels in 20,000 draws."""
    chain, seen = ddpm(linear_betas(50)), []
    score = lambda x, t: (seen.append(t), x)[1]
    dsm(chain, score, torch.zeros(20_000, 1), generator=generator)
    counts = torch.bincount((seen[0] * 50).round().long(), minlength=51)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:].numpy()).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_noise_loss_is_the_variance_weight(dtype, generator):
    """With out = -1/std the loss is |net - noise|^2 (Ho et al. 2020), also at t = 1e-5 where 1/std is 1,000."""
    x0 = torch.randn(64, 2, generator=generator).to(dtype)
    noise, t = torch.randn(64, 2, generator=generator).to(dtype), torch.logspace(-5, 0, 64).to(dtype)
    net = lambda x, label: torch.sin(3 * x) + label[:, None] / 999
    for noising in (VP(), SubVP(), ddpm(linear_betas(1000))):
        if noising.__class__.__name__ == "Chain":
            t = noising.sample_time(64, t_min=0, generator=generator, dtype=dtype)
        got = dsm(noising, net_score(net, noising), x0, t=t, noise=noise)
        raw = net(noising.perturb(x0, t, noise), noising.net_label(t))
        torch.testing.assert_close(
            got, ((raw - noise) ** 2).sum(1), rtol=1e-6 if dtype == torch.float32 else 1e-13, atol=1e-6
        )


@given(st.sampled_from([VE(), VP(), SubVP(), VP(T=2.0)]), st.floats(1e-3, 1.0), st.integers(0, 2**31))
def test_weights_are_what_they_say(noising, share, seed):
    g = torch.Generator().manual_seed(seed)
    x0, noise = (torch.randn(4, 2, generator=g, dtype=torch.float64) for _ in range(2))
    t = torch.full((4,), share * noising.T, dtype=torch.float64)
    score = lambda x, t: -x / (1 + t[:, None])
    loss = lambda weight: dsm(noising, score, x0, t=t, noise=noise, weight=weight)
    error = ((score(noising.perturb(x0, t, noise), t) + noise / noising.std(t)[:, None]) ** 2).sum(1)
    torch.testing.assert_close(loss(lambda t: t**2 + 1), (t**2 + 1) * error, rtol=1e-9, atol=0)
    torch.testing.assert_close(loss("variance"), loss(lambda t: noising.std(t) ** 2), rtol=1e-9, atol=0)
    torch.testing.assert_close(loss("likelihood"), loss(lambda t: noising.g(t) ** 2), rtol=1e-9, atol=0)
    torch.testing.assert_close(loss(lambda t: 2.5), 2.5 * error, rtol=1e-9, atol=0)


# --- importance sampling ---------------------------------------------------------------------------------------------


def _share_below(sde, t, t_min):
    """The density's distribution function, by hand: g^2/std^2 is the slope of log(std^2/scale^2)."""
    if isinstance(sde, VE):
        ratio = lambda t: 2 * np.log(5000) * t
    else:
        B = lambda t: 0.1 * t + 9.95 * t**2
        power = 2 if isinstance(sde, SubVP) else 1
        ratio = lambda t: power * np.log(-np.expm1(-B(t))) + B(t)
    return (ratio(t) - ratio(t_min)) / (ratio(1.0) - ratio(t_min))


@pytest.mark.parametrize("sde", [VE(), VP(), SubVP()], ids=repr)
@pytest.mark.parametrize("t_min", [1e-5, 0.01])
def test_importance_times_follow_g2_over_std2(sde, t_min, generator):
    seen = []
    score = lambda x, t: (seen.append(t), x)[1]
    x0 = torch.zeros(20_000, 1, dtype=torch.float64)
    dsm(sde, score, x0, weight="likelihood", sampling="importance", t_min=t_min, generator=generator)
    times = seen[0].numpy()
    assert t_min <= times.min()
    assert times.max() <= 1.0
    assert stats.kstest(times, lambda t: _share_below(sde, t, t_min)).pvalue > 1e-3


@pytest.mark.parametrize("sde", [VE(), VP(), SubVP()], ids=repr)
def test_importance_times_and_their_factor_are_exact(sde):
    """The distribution function of the times gives the uniform numbers back. On data 0 the score (1 - x/std)/std has the error
    |std s + noise|^2 = 1, so every loss is the factor: the mean of g^2/std^2 over [t_min, T]."""
    seen, t_min = [], 1e-3

    def score(x, t):
        seen.append(t)
        return (1 - x / sde.std(t)[:, None]) / sde.std(t)[:, None]

    g, h = (torch.Generator().manual_seed(0) for _ in range(2))
    x0 = torch.zeros(1000, 1, dtype=torch.float64)
    loss = dsm(sde, score, x0, weight="likelihood", sampling="importance", t_min=t_min, generator=g)
    u = torch.rand(1000, generator=h, dtype=torch.float64)
    torch.testing.assert_close(_share_below(sde, seen[0].numpy(), t_min), u.numpy(), rtol=0, atol=1e-12)
    t = torch.logspace(-3, 0, 200_001, dtype=torch.float64)
    mean = torch.trapezoid((sde.g(t) / sde.std(t)) ** 2, t) / (1 - t_min)
    torch.testing.assert_close(loss, mean.expand(1000), rtol=1e-7, atol=0)  # the rule's own error is smaller


@pytest.mark.parametrize("sde", [VP(), SubVP()], ids=repr)
def test_importance_sampling_keeps_the_mean_and_cuts_the_variance(sde, generator):
    n = 200_000
    x0 = mixture.sample(n, generator=generator, dtype=torch.float64)
    score = wrong_scores()[1]
    uniform = dsm(sde, score, x0, weight="likelihood", t_min=1e-3, generator=generator)
    better = dsm(sde, score, x0, weight="likelihood", t_min=1e-3, sampling="importance", generator=generator)
    z = (uniform.mean() - better.mean()) / ((uniform.var() + better.var()) / n).sqrt()
    assert abs(float(z)) < 4
    assert better.var() < 0.2 * uniform.var()  # measured: 0.12 (VP) and 0.08 (sub-VP) of it


# --- the losses without a kernel ------------------------------------------------------------------------------------------


def _coupled(x, t):
    """A smooth field on (batch, 3) that is no gradient."""
    return torch.stack([torch.sin(x[:, 1]) * x[:, 0], x[:, 2] ** 2 - x[:, 1], torch.exp(-(x[:, 0] ** 2)) + t], 1)


@pytest.mark.parametrize("reduced", [False, True])
def test_slicing_over_an_orthonormal_set_is_exact(reduced, generator):
    """For v = sqrt(D) q over an orthonormal basis the mean of v v^T is the identity: sliced becomes explicit."""
    x, t = torch.randn(6, 3, generator=generator, dtype=torch.float64), torch.linspace(0, 1, 6, dtype=torch.float64)
    Q = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    parts = [sliced(_coupled, x, t, probe=math.sqrt(3) * q.expand(6, 3), variance_reduced=reduced) for q in Q]
    torch.testing.assert_close(torch.stack(parts).mean(0), explicit(_coupled, x, t), rtol=1e-12, atol=1e-12)


def test_sliced_is_its_formula(generator):
    x, v = (torch.randn(6, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    t = torch.linspace(0, 1, 6, dtype=torch.float64)
    J = torch.stack([torch.func.jacfwd(lambda y, i=i: _coupled(y[None], t[i])[0])(x[i]) for i in range(6)])
    s, slope = _coupled(x, t), torch.einsum("bi,bij,bj->b", v, J, v)
    torch.testing.assert_close(sliced(_coupled, x, t, probe=v), slope + 0.5 * (v * s).sum(1) ** 2)
    torch.testing.assert_close(sliced(_coupled, x, t, probe=v, variance_reduced=True), slope + 0.5 * (s**2).sum(1))


def test_finite_differences_converge_with_order_two(generator):
    x, v = (torch.randn(50, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    t = torch.linspace(0, 1, 50, dtype=torch.float64)
    truth = sliced(_coupled, x, t, probe=v, variance_reduced=True).detach()
    errors = [
        float((finite_difference(_coupled, x, t, h=h, probe=v) - truth).abs().mean().detach())
        for h in (0.02, 0.01, 0.005)
    ]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert orders == pytest.approx([2.0, 2.0], abs=0.02)  # the next term is O(h^4)


def test_finite_differences_call_twice_and_make_no_second_derivative():
    calls = []
    W = torch.eye(2, requires_grad=True)
    score = lambda x, t: (calls.append(1), -x @ W)[1]
    finite_difference(score, torch.ones(3, 2), torch.zeros(3), h=0.1, probe=torch.ones(3, 2)).sum().backward()
    assert len(calls) == 2
    # d/dW of -v^T W v + |W x|^2/2 with x = v = 1: -1 + 1 = 0 at the identity (the differences of a linear score are exact;
    # the mean of s at the two points is s(x)).
    torch.testing.assert_close(W.grad, torch.zeros(2, 2), atol=1e-5, rtol=0)
