"""Stochastic Runge-Kutta: its formula by hand, strong and weak orders against closed forms, laws without Monte Carlo."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline

from sdelib import (
    VE,
    VP,
    Gaussian,
    SubVP,
    affine_law,
    euler_maruyama,
    reverse,
    reverse_general,
    simulate,
    stochastic_runge_kutta,
)
from tests.problems import g1, g3, z_scores
from tests.test_orders import grid, slope

f64 = torch.float64


class Draws:
    """A noise source that hands out what it was given, in order."""

    def __init__(self, *noises):
        self.noises = iter(noises)

    def randn_like(self, x):
        return next(self.noises)


class Path:
    """A Brownian path on [0, 1] known at fine times by its increments and areas, so that every coarser grid walks it exactly.

    Over a fine step h, I1 = sqrt(h) z1 and I10 = h^(3/2) (z1 + z2/sqrt 3)/2 (Kloeden & Platen 1992, eq. 10.4.3).
    """

    def __init__(self, n, paths, generator):
        z1, z2 = torch.randn(2, n, paths, 1, generator=generator, dtype=f64)
        self.h = 1 / n
        self.increments = z1 * math.sqrt(self.h)
        self.areas = self.h**1.5 * (z1 + z2 / math.sqrt(3)) / 2
        self.w = torch.cat([0 * z1[:1], self.increments.cumsum(0)])  # at the fine times
        self.integral = torch.cat([0 * z1[:1], (self.areas + self.w[:-1] * self.h).cumsum(0)])  # of w, from 0

    def steps(self, n):
        """The unit normals of n steps, z1 and z2 by turns."""
        at = torch.arange(n + 1) * ((len(self.w) - 1) // n)
        w, integral, H = self.w[at], self.integral[at], 1 / n
        z1 = w.diff(dim=0) / math.sqrt(H)
        z2 = (2 * (integral.diff(dim=0) - w[:-1] * H) / H**1.5 - z1) * math.sqrt(3)
        return Draws(*(z for pair in zip(z1, z2, strict=True) for z in pair))


def ends(step, path, ns):
    return [simulate(step, torch.zeros_like(path.w[0]), grid(n), generator=path.steps(n)).x for n in ns]


# --- the formula ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t, t_next", [(0.6, 0.55), (0.3, 0.7), (0.2, 0.0)])
@pytest.mark.parametrize("shape", [(2,), (3, 2, 2)])
def test_the_step_is_its_formula_in_both_directions(t, t_next, shape):
    """SRA1 (Rößler 2010), written with the two Brownian integrals; the mean is x' without the integral of g dw."""
    x, z1, z2 = torch.randn(3, 5, *shape, generator=torch.Generator().manual_seed(2), dtype=f64)
    drift, g, h = lambda x, t: torch.sin(x) + t.reshape(-1, *[1] * (x.ndim - 1)), lambda t: 1 + t**2, t_next - t
    f = lambda x, t: torch.sin(x) + t
    I1, I10 = math.sqrt(abs(h)) * z1, abs(h) ** 1.5 * (z1 + z2 / math.sqrt(3)) / 2
    y = x + 0.75 * h * f(x, t) + 1.5 * (1 + t_next**2) * I10 / abs(h)
    mean = x + h * f(x, t) / 3 + 2 * h * f(y, t + 0.75 * h) / 3
    now, later = (torch.full((5,), v, dtype=f64) for v in (t, t_next))
    stepped = stochastic_runge_kutta(drift, g)(x, now, later, Draws(z1, z2))
    torch.testing.assert_close(stepped.mean, mean, rtol=1e-13, atol=1e-13)
    noise = (1 + t_next**2) * I1 + (t**2 - t_next**2) * I10 / abs(h)
    torch.testing.assert_close(stepped.x, mean + noise, rtol=1e-13, atol=1e-13)
    assert torch.equal(stepped.t, later)


@pytest.mark.parametrize("sde", [VE(), SubVP(), VP(0.2, 9.0, T=2.0)], ids=repr)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("way", [1, -1])
def test_it_knows_a_reversals_coefficients(sde, eta, way):
    """What reverse returns for an SDE is planned by its rates; wrapped in a function it is called like any drift."""
    calls = []
    score = lambda x, t: (calls.append(t), -torch.tanh(x) / (1 + t[:, None]))[1]
    drift, g = reverse(sde, score, eta=eta)
    planned, called = stochastic_runge_kutta(drift, g), stochastic_runge_kutta(lambda x, t: drift(x, t), lambda t: g(t))
    x, times = torch.randn(4, 2, generator=torch.Generator().manual_seed(1), dtype=f64), [0.9, 0.7, 0.4, 0.2][::way]
    seeded = lambda: torch.Generator().manual_seed(7)
    one, two = (simulate(step, x, times, generator=seeded()).x for step in (planned, called))
    torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-11)
    calls.clear()
    assert simulate(planned, x, times, generator=seeded()).nfe == len(calls) == 3 * planned.nfe == 6
    fractions = [(float(t[0]) - a) / (b - a) for t, (a, b) in zip(calls[1::2], itertools.pairwise(times), strict=True)]
    assert fractions == pytest.approx([0.75] * 3)  # the end of a step, where a score may not exist, is never asked for


