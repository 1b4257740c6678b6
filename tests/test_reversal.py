"""Reversals: of all drifts one writes down, the one that runs the marginals backwards."""

import math

import pytest
import torch

from sdelib import (
    VE,
    VP,
    Gaussian,
    Ito,
    SubVP,
    ddpm,
    euler_maruyama,
    linear_betas,
    reverse,
    reverse_general,
    simulate,
)

G1 = Gaussian([0.5], 0.25)


def ends_at(sde, law, drift, diffusion, n, t_min=1e-3):
    """The exact mean and variance at t_min after n Euler-Maruyama steps from the exact law of x(T), in one dimension.

    The drift is affine in x, so two points tell each step's x -> A x + c; all steps are read in one call.
    """
    times = torch.linspace(sde.T, t_min, n + 1, dtype=torch.float64)
    dt, t = times.diff()[:, None], times[:-1]
    c = drift(torch.zeros(n, 1, dtype=torch.float64), t) * dt
    A = 1 + drift(torch.ones(n, 1, dtype=torch.float64), t) * dt - c
    spread = diffusion(t)[:, None] ** 2 * dt.abs()
    start = law.at(sde, sde.T)
    m, v = float(start.mean), float(start.cov)
    for Ai, ci, ri in zip(*(k[:, 0].tolist() for k in (A, c, spread)), strict=True):
        m, v = Ai * m + ci, Ai * Ai * v + ri
    return m, v


def drift_with(sde, score, factor):
    """f x - factor g^2 score: the reverse drift has factor 1, the flow's 1/2."""
    return lambda x, t: sde.drift(x, t) - factor * sde.diffusion(t)[:, None] ** 2 * score(x, t)


def test_of_four_signs_and_factors_one_reproduces_the_marginals():
    """N(0, 1) data under VP stay N(0, 1): the end variance of each choice is known without draws.

    With factor c and full noise dv/dt = (2c - 1) beta v - beta, run from 1 at T down to 0: c = 1/2 ends at 1 + B(T) = 11.05,
    c = -1/2 and -1 grow as exp(2 B) and exp(3 B). Without noise c = 1 collapses to exp(-B) = 4.3e-5.
    """
    sde, law = VP(), Gaussian([0.0], 1.0)
    score, silent = law.score_fn(sde), lambda t: 0 * t
    n, B = 4000, 10.05

    def variance(factor, noise=sde.diffusion):
        return ends_at(sde, law, drift_with(sde, score, factor), noise, n, t_min=1e-6)[1]

    assert variance(1.0) == pytest.approx(1.0, abs=2e-3)  # error of order 1/n times beta(T)^2/4
    assert variance(0.5) == pytest.approx(1 + B, rel=2e-3)
    assert variance(-0.5) == pytest.approx((1 + 0.5) * math.exp(2 * B) - 0.5, rel=0.1)  # relative error B beta(T)/n
    assert 1e12 < variance(-1.0) < 1e14
    assert variance(0.5, silent) == pytest.approx(1.0, abs=1e-9)  # the flow of a stationary law stands still
    assert variance(1.0, silent) == pytest.approx(math.exp(-B), rel=0.1)
    # and the library returns exactly the two right ones
    for eta, factor in ((1.0, 1.0), (0.0, 0.5)):
        x, t = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None], torch.linspace(0.1, 1, 9, dtype=torch.float64)
        drift, diffusion = reverse(sde, score, eta=eta)
        torch.testing.assert_close(drift(x, t), drift_with(sde, score, factor)(x, t), rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(diffusion(t), eta * sde.g(t), rtol=0, atol=0)


@pytest.mark.parametrize("sde", [VE(), VP(), SubVP(), VP(0.2, 9.0, T=2.0)], ids=repr)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0, 1.5, 2.0])
def test_every_eta_has_the_marginals(sde, eta):
    """Mean and variance at t_min approach the exact ones, and halving the step about halves the error (order 1)."""
    t_min, errors = 0.1, []
    truth = G1.at(sde, t_min)
    for n in (2000, 4000):
        mean, variance = ends_at(sde, G1, *reverse(sde, G1.score_fn(sde), eta=eta), n, t_min=t_min)
        errors.append((abs(mean - float(truth.mean)), abs(variance / float(truth.cov) - 1)))
    for coarse, fine in zip(*errors, strict=True):
        assert fine < 0.01  # the worst: the flow of VE, whose first steps are the longest
        assert fine < 0.7 * coarse or fine < 1e-12  # 0.5, with room for the next order


