"""Exact likelihood by the flow: against closed forms, scipy and torchdiffeq by hand, and the entropy of integers."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sdelib import (
    VE,
    VP,
    Gaussian,
    Ito,
    NonFiniteError,
    Quantised,
    SolverError,
    SubVP,
    bits_per_dim,
    ddpm,
    dequantise,
    linear_betas,
    log_likelihood,
    net_score,
    probes,
)
from sdelib.models import ncsnpp
from tests.problems import SDES, g1, g3, gm2, mp_kernel, name

f64 = torch.float64
PAPER = [VE(), VP(), SubVP()]
LAWS = {"G1": g1, "G3": g3, "GM2": gm2}
each_sde = pytest.mark.parametrize("sde", PAPER, ids=name)


def tolerance(tol):
    return {"rtol": tol, "atol": tol}


def draw(law, n, generator):
    return law.sample(n, generator=generator, dtype=f64)


# --- the number is right ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", [make() for make in LAWS.values()], ids=LAWS)
@pytest.mark.parametrize("sde", SDES, ids=name)
def test_with_the_prior_p_T_it_is_the_exact_density(sde, law, generator):
    """At tolerance 1e-7 the worst of all 18 pairs errs by 1.5e-6 nats, some 15 tolerances over the path."""
    x = draw(law, 20, generator)
    found = log_likelihood(sde, law.score_fn(sde), x, prior=law.at(sde, sde.T).log_prob, **tolerance(1e-7))
    torch.testing.assert_close(found.log_prob, law.at(sde, 1e-5).log_prob(x), rtol=0, atol=5e-6)
    assert torch.equal(found.stderr, torch.zeros(20, dtype=f64))


@pytest.mark.parametrize("sde, worst", [(VP(), 9.6e-3), (SubVP(), 9.4e-3), (VE(), 3.06e-2)], ids=["VP", "SubVP", "VE"])
def test_the_priors_share_is_known(sde, worst):
    """NLL on G1 = exact + log p_T - log N(0, prior_std^2) at the mapped point, all in closed form."""
    law, x = g1(), torch.tensor([[-0.5], [0.5], [2.0]], dtype=f64)
    (a, va), (b, vb) = (tuple(map(float, mp_kernel(sde, t))) for t in (1e-5, 1.0))
    stretch = math.sqrt((b * b * 0.25 + vb) / (a * a * 0.25 + va))
    mapped = b * 0.5 + (x - a * 0.5) * stretch
    exact = -0.5 * (x - 0.5 * a) ** 2 / (a * a * 0.25 + va) - 0.5 * math.log(2 * math.pi * (a * a * 0.25 + va))
    p_T = -0.5 * (mapped - 0.5 * b) ** 2 / (b * b * 0.25 + vb) - 0.5 * math.log(2 * math.pi * (b * b * 0.25 + vb))
    s = sde.prior_std
    prior = -0.5 * mapped**2 / s**2 - 0.5 * math.log(2 * math.pi * s * s)
    found = log_likelihood(sde, law.score_fn(sde), x, **tolerance(1e-8))
    torch.testing.assert_close(found.log_prob, (exact - p_T + prior)[:, 0], rtol=0, atol=1e-6)  # measured 8e-8
    torch.testing.assert_close(found.latent, mapped, rtol=1e-6, atol=1e-6)
    assert float((prior - p_T).abs().max()) == pytest.approx(worst, rel=0.02)


def test_scipy_finds_the_same_by_itself():
    """VP on a mixture, with divergences by central differences (h = 1e-4, error h^2) of a score written in numpy."""
    law = gm2()
    x = np.array([[-1.0, 0.5], [0.9, 1.0]])
    w, M, C = law.weights.numpy(), law.means.numpy(), law.covs.numpy()

    def score(x, t):
        B = 0.1 * t + 9.95 * t * t
        total, gradient = 0.0, np.zeros(2)
        for k in range(len(w)):
            S = np.exp(-B) * C[k] - np.expm1(-B) * np.eye(2)
            pull = np.linalg.solve(S, np.exp(-B / 2) * M[k] - x)
            p = w[k] * np.exp(-0.5 * pull @ S @ pull) / np.sqrt(np.linalg.det(S))
            total, gradient = total + p, gradient + p * pull
        return gradient / total

    def velocity(x, t):
        return -0.5 * (0.1 + 19.9 * t) * (x + score(x, t))

    def right(t, y):
        e = 1e-4 * np.eye(2)
        spread = sum((velocity(y[:2] + e[i], t) - velocity(y[:2] - e[i], t))[i] / 2e-4 for i in (0, 1))
        return np.append(velocity(y[:2], t), spread)

    truth = []
    for item in x:
        end = scipy.integrate.solve_ivp(
            right, (1e-3, 1.0), np.append(item, 0.0), method="DOP853", rtol=1e-8, atol=1e-8
        ).y[:, -1]
        truth.append(end[2] - 0.5 * end[:2] @ end[:2] - math.log(2 * math.pi))
    for method in ("dopri5", "dopri8", "RK45", "rk4"):
        found = log_likelihood(
            VP(), law.score_fn(VP()), torch.from_numpy(x), t_min=1e-3, method=method, n_steps=200 if method == "rk4" else None,
            **tolerance(1e-7),
        )  # fmt: skip
        np.testing.assert_allclose(found.log_prob.numpy(), truth, atol=1e-5)


@each_sde
def test_its_gradient_is_the_score(sde, generator):
    """Through the solver's steps: grad log p_0 at the data, the prior p_T taken, so that the law is exact."""
    law = gm2()
    x = draw(law, 4, generator).requires_grad_()
    prior = law.at(sde, 1.0).log_prob
    found = log_likelihood(sde, law.score_fn(sde), x, prior=prior, t_min=1e-3, **tolerance(1e-7))
    (gradient,) = torch.autograd.grad(found.log_prob.sum(), x)
    truth = law.at(sde, 1e-3).score(x.detach())
    torch.testing.assert_close(gradient, truth, rtol=1e-3, atol=1e-3)  # the derivative of a solution within 1e-7
    assert not log_likelihood(sde, law.score_fn(sde), x.detach()).log_prob.requires_grad