# --- strong order ---------------------------------------------------------------------------------------------------------

# dx = -c e^x dt + g dw with g = sigma (1 + t), x(0) = 0, is solved by x = m - log(1 + c int e^m ds) with m = int g dw
# (differentiate log(1 + ...)), and m(t) = sigma ((1 + t) w(t) - int w ds).
C, SIGMA = 3.0, 0.6
drift, diffusion = lambda x, t: -C * torch.exp(x), lambda t: SIGMA * (1 + t)


def test_strong_order_three_halves(generator):
    """Along the very path: 1.5 +- 0.1. On coarser grids the drift's own order, 2, still shows.

    The reference sums e^m over 8,192 fine steps by e^m (h + g I10 + g^2 h^2/4): its error is of order h^(3/2), an eighth of
    the scheme's at 2,048 steps.
    """
    path, ns = Path(8192, 400, generator), [256, 512, 1024, 2048]
    t = torch.arange(8193, dtype=f64)[:, None, None] * path.h
    m, g = SIGMA * ((1 + t) * path.w - path.integral), diffusion(t[:-1])
    area = (torch.exp(m[:-1]) * (path.h + g * path.areas + (g * path.h) ** 2 / 4)).sum(0)
    exact = m[-1] - torch.log1p(C * area)
    errors = [float((x - exact).pow(2).mean().sqrt()) for x in ends(stochastic_runge_kutta(drift, diffusion), path, ns)]
    assert slope(ns, errors) == pytest.approx(1.5, abs=0.1)


def test_strong_order_two_where_the_drift_is_linear(generator):
    """dx = -x dt + (1 + t) dw: x(1) = int e^(s-1) (1 + s) dw, summed over 2,048 steps with their areas (error 1e-7)."""
    path, ns = Path(2048, 400, generator), [4, 8, 16, 32, 64]
    s = torch.arange(2049, dtype=f64)[:, None, None] * path.h
    weight = torch.exp(s - 1) * (1 + s)
    exact = (weight[1:] * path.increments - weight.diff(dim=0) * path.areas / path.h).sum(0)
    step = stochastic_runge_kutta(lambda x, t: -x, lambda t: 1 + t)
    errors = [float((x - exact).pow(2).mean().sqrt()) for x in ends(step, path, ns)]
    assert slope(ns, errors) == pytest.approx(2.0, abs=0.1)


def test_torchsde_walks_the_same_path(generator):
    """Another library's SRK with the same increments and areas: a nonlinear drift in growing noise, to rounding."""
    torchsde = pytest.importorskip("torchsde")

    class Same(torch.nn.Module):
        noise_type, sde_type = "additive", "ito"

        def f(self, t, x):
            return torch.sin(3 * x) - t * x

        def g(self, t, x):
            return (0.5 + t) * torch.eye(3, dtype=f64).expand(16, 3, 3)

    x0 = torch.randn(16, 3, generator=generator, dtype=f64)
    kind = {"dtype": f64, "entropy": 5, "levy_area_approximation": "space-time"}
    motion = torchsde.BrownianInterval(0.0, 1.0, size=(16, 3), **kind)
    spans = [(i / 64, (i + 1) / 64) for i in range(64)]
    ends = torch.tensor([0.0, 1.0], dtype=f64)
    theirs = torchsde.sdeint(Same(), x0, ends, bm=motion, method="srk", dt=1 / 64)[-1]

    noises = []
    for span in spans:
        increment, area = motion(*span, return_U=True)
        z1 = increment * 8.0
        noises += [z1, (2 * area * 64**1.5 - z1) * math.sqrt(3)]
    step = stochastic_runge_kutta(lambda x, t: torch.sin(3 * x) - t[:, None] * x, lambda t: 0.5 + t)
    ours = simulate(step, x0, grid(64), generator=Draws(*noises)).x
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


# --- weak order, without Monte Carlo ---------------------------------------------------------------------------------------


def expectation(step, n, draws):
    """E[exp(-x(1))] under n steps of the scheme, from x(0) = 0: u(x) = E[u(step(x))] backwards, by Gauss-Hermite quadrature
    over a step's normals and a cubic spline of log u on [-8, 4], some five standard deviations."""
    nodes = [np.polynomial.hermite_e.hermegauss(k) for k in draws]
    x = np.linspace(-8, 4, 300)
    points = [torch.tensor(v).reshape(-1, 1) for v in np.meshgrid(x, *(z for z, _ in nodes), indexing="ij")]
    weights = np.prod(np.meshgrid(*(w / w.sum() for _, w in nodes), indexing="ij"), axis=0).reshape(-1)
    log_u = -x
    for k in reversed(range(n)):
        t = torch.full((len(points[0]),), k / n, dtype=f64)
        after = step(points[0], t, t + 1 / n, Draws(*points[1:])).x.numpy().reshape(len(x), -1)
        log_u = np.log(np.exp(CubicSpline(x, log_u)(after.clip(-8, 4))) @ weights)
    return math.exp(CubicSpline(x, log_u)(0.0))