def test_euler_maruyamas_variance_error_has_order_one():
    """book.md's figure: 1.00 +- 0.03, by regression over four grids."""
    sde = VP()
    truth = float(G1.at(sde, 1e-3).cov)
    ns = [400, 800, 1600, 3200]
    logs = [math.log(abs(ends_at(sde, G1, *reverse(sde, G1.score_fn(sde)), n)[1] - truth)) for n in ns]
    slopes = torch.linalg.lstsq(
        torch.tensor([[1.0, -math.log(n)] for n in ns], dtype=torch.float64),
        torch.tensor(logs, dtype=torch.float64)[:, None],
    ).solution
    assert float(slopes[1]) == pytest.approx(1.0, abs=0.03)


# --- a diffusion matrix that depends on x (appendix A) -------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_general_with_g_times_identity_is_reverse(eta, generator):
    sde, law = SubVP(), Gaussian([0.5, -1.0], torch.tensor([[0.5, 0.2], [0.2, 0.3]]))
    x, t = torch.randn(8, 2, generator=generator, dtype=torch.float64), torch.linspace(0.05, 1, 8, dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    G = lambda x, t: sde.g(t)[:, None, None] * eye
    drift, diffusion = reverse(sde, law.score_fn(sde), eta=eta)
    general, matrix = reverse_general(sde.drift, G, law.score_fn(sde), eta=eta)
    torch.testing.assert_close(general(x, t), drift(x, t), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(matrix(x, t), diffusion(t)[:, None, None] * eye, rtol=1e-14, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(general(x, t), drift(x, t), rtol=1e-12, atol=1e-12)


def _mixing(x, t):
    """A diffusion matrix that depends on both coordinates and is not symmetric."""
    u, v = x[:, 0], x[:, 1]
    row = torch.stack([1 + 0.3 * torch.sin(v), 0.4 * u], 1)
    return torch.stack([row, torch.stack([0.2 * v * u, 1.2 + 0.2 * torch.cos(u)], 1)], 1)


def _banana(x):
    """log of a density on the plane that is no Gaussian."""
    return -0.5 * x[:, 0] ** 2 - 0.5 * (x[:, 1] - 0.5 * x[:, 0] ** 2) ** 2


def test_a_stationary_reversible_diffusion_is_its_own_reversal(generator):
    """f = (div M + M grad log p)/2 with M = G G^T leaves p alone and is reversible, so backwards it looks the same.

    On the library's axis, where time runs down, that means drift -f for eta = 1 and no flow at all for eta = 0. Here div M comes
    from torch.func's full Jacobian and grad log p from autograd, one point at a time: not the library's route.
    """
    x = torch.randn(20, 2, generator=generator, dtype=torch.float64)
    t = torch.zeros(20, dtype=torch.float64)

    def forward_one(y):
        def M(z):
            g = _mixing(z[None], None)[0]
            return g @ g.T

        div = torch.einsum("ijj->i", torch.func.jacrev(M)(y))
        return 0.5 * (div + M(y) @ torch.func.grad(lambda z: _banana(z[None])[0])(y))

    forward = lambda x, t: torch.stack([forward_one(y) for y in x])
    score = lambda x, t: torch.stack([torch.func.grad(lambda z: _banana(z[None])[0])(y) for y in x])
    f = forward(x, t)
    assert float(f.abs().max()) > 0.5
    back, matrix = reverse_general(forward, _mixing, score)
    torch.testing.assert_close(back(x, t), -f, rtol=1e-12, atol=1e-12)
    assert torch.equal(matrix(x, t), _mixing(x, t))
    flow, silent = reverse_general(forward, _mixing, score, eta=0.0)
    torch.testing.assert_close(flow(x, t), 0 * f, rtol=0, atol=1e-12)
    assert torch.equal(silent(x, t), 0 * _mixing(x, t))


# Geometric Brownian motion dx = mu x dt + sigma x dw from a log-normal: log x(t) ~ N(m + (mu - sigma^2/2) t, v + sigma^2 t).
MU, SIGMA, M0, V0 = 0.4, 0.8, 0.2, 0.3


def _log_law(t):
    return M0 + (MU - SIGMA**2 / 2) * t, V0 + SIGMA**2 * t


def _lognormal_score(x, t):
    m, v = _log_law(t[:, None])
    return -(1 + (torch.log(x) - m) / v) / x


def _times_x(x, t):
    return SIGMA * x[:, :, None]


def test_the_flow_of_geometric_brownian_motion():
    """In y = log x the flow is that of a Gaussian, y' = mu - sigma^2/2 + sigma^2 (y - m)/(2 v); in x it is x y'."""
    x, t = torch.linspace(0.2, 4, 12, dtype=torch.float64)[:, None], torch.linspace(0, 1, 12, dtype=torch.float64)
    m, v = _log_law(t[:, None])
    expected = x * (MU - SIGMA**2 / 2 + 0.5 * SIGMA**2 * (torch.log(x) - m) / v)
    flow, _ = reverse_general(lambda x, t: MU * x, _times_x, _lognormal_score, eta=0.0)
    torch.testing.assert_close(flow(x, t), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_geometric_brownian_motion_runs_backwards(eta, generator):
    """From the exact log-normal at t = 1 back to t = 0: mean and variance of log x, each within 4 standard errors plus bias.

    Leaving out the divergence of G G^T ends 0.54 (eta = 1/2) and 0.69 (eta = 1) away in the mean (measured).
    """
    n, m1, v1 = 20_000, *_log_law(1.0)
    x1 = torch.exp(m1 + math.sqrt(v1) * torch.randn(n, 1, generator=generator, dtype=torch.float64))
    step = euler_maruyama(*reverse_general(lambda x, t: MU * x, _times_x, _lognormal_score, eta=eta))
    with torch.no_grad():
        y = torch.log(simulate(step, x1, torch.linspace(1, 0, 201), generator=generator).x[:, 0].clamp_min(1e-3))
    bias = 0.005  # Euler-Maruyama at dt = 1/200; with 100,000 draws below 0.0025 from dt = 1/100 on
    assert float(y.mean()) == pytest.approx(M0, abs=4 * math.sqrt(V0 / n) + bias)
    assert float(y.var()) == pytest.approx(V0, abs=4 * V0 * math.sqrt(2 / n) + bias)


# --- what it takes ----------------------------------------------------------------------------------------------------------


def test_anything_with_drift_and_diffusion_can_be_reversed():
    """A duck with a constant diffusion, an Ito, and an SDE: the same numbers."""

    class Duck:
        def drift(self, x, t):
            return -x

        def diffusion(self, t):
            return 2.0

    x, t = torch.ones(3, 1, 2, 2), torch.full((3,), 0.5)
    score = lambda x, t: -3 * x
    for sde in (Duck(), Ito(lambda x, t: -x, lambda t: 2.0), Ito(lambda x, t: -x, lambda t: 2.0 + 0 * t)):
        drift, diffusion = reverse(sde, score, eta=0.5)
        assert torch.equal(drift(x, t), -x + 0.5 * 1.25 * 4 * 3 * x)
        assert torch.equal(torch.as_tensor(diffusion(t)).expand(3), torch.ones(3))
        assert drift.nfe == 1


def test_float64_time_does_not_promote_float32_data():
    drift, _ = reverse(VP(), lambda x, t: -x)
    assert drift(torch.ones(2, 3), torch.full((2,), 0.5, dtype=torch.float64)).dtype == torch.float32


@pytest.mark.parametrize("eta", [-1.0, math.nan, math.inf])
def test_eta_is_a_finite_number_not_below_zero(eta):
    with pytest.raises(ValueError, match="eta: needs a finite number above 0, got"):
        reverse(VP(), lambda x, t: -x, eta=eta)
    with pytest.raises(ValueError, match="eta: needs a finite number above 0, got"):
        reverse_general(lambda x, t: x, _mixing, lambda x, t: -x, eta=eta)


def test_bad_input():
    with pytest.raises(TypeError, match=r"sde: needs drift\(x, t\) and diffusion\(t\), which Chain lacks"):
        reverse(ddpm(linear_betas(50)), lambda x, t: -x)
    with pytest.raises(TypeError, match=r"score: needs a function of \(x, t\), got int"):
        reverse(VP(), 3)
    with pytest.raises(TypeError, match=r"G: needs a function of \(x, t\), got float"):
        reverse_general(lambda x, t: x, 1.0, lambda x, t: -x)
    back, _ = reverse_general(lambda x, t: x, lambda x, t: x, lambda x, t: -x)
    with pytest.raises(
        ValueError, match=r"G: needs shape \(batch, D, D\) on points \(batch, D\), got \(4, 2\) on \(4, 2\)"
    ):
        back(torch.ones(4, 2), torch.zeros(4))