def test_an_ito_with_a_prior():
    """dx = -x dt + sqrt(2) dw from N(0, 4), as an Ito without scale and std: v(t) = 1 + 3 exp(-2 t); t_min = 0 is allowed."""
    sde = Ito(lambda x, t: -x, lambda t: math.sqrt(2.0), T=3.0)
    v = lambda t: 1 + 3 * torch.exp(-2 * torch.as_tensor(t))
    score = lambda x, t: -x / v(t)[:, None]
    prior = Gaussian(torch.zeros(1, dtype=f64), float(v(3.0))).log_prob
    x = torch.tensor([[-3.0], [0.0], [2.0]], dtype=f64)
    found = log_likelihood(sde, score, x, prior=prior, t_min=0.0, **tolerance(1e-8))
    torch.testing.assert_close(found.log_prob, Gaussian(torch.zeros(1, dtype=f64), 4.0).log_prob(x), rtol=0, atol=1e-6)
    with pytest.raises(TypeError, match=r"sde: Ito has no prior_log_prob\(x\); give prior="):
        log_likelihood(sde, score, x)


@pytest.mark.parametrize("dtype, atol", [(torch.float64, 1e-3), (torch.float32, 1e-3), (torch.float16, 0.15)])
def test_every_dtype(dtype, atol, generator):
    """The integral is summed in float64; float32 errs by 3e-4 nats at tolerance 1e-5, float16 by 0.05 at 1e-2."""
    law, sde = gm2(), VP()
    x = draw(law, 20, generator).to(dtype)
    tol = tolerance(1e-2 if dtype == torch.float16 else 1e-5)
    found = log_likelihood(sde, law.score_fn(sde), x, prior=law.at(sde, 1.0).log_prob, t_min=1e-3, **tol)
    truth = law.at(sde, 1e-3).log_prob(x.double())
    torch.testing.assert_close(found.log_prob.double(), truth, rtol=0, atol=atol)
    assert found.latent.dtype == dtype
    assert found.log_prob.dtype == found.stderr.dtype == torch.promote_types(dtype, torch.float32)