def test_weak_order_two():
    """For the same SDE y = e^-x has dy = (c + g^2 y/2) dt - g y dw, so E y solves a linear equation: a closed form up to one
    smooth integral. Orders from 8 to 32 steps: 2.00 for Runge-Kutta, 1.07 for Euler-Maruyama."""
    growth = lambda t: SIGMA**2 / 6 * ((1 + t) ** 3 - 1)
    s, weights = np.polynomial.legendre.leggauss(40)
    exact = math.exp(growth(1)) * (1 + C * float(weights @ np.exp(-growth((1 + s) / 2))) / 2)
    for build, draws, order, slack in (
        (stochastic_runge_kutta, (14, 10), 2.0, 0.05),
        (euler_maruyama, (14,), 1.0, 0.1),
    ):
        ns = [8, 16, 32]
        errors = [abs(expectation(build(drift, diffusion), n, draws) - exact) for n in ns]
        assert slope(ns, errors) == pytest.approx(order, abs=slack)


@pytest.mark.parametrize(
    "sde, t_min", [(VE(), 1e-3), (VP(), 1e-3), (SubVP(), 1e-3), (VP(0.2, 9.0, T=2.0), 0.01)], ids=repr
)
def test_the_reversed_law_converges_at_order_two(sde, t_min):
    """On Gaussian data, from the exact law at T to t_min with the exact score: mean and covariance gain a factor 4 a doubling.

    At these step sizes the next order still shows, most on VE, whose variance falls by a factor of 2 million.
    """
    data, ns = g3(), [100, 200, 400]
    step, truth = stochastic_runge_kutta(*reverse(sde, data.score_fn(sde))), data.at(sde, t_min)
    laws = [affine_law(step, data.at(sde, sde.T), torch.linspace(sde.T, t_min, n + 1, dtype=f64))[-1] for n in ns]
    assert slope(ns, [float((law.cov - truth.cov).norm()) for law in laws]) == pytest.approx(2.0, abs=0.05)
    gaps = [float((law.mean - truth.mean).norm()) for law in laws]
    if isinstance(sde, VE):  # whose means do not move
        assert max(gaps) < 1e-12
    else:
        assert slope(ns, gaps) == pytest.approx(2.0, abs=0.05)


def test_an_evaluation_buys_more_than_with_euler_maruyama():
    """On VP at 200 evaluations of the score, KL to the exact law: 1.8e-7 nats after 100 steps, 1.8e-5 after 200 of Euler's."""
    sde, law = VP(), g1()
    reversal, truth = reverse(sde, law.score_fn(sde)), law.at(sde, 1e-3)
    for build, n, printed, half in ((stochastic_runge_kutta, 100, 1.8e-7, 5e-9), (euler_maruyama, 200, 1.8e-5, 5e-7)):
        step = build(*reversal)
        assert step.nfe * n == 200
        last = affine_law(step, law.at(sde, 1.0), torch.linspace(1, 1e-3, n + 1, dtype=f64))[-1]
        assert last.kl(truth) == pytest.approx(printed, abs=half)


@pytest.mark.parametrize("denoise", [False, True])
def test_samples_follow_the_law(denoise, generator):
    """Two draws a step, seen by affine_law: 40,000 samples on a coarse grid against the law that it reads off the step."""
    sde, data = VP(), g3()
    step, start, times = (
        stochastic_runge_kutta(*reverse(sde, data.score_fn(sde))),
        data.at(sde, 1.0),
        [1.0, 0.6, 0.3, 0.1],
    )
    x = simulate(step, start.sample(40_000, generator=generator), times, generator=generator, denoise=denoise).x
    law = affine_law(step, start, times, denoise=denoise)[-1]
    assert float((law.cov - data.at(sde, 0.1).cov).abs().max()) > 0.01  # far from the truth: no agreeing by chance
    assert float(z_scores(x, law.mean, law.cov).abs().max()) < 4.5  # 12 numbers: chance 1e-4


# --- what it refuses --------------------------------------------------------------------------------------------------------


def test_bad_input():
    f = lambda x, t: -x
    matrix = reverse_general(f, lambda x, t: torch.diag_embed(torch.ones_like(x)), f)
    for g in (lambda x, t: x, matrix[1]):
        with pytest.raises(
            TypeError, match=r"diffusion: needs a function of t alone, got one of \(x, t\); .* euler_maruyama"
        ):
            stochastic_runge_kutta(f, g)
    with pytest.raises(TypeError, match="diffusion: needs a function, got float"):
        stochastic_runge_kutta(f, 1.0)
    with pytest.raises(TypeError, match="drift: needs a function, got Gaussian; a law's score"):
        stochastic_runge_kutta(Gaussian([0.0], 1.0), lambda t: 1.0)
    with pytest.raises(ValueError, match="times: need to rise or fall strictly"):
        simulate(stochastic_runge_kutta(f, lambda t: 1.0), torch.ones(2, 1), [0.0, 1.0, 0.5])
