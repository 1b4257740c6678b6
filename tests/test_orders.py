"""Euler-Maruyama against closed forms: moments, orders of convergence, and another library's path."""

import itertools
import math

import pytest
import torch

from sdelib import VE, VP, Ito, SubVP, euler_maruyama, simulate

MU, SIGMA = 0.3, 0.8  # geometric Brownian motion dx = mu x dt + sigma x dw, x(0) = 1
gbm = euler_maruyama(lambda x, t: MU * x, lambda x, t: SIGMA * x)


class Brownian:
    """One Brownian path for every grid: steps of `each` fine increments, as the unit noise that makes them."""

    def __init__(self, fine, each):
        self.noise = iter(fine.reshape(-1, each, *fine.shape[1:]).sum(1) / math.sqrt(each))

    def randn_like(self, x):
        return next(self.noise)


def slope(ns, errors):
    """Order of convergence: least squares of -log error on log n."""
    X, Y = torch.tensor(ns, dtype=torch.float64).log(), torch.tensor(errors, dtype=torch.float64).log()
    X, Y = X - X.mean(), Y - Y.mean()
    return -float((X * Y).sum() / (X * X).sum())


def grid(n, T=1.0):
    return torch.linspace(0, T, n + 1, dtype=torch.float64)


# --- orders ----------------------------------------------------------------------------------------------------------------