def test_images_and_points_take_the_same_path(generator):
    law, sde = g3(), SubVP()
    x = draw(law, 5, generator)
    score = law.score_fn(sde)
    image = lambda x, t: score(x.reshape(-1, 3), t).reshape(x.shape)
    flat, square = log_likelihood(sde, score, x), log_likelihood(sde, image, x.reshape(5, 1, 3, 1))
    assert torch.equal(flat.log_prob, square.log_prob)
    assert square.latent.shape == (5, 1, 3, 1)


def test_many_dimensions():
    """N(0, 4 I) on 3 x 8 x 8 under VP in float32: about -400 nats, measured within a millionth."""
    sde = VP()
    score = lambda x, t: -x / (4 * sde.scale(t) ** 2 + sde.std(t) ** 2)[:, None, None, None]
    x = 2 * torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    v = probes(x, 2, generator=torch.Generator().manual_seed(1))
    law = lambda x, var: -0.5 * (x.double() ** 2).flatten(1).sum(1) / var - 96 * math.log(2 * math.pi * var)
    last = 4 * float(sde.scale(1.0)) ** 2 + float(sde.std(1.0)) ** 2
    found = log_likelihood(sde, score, x, probe=v, prior=lambda x: law(x, last))
    truth = law(x, 4 * float(sde.scale(1e-5)) ** 2 + float(sde.std(1e-5)) ** 2)
    # signs are exact here, for no coordinate mixes with another; a step may err by rtol = 1e-5 of the integral
    torch.testing.assert_close(found.log_prob.double(), truth, rtol=2e-6, atol=0)
    assert float(found.stderr.max()) < 1e-3


# --- forwards -----------------------------------------------------------------------------------------------------------


class Counting(nn.Module):
    """A network that counts its forwards."""

    def __init__(self, net):
        super().__init__()
        self.net, self.calls = net, 0

    def forward(self, x, label):
        self.calls += 1
        return self.net(x, label)


@pytest.mark.parametrize("many", [None, 0, 1, 3])
def test_one_forward_an_evaluation(many, generator):
    """A U-Net's forwards are nfe, whether the trace is exact, or of one probe, or of three."""
    unet = ncsnpp(
        image_size=4, in_channels=1, channels=8, multipliers=(1,), blocks=1, attention_at=(), generator=generator
    )
    net = Counting(unet).eval()
    x = torch.rand(2, 1, 4, 4, generator=generator)
    probe = None if many is None else probes(x, max(many, 1), generator=generator)
    probe = probe[0] if many == 0 else probe
    found = log_likelihood(VE(), net_score(net, VE()), x, probe=probe, t_min=0.1, **tolerance(1e-3))
    assert net.calls == found.nfe > 0
    assert bool(torch.isfinite(found.log_prob).all())
    assert bool(found.stderr.isnan().all()) == (many in (0, 1))
    assert all(p.grad is None for p in net.parameters())


# --- probes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_the_standard_error_is_honest(kind, generator):
    """On G3, whose coordinates mix: 400 items of 20 probes; error / stderr is Student's t with 19 degrees, std 1.057.

    The error of a std over 400 is 4 %, heavier tails and non-normal estimates some more: 0.9 to 1.25.
    """
    law, sde = g3(), VP()
    x = draw(law, 1, generator).expand(400, 3).contiguous()
    found = log_likelihood(
        sde, law.score_fn(sde), x, probe=probes(x, 20, kind=kind, generator=generator), prior=law.at(sde, 1.0).log_prob
    )
    error = found.log_prob - law.at(sde, 1e-5).log_prob(x)
    assert 0.9 < float((error / found.stderr).std()) < 1.25
    assert abs(float(error.mean())) < 4 * float(error.std()) / 20


def test_the_spread_over_probes_is_hutchinsons(generator):
    """A fixed probe sees v^T A v, A the integral of the score's Jacobian along the path: a Gaussian's depends on time alone, and
    the variance over signs is 2 sum_{i != j} A_ij^2, over normal probes 2 sum_ij A_ij^2."""
    law, sde, n = g3(), VP(), 4000
    x = draw(law, 1, generator).expand(n, 3).contiguous()  # one point, a probe each

    def minus_half_g2_jacobian(t):
        scale, var = (float(v) for v in mp_kernel(sde, t))
        return 0.5 * (0.1 + 19.9 * t) * torch.linalg.inv(scale**2 * law.cov + var * torch.eye(3, dtype=f64)).numpy()

    A = torch.from_numpy(scipy.integrate.quad_vec(minus_half_g2_jacobian, 1e-5, 1.0, epsabs=1e-9)[0])
    off = A - torch.diag(A.diagonal())
    for kind, variance in (("rademacher", 2 * (off**2).sum()), ("gaussian", 2 * (A**2).sum())):
        v = probes(x, kind=kind, generator=generator)[0]
        found = log_likelihood(sde, law.score_fn(sde), x, probe=v, **tolerance(1e-4))
        # the error of a variance of n draws of this kurtosis (below 15) is under sqrt(14/n) = 6 %; four of them
        assert float(found.log_prob.var()) == pytest.approx(float(variance), rel=0.24)


def test_many_probes_are_the_mean_of_single_ones(generator):
    """Each probe's integral is as if solved alone, up to the tolerance, for their steps differ."""
    law, sde = gm2(), VP()
    x = draw(law, 5, generator)
    v = probes(x, 4, generator=generator)
    run = lambda probe: log_likelihood(sde, law.score_fn(sde), x, probe=probe, **tolerance(1e-7))
    alone = torch.stack([run(probe).log_prob for probe in v])
    together = run(v)
    torch.testing.assert_close(together.log_prob, alone.mean(0), rtol=0, atol=2e-5)
    torch.testing.assert_close(together.stderr, alone.std(0) / 2, rtol=1e-3, atol=2e-5)
    assert torch.equal(run(v[:1]).log_prob, run(v[0]).log_prob)


# --- neighbours ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tol", [1e-4, 1e-6])
def test_neighbours_do_not_make_an_item_err_more(tol, generator):
    """Alone, among 60, and among 60 and a point 15 stds away: every item's log p errs by at most 30 tolerances (measured 12.3),
    so two companies move it by at most 60.
    """
    law, sde = gm2(), VP()
    x = draw(law, 60, generator)
    run = lambda x: (
        log_likelihood(
            sde, law.score_fn(sde), x, t_min=1e-3, prior=law.at(sde, 1.0).log_prob, **tolerance(tol)
        ).log_prob
    )
    truth = law.at(sde, 1e-3).log_prob(x)
    far = run(torch.cat([x, torch.tensor([[15.0, -15.0]], dtype=f64)]))[:60]
    alone = torch.cat([run(item[None]) for item in x[:4]])
    for found in (run(x), far, alone):
        assert float((found - truth[: len(found)]).abs().max()) < 30 * tol


# --- integers -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.integers(1, 300),
    st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (0.3, 0.7)]),
    st.sampled_from([torch.uint8, torch.int64, torch.float32, torch.float64]),
    st.integers(0, 10**6),
)
def test_dequantised_data_stay_in_their_cells(levels, data_range, dtype, seed):
    levels = min(levels, 256)
    g = torch.Generator().manual_seed(seed)
    k = torch.randint(0, levels, (500,), generator=g)
    y = dequantise(k.to(dtype), levels=levels, data_range=data_range, generator=g)
    low, high = data_range
    assert torch.equal(torch.floor((y.double() - low) / (high - low) * levels).long(), k)
    assert y.dtype == (dtype if dtype.is_floating_point else torch.get_default_dtype())