def test_strong_order_one_half_where_the_noise_depends_on_x(generator):
    """x(1) = exp((mu - sigma^2/2) + sigma w(1)) along the very path; root mean square over 4,000 of them: order 0.50 +- 0.05."""
    fine, ns = torch.randn(1024, 4000, 1, generator=generator, dtype=torch.float64), [16, 32, 64, 128, 256, 512, 1024]
    exact = torch.exp(MU - SIGMA**2 / 2 + SIGMA * fine.sum(0) / 32)
    ends = [simulate(gbm, torch.ones_like(exact), grid(n), generator=Brownian(fine, 1024 // n)).x for n in ns]
    assert slope(ns, [float((end - exact).pow(2).mean().sqrt()) for end in ends]) == pytest.approx(0.5, abs=0.05)


def test_strong_order_one_where_it_does_not(generator):
    """dx = -x dt + dw: x(1) = int exp(s - 1) dw, whose sum over 8,192 fine increments is its own reference (error 1e-4)."""
    fine, ns = torch.randn(8192, 500, 1, generator=generator, dtype=torch.float64), [8, 16, 32, 64, 128]
    middle = (torch.arange(8192, dtype=torch.float64) + 0.5) / 8192
    exact = (torch.exp(middle - 1)[:, None, None] * fine / math.sqrt(8192)).sum(0)
    step = euler_maruyama(lambda x, t: -x, lambda t: 1.0)
    ends = [simulate(step, 0 * exact, grid(n), generator=Brownian(fine, 8192 // n)).x for n in ns]
    assert slope(ns, [float((end - exact).pow(2).mean().sqrt()) for end in ends]) == pytest.approx(1.0, abs=0.05)


class Signs:
    """Every one of the 2^n paths of n coin tosses, item by item: expectations without draws."""

    def __init__(self, n):
        self.noise = iter(
            torch.tensor(list(itertools.product([-1.0, 1.0], repeat=n)), dtype=torch.float64).T[..., None]
        )

    def randn_like(self, x):
        return next(self.noise)


def test_weak_order_one():
    """Coin tosses have the normal's first three moments, so over all of them the scheme's first two moments are what they are
    with normal noise: (1 + mu h)^n and ((1 + mu h)^2 + sigma^2 h)^n, against exp(mu) and exp(2 mu + sigma^2)."""
    ns, errors = [4, 6, 9, 12], []
    for n in ns:
        x = simulate(gbm, torch.ones(2**n, 1, dtype=torch.float64), grid(n), generator=Signs(n)).x
        h = 1 / n
        assert float(x.mean()) == pytest.approx((1 + MU * h) ** n, rel=1e-13)
        assert float((x**2).mean()) == pytest.approx(((1 + MU * h) ** 2 + SIGMA**2 * h) ** n, rel=1e-13)
        errors.append((math.exp(MU) - float(x.mean()), math.exp(2 * MU + SIGMA**2) - float((x**2).mean())))
    # at these few steps the next order still shows: 0.97 and 0.9
    for error, slack in zip(zip(*errors, strict=True), (0.05, 0.15), strict=True):
        assert slope(ns, error) == pytest.approx(1.0, abs=slack)


# --- moments ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", [VE(), VP(), SubVP(), VP(0.2, 9.0, T=2.0)], ids=repr)
def test_the_forward_process_has_its_kernels_moments(sde, generator):
    """From one point: draws against the scheme's own mean and variance (4 standard errors), and these against the kernel's."""
    n, N, start = 500, 20_000, 1.5
    times = torch.linspace(0, sde.T, n + 1, dtype=torch.float64)
    x0 = torch.full((N, 1), start, dtype=torch.float64)
    x = simulate(euler_maruyama(sde.drift, sde.diffusion), x0, times, generator=generator).x
    m, v, h = start, 0.0, sde.T / n
    for f, g in zip(sde.f(times[:-1]).tolist(), sde.g(times[:-1]).tolist(), strict=True):
        m, v = (1 + f * h) * m, (1 + f * h) ** 2 * v + g * g * h
    assert abs(float(x.mean()) - m) < 4 * math.sqrt(v / N)
    assert abs(float(x.var()) - v) < 4 * v * math.sqrt(2 / N)
    # order 1: errors of h times the rates' size, 10 (VP at t = 1) and 17 (VE) for the variance's growth
    T = torch.tensor(sde.T, dtype=torch.float64)
    start_variance = float(sde.std(0 * T)) ** 2  # VE's std(0) is not 0, and simulation starts from clean data
    assert m == pytest.approx(start * float(sde.scale(T)), abs=0.01)
    assert v == pytest.approx(float(sde.std(T)) ** 2 - start_variance, rel=0.03)


def test_a_double_well_settles_in_its_stationary_law(generator):
    """dx = (x - x^3) dt + dw settles in exp(x^2 - x^4/2)/Z: moments by the trapezoidal rule, and both wells filled."""
    well, N = Ito(lambda x, t: x - x**3, lambda t: 1.0, T=10.0), 20_000
    x = simulate(
        euler_maruyama(well.drift, well.diffusion), torch.full((N, 1), 1.0), grid(1000, 10.0), generator=generator
    ).x
    y = torch.linspace(-5, 5, 2001, dtype=torch.float64)
    p = torch.softmax(y**2 - y**4 / 2, 0)
    for power in (2, 4):
        moment, second = float((p * y**power).sum()), float((p * y ** (2 * power)).sum())
        error = math.sqrt((second - moment**2) / N)
        bias = 0.02 * moment  # Euler-Maruyama at dt = 0.01
        assert abs(float((x**power).double().mean()) - moment) < 4 * error + bias
    # It started in the right well; the generator's spectral gap is 0.42 (by finite differences), and exp(-4.2) is 1.5 %.
    assert 0.45 < float((x > 0).float().mean()) < 0.55


def test_torchsde_walks_the_same_path(generator):
    """The same Brownian increments in another library's Euler scheme: an OU process in growing noise, to rounding."""
    torchsde = pytest.importorskip("torchsde")

    class OU(torch.nn.Module):
        noise_type, sde_type = "diagonal", "ito"

        def f(self, t, x):
            return 0.3 - 1.7 * x

        def g(self, t, x):
            return (0.5 + t) * torch.ones_like(x)

    x0 = torch.randn(16, 3, generator=generator, dtype=torch.float64)
    motion = torchsde.BrownianInterval(0.0, 1.0, size=(16, 3), dtype=torch.float64, entropy=5)
    times = [i / 64 for i in range(65)]
    theirs = torchsde.sdeint(
        OU(), x0, torch.tensor([0.0, 1.0], dtype=torch.float64), bm=motion, method="euler", dt=1 / 64
    )[-1]

    class Increments:
        spans = itertools.pairwise(times)

        def randn_like(self, x):
            return motion(*next(self.spans)) * 8.0  # over sqrt(1/64)

    ours = simulate(euler_maruyama(lambda x, t: 0.3 - 1.7 * x, lambda t: 0.5 + t), x0, times, generator=Increments()).x
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