def test_rounding_never_carries_over_an_edge(monkeypatch):
    """u = 1 - 2^-53 rounds up in float32: the number just below the edge is taken."""
    from sdelib import ops

    monkeypatch.setattr(ops, "rand", lambda n, **_: torch.full((n,), 1 - 2.0**-53, dtype=f64))
    k = torch.arange(256)
    for data_range in ((0.0, 1.0), (-1.0, 1.0)):
        y = dequantise(k, data_range=data_range).double()
        low, high = data_range
        assert torch.equal(torch.floor((y - low) / (high - low) * 256).long(), k)
        assert float(y.max()) < high


def test_it_fills_each_cell_evenly(generator, untouched):
    y = dequantise(torch.full((40_000,), 3), levels=8, data_range=(-1.0, 1.0), generator=generator)
    u = (y.double() + 1) * 4 - 3
    assert float(u.mean()) == pytest.approx(0.5, abs=4 * 0.2887 / 200)
    assert float(u.var()) == pytest.approx(1 / 12, rel=0.04)


@pytest.mark.parametrize(
    "levels, data_range, offset", [(256, (0, 1), 8.0), (256, (-1, 1), 7.0), (17, (-1, 1), math.log2(8.5))]
)
def test_the_offset(levels, data_range, offset):
    """A uniform law on data_range^D codes each integer in log2(levels) bits, whatever the range."""
    assert float(bits_per_dim(torch.zeros(1, dtype=f64), 5, levels=levels, data_range=data_range)) == pytest.approx(
        offset
    )
    flat = torch.full((1,), -5 * math.log(data_range[1] - data_range[0]), dtype=f64)
    bits = bits_per_dim(flat, 5, levels=levels, data_range=data_range)
    assert float(bits) == pytest.approx(math.log2(levels), rel=1e-14)


def two_integers(levels, data_range):
    """Pairs of integers, a mixture of two products: the components differ, so that the two depend on each other."""
    g = torch.Generator().manual_seed(levels)
    tables = torch.rand(2, 2, levels, generator=g, dtype=f64) ** 2 + 0.02
    return Quantised([0.3, 0.7], tables, data_range=data_range)


def every_cell(law, points=8):
    """All pairs of integers, each with points^2 midpoints of its cell (the mean over u), and their weights."""
    L, (low, high) = law.levels, law.data_range
    k = torch.cartesian_prod(torch.arange(L), torch.arange(L))
    u = (torch.arange(points, dtype=f64) + 0.5) / points
    u = torch.cartesian_prod(u, u)
    y = low + (high - low) * (k[:, None] + u[None]) / L
    weight = law.log_prob(k).exp()[:, None].expand(-1, len(u)) / len(u)
    return y.reshape(-1, 2), weight.reshape(-1)


@pytest.mark.parametrize("levels", [2, 5])
@pytest.mark.parametrize("data_range", [(0.0, 1.0), (-1.0, 1.0)], ids=["0-1", "sym"])
@pytest.mark.parametrize("sde", [VE(1e-4, 10.0), VP(), SubVP()], ids=name)
def test_bits_per_dim_average_to_the_entropy(sde, data_range, levels):
    """With the exact score and prior: over all integers and their cells, by midpoints, the mean is H / (D ln 2) up to

    - the blur std(t_min) of the cells' edges, a share std/h of each cell: std is 1e-4 for VE and VP at most 1e-4, h at least 0.2,
      and midpoints lie an eighth of h inside: below rounding;
    - the solver's tolerance of 1e-6, and 20 times that between modes. Measured 2e-6 bits on average, 4.4e-5 at the worst point.
    """
    law = two_integers(levels, data_range)
    y, weight = every_cell(law, points=4)
    end = lambda x: law.log_density_fn(sde)(x, torch.ones(len(x), dtype=f64))
    t_min = 0.0 if isinstance(sde, VE) else 1e-7
    found = log_likelihood(sde, law.score_fn(sde), y, prior=end, t_min=t_min, **tolerance(1e-6))
    bits = bits_per_dim(found.log_prob, 2, levels=levels, data_range=data_range)
    assert float((weight * bits).sum()) == pytest.approx(law.entropy() / (2 * math.log(2)), abs=1e-5)
    exact = -law.log_density(y) / (2 * math.log(2)) + math.log2(levels / (data_range[1] - data_range[0]))
    torch.testing.assert_close(bits, exact, rtol=0, atol=2e-4)


def test_with_the_authors_t_min_the_blur_shows():
    """t_min = 1e-5, VP, 256 levels of [-1, 1]: std is an eighth of a cell, and a lone cell of entropy 0 costs 0.176 bits.

    It is the mean over the cell of -log2 of the mass that the blur leaves at each of its points. With t_min = 1e-8 the blur is 32
    times narrower, and so is what it costs.
    """
    tables = torch.zeros(1, 1, 256, dtype=f64)
    tables[..., 100] = 1.0
    law, sde, u = Quantised([1.0], tables, data_range=(-1.0, 1.0)), VP(), (np.arange(16) + 0.5) / 16
    y = torch.from_numpy(-1 + 2 * (100 + u) / 256)[:, None]
    end = lambda x: law.log_density_fn(sde)(x, torch.ones(len(x), dtype=f64))
    costs = {}
    for t_min in (1e-5, 1e-8):
        std = float(mp_kernel(sde, t_min)[1]) ** 0.5 * 128  # in cells
        truth = -np.log2(scipy.stats.norm.cdf(u / std) - scipy.stats.norm.cdf((u - 1) / std))
        found = log_likelihood(sde, law.score_fn(sde), y, t_min=t_min, prior=end)
        bits = bits_per_dim(found.log_prob, 1, data_range=(-1.0, 1.0)).numpy()
        np.testing.assert_allclose(
            bits, truth, atol=1e-3
        )  # 20 tolerances of 1e-5, and scale(t_min)'s shift of the cell
        costs[t_min] = bits.mean()
    assert costs[1e-5] == pytest.approx(0.176, abs=0.004)  # midpoints a sixteenth of a cell apart
    assert abs(costs[1e-8]) < 0.006


# --- how it refuses and stops -------------------------------------------------------------------------------------------

good = {"sde": VP(), "score": lambda x, t: -x, "x0": torch.ones(2, 3)}
refused = [
    ({"sde": ddpm(linear_betas(50))}, TypeError, r"sde: a Chain has levels .* variational_bound\(chain, score, x0\)"),
    ({"sde": VP}, TypeError, r"sde: needs an SDE, got the class VP"),
    ({"score": g1()}, TypeError, r"a law's score along a noising is law\.score_fn"),
    ({"score": lambda x, t: x[:, :1]}, ValueError, r"score: needs to keep x's shape, \(2, 3\), gave \(2, 1\)"),
    (
        {"x0": torch.ones(2, 3, dtype=torch.uint8)},
        TypeError,
        r"x0: a density needs real numbers, got torch.uint8; .*dequantise",
    ),
    ({"x0": torch.tensor([[math.inf]])}, ValueError, "x0: needs finite values"),
    ({"x0": [1.0]}, TypeError, "x0: needs a torch.Tensor"),
    (
        {"probe": torch.ones(3)},
        ValueError,
        r"probe: needs the shape of x0, \(2, 3\), or .* \(P, \*x0.shape\), .* got \(3,\)",
    ),
    ({"probe": torch.ones(4, 2, 2)}, ValueError, r"probe: needs the shape of x0, .* got \(4, 2, 2\)"),
    ({"probe": torch.ones(0, 2, 3)}, ValueError, r"probe: needs the shape of x0, .* got \(0, 2, 3\)"),
    ({"probe": torch.ones(2, 3).long()}, ValueError, r"probe: .* in floats, got torch.int64"),
    ({"t_min": 0.0}, ValueError, r"t_min: needs 0 < t_min < T = 1, got 0\.0; std\(0\) = 0 for VP"),
    ({"t_min": 0.0, "sde": SubVP()}, ValueError, r"t_min: .* std\(0\) = 0 for SubVP"),
    ({"t_min": -1e-5}, ValueError, r"t_min: needs 0 < t_min < T = 1, got -1e-05"),
    ({"t_min": 1.0}, ValueError, r"t_min: needs 0 < t_min < T = 1, got 1\.0"),
    ({"t_min": math.nan}, ValueError, "t_min: needs"),
    ({"t_min": "small"}, TypeError, "t_min: needs a number, got str"),
    ({"sde": Ito(lambda x, t: x, lambda t: t), "t_min": 0.1}, TypeError, "sde: Ito has no prior_log_prob"),
    ({"prior": 3}, TypeError, "prior: needs a function"),
    ({"prior": lambda x: x}, ValueError, r"prior: needs one number an item, shape \(2,\), got \(2, 3\)"),
    ({"rtol": 0.0}, ValueError, "rtol: needs a finite number above 0"),
    ({"method": "heun"}, ValueError, "did you mean 'heun"),
    ({"n_steps": 3}, ValueError, "n_steps: 'dopri5' chooses its own steps"),
    (
        {"x0": torch.ones(2, 3).requires_grad_(), "method": "RK45"},
        ValueError,
        "records no gradients, which x0 requires",
    ),
]


@pytest.mark.parametrize("change, error, message", refused, ids=[m[:40] for _, _, m in refused])
def test_bad_input(change, error, message):
    arguments = good | change
    with pytest.raises(error, match=message):
        log_likelihood(*[arguments.pop(k) for k in ("sde", "score", "x0")], **arguments)


def test_bad_integers():
    with pytest.raises(ValueError, match=r"x: needs whole numbers from 0 to 255, got 0\.5; .* \(x \* 255\)\.round\(\)"):
        dequantise(torch.tensor([0.0, 0.5]))
    for wrong in (torch.tensor([256]), torch.tensor([-1])):
        with pytest.raises(ValueError, match=r"x: needs whole numbers from 0 to 255, got values from"):
            dequantise(wrong)
    with pytest.raises(ValueError, match="x: needs whole numbers"):
        dequantise(torch.tensor([math.nan]))
    with pytest.raises(TypeError, match="x: needs a tensor of whole numbers, got list"):
        dequantise([1, 2])
    with pytest.raises(TypeError, match="x: needs a tensor of whole numbers, got torch.bool"):
        dequantise(torch.tensor([True]))
    for data_range in ((1.0, 0.0), (0.0, math.inf), 1.0, (0.0, 1.0, 2.0)):
        with pytest.raises(ValueError, match=r"data_range: needs \(low, high\) with low < high"):
            dequantise(torch.tensor([1]), data_range=data_range)
    with pytest.raises(ValueError, match="levels: needs a whole number of levels"):
        bits_per_dim(torch.zeros(1), 3, levels=2.5)
    with pytest.raises(TypeError, match=r"dims: .* x0\[0\]\.numel\(\), got the shape \(1, 8, 8\)"):
        bits_per_dim(torch.zeros(1), torch.zeros(2, 1, 8, 8)[0].shape)
    with pytest.raises(ValueError, match="dims: needs a whole number of dimensions"):
        bits_per_dim(torch.zeros(1), 0)


def test_errors_carry_what_was_computed():
    law, sde = g1(), VP()
    x = torch.linspace(-1, 1, 3, dtype=f64)[:, None]
    with pytest.raises(SolverError, match="max_nfe: 20 evaluations did not suffice") as caught:
        log_likelihood(sde, law.score_fn(sde), x, max_nfe=20)
    assert caught.value.path.nfe == 20
    assert torch.equal(caught.value.path.xs[0], x)
    bad = lambda x, t: torch.where((t > 0.5)[:, None], math.nan, -x)
    with pytest.raises(NonFiniteError, match="the flow's velocity at t = .* is NaN or infinite in 3 of 3 items"):
        log_likelihood(sde, bad, x)
    root = lambda x, t: torch.where((t > 0.5)[:, None], (x - x.detach()).abs().sqrt() + x.detach(), -x)
    with pytest.raises(NonFiniteError, match="the velocity's divergence at t = .* is NaN or infinite in 3 of 3 items"):
        log_likelihood(sde, root, x)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        log_likelihood(sde, law.score_fn(sde), x)
