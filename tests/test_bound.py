"""DDPM's variational bound: each term against its definition, closed forms for Gaussians, and the entropy below it."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from sdelib import (
    VP,
    Chain,
    Gaussian,
    Quantised,
    SubVP,
    bits_per_dim,
    ddpm,
    dequantise,
    geometric_sigmas,
    linear_betas,
    log_likelihood,
    smld,
    variational_bound,
)
from sdelib.quantised import grid_values

f64 = torch.float64
CHAINS = {
    "ddpm": ddpm(linear_betas(30, beta_max=15.0)),
    "smld": smld(geometric_sigmas(25, sigma_max=10.0)),
    "subvp": Chain.from_sde(SubVP(), torch.linspace(0.02, 1.0, 20)),
}
each_chain = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
each_variance = pytest.mark.parametrize("variance", ["posterior", "forward"])


class Recorded:
    """Noise from a list, level by level."""

    def __init__(self, noises):
        self.noises = iter(noises)

    def randn_like(self, x):
        return next(self.noises).to(x)


class Constant:
    """The same number everywhere: two points of it, 1 and -1, average any square exactly as a normal does."""

    def __init__(self, value):
        self.value = value

    def randn_like(self, x):
        return torch.full_like(x, self.value)


def from_the_definition(chain, score, k, noises, *, levels, variance, grid):
    """Every term as the paper on DDPM writes it, in numpy: posterior means, and KLs of normals for each number."""
    N, a, b = chain.N, chain.a.numpy(), chain.b.numpy()
    low, high = -1.0, 1.0
    values = (
        np.linspace(low, high, levels) if grid == "ends" else low + (np.arange(levels) + 0.5) * (high - low) / levels
    )
    S, V = np.cumprod(a), np.zeros(N)
    for i in range(N):
        V[i] = (a[i] ** 2 * V[i - 1] if i else 0.0) + b[i] ** 2
    x0 = values[k.numpy()]
    kl = lambda m1, v1, m2, v2: np.log(v2 / v1) / 2 + (v1 + (m1 - m2) ** 2) / (2 * v2) - 0.5
    prior = kl(S[-1] * x0, V[-1], 0.0, chain.prior_std**2).sum(1)
    terms = []
    rho2 = np.array([0.0] + [b[i] ** 2 * V[i - 1] / V[i] for i in range(1, N)])
    for i in range(N):
        x = S[i] * x0 + np.sqrt(V[i]) * noises[i].numpy()
        s = score(torch.from_numpy(x), torch.full((len(x),), (i + 1) / N, dtype=f64)).numpy()
        model = (x + b[i] ** 2 * s) / a[i]
        if i:
            q = (a[i] * V[i - 1] * x + b[i] ** 2 * S[i - 1] * x0) / V[i]
            r2 = rho2[i] if variance == "posterior" else b[i] ** 2
            terms.append(kl(q, rho2[i], model, r2).sum(1))
        else:
            r = math.sqrt(rho2[1]) if variance == "posterior" else b[0]
            edges = np.concatenate([[-np.inf], (values[1:] + values[:-1]) / 2, [np.inf]])
            cdf = lambda v, model=model, r=r: scipy.stats.norm.cdf((v - model) / r)
            decoder = -np.log(cdf(edges[k.numpy() + 1]) - cdf(edges[k.numpy()])).sum(1)
    return prior, np.stack(terms), decoder


@each_chain
@each_variance
@pytest.mark.parametrize("grid", ["ends", "centres"])
def test_every_term_is_its_definition(chain, variance, grid, generator):
    """With a score that is not exact; the posterior's mean computed as a mean, the KL as a KL: float64 rounding apart."""
    levels = 6
    k = torch.randint(0, levels, (4, 3), generator=generator)
    noises = torch.randn(chain.N, 4, 3, generator=generator, dtype=f64)
    score = lambda x, t: -x / (0.5 + t[:, None]) + 0.3 * torch.sin(3 * x)
    found = variational_bound(
        chain, score, k, levels=levels, variance=variance, grid=grid, generator=Recorded(noises), dtype=f64
    )
    prior, terms, decoder = from_the_definition(chain, score, k, noises, levels=levels, variance=variance, grid=grid)
    np.testing.assert_allclose(found.prior.numpy(), prior, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.terms.numpy(), terms, rtol=1e-8, atol=1e-10)
    sound = decoder < 25  # beyond, the definition's difference of two cdfs has lost its digits
    np.testing.assert_allclose(found.decoder.numpy()[sound], decoder[sound], rtol=1e-5, atol=1e-12)
    assert bool(sound.any()) or chain is CHAINS["subvp"]
    torch.testing.assert_close(found.total, found.prior + found.terms.sum(0) + found.decoder, rtol=1e-14, atol=0)


@each_chain
@each_variance
def test_on_gaussian_data_the_terms_have_closed_forms(chain, variance):
    """Score of N(m, v): s = -(x - S m)/(S^2 v + std^2), so the two means differ by an affine function of the noise z, whose mean
    square over z ~ N(0, 1) is that over z = 1 and -1.
    """
    m, v, levels = 0.3, 0.4, 9
    law = Gaussian(torch.full((1,), m, dtype=f64), v)
    k = torch.arange(levels)[:, None]
    x0 = grid_values(k, levels, (-1.0, 1.0), dtype=f64)
    run = lambda z: variational_bound(
        chain, law.score_fn(chain), k, levels=levels, variance=variance, generator=Constant(z), dtype=f64
    )
    found = 0.5 * (run(1.0).terms + run(-1.0).terms)
    S, std = chain.scales[2:], chain.stds[2:]
    b, a, before = chain.b[1:], chain.a[1:], chain.stds[1:-1]
    total = S**2 * v + std**2
    # s + z/std = -(S (x0 - m) + std z)/total + z/std
    mean2 = ((S * (x0 - m)) / total) ** 2 + (1 / std - std / total) ** 2  # (levels, N - 1)
    rho = b * before / std
    r = rho if variance == "posterior" else b
    expected = (b**2 / a / r) ** 2 * mean2 / 2 + torch.log(r / rho) + (rho**2 / r**2 - 1) / 2
    torch.testing.assert_close(found, expected.T, rtol=1e-10, atol=1e-12)


def correlated(levels):
    g = torch.Generator().manual_seed(3)
    tables = torch.rand(2, 2, levels, generator=g, dtype=f64) ** 3
    return Quantised([0.4, 0.6], tables, data_range=(-1.0, 1.0))


@each_variance
@pytest.mark.parametrize("grid", ["ends", "centres"])
@pytest.mark.parametrize(
    "chain", [ddpm(linear_betas(100)), smld(geometric_sigmas(60, sigma_max=10.0))], ids=["ddpm", "smld"]
)
def test_it_lies_above_the_entropy(chain, variance, grid, generator):
    """With the exact score of undequantised points the mean over data is at least H, by more than four standard errors, and falls
    as the chain grows longer."""
    law = correlated(4)
    k = law.sample(4000, generator=generator)
    bound = variational_bound(
        chain, law.score_fn(chain, grid=grid), k, levels=4, variance=variance, grid=grid, generator=generator, dtype=f64
    )
    excess = bound.total + law.log_prob(k)  # of each item, over its own -log P
    assert float(excess.mean()) > 4 * float(excess.std()) / math.sqrt(4000)
    assert float(bound.total.mean()) < 2.2 * law.entropy()


def test_it_closes_as_the_chain_grows(generator):
    """The excess over the entropy at N = 50, 200, 800: it about halves each time N doubles (a first-order discretisation)."""
    law = correlated(3)
    k = law.sample(4000, generator=generator)
    excess = []
    for N in (50, 200, 800):
        chain = Chain.from_sde(VP(), torch.linspace(0.02, 1.0, N))
        bound = variational_bound(chain, law.score_fn(chain, grid="ends"), k, levels=3, generator=generator, dtype=f64)
        excess.append(float((bound.total + law.log_prob(k)).mean()))
    assert excess[0] > excess[1] > excess[2] > 0
    assert excess[0] / excess[2] > 4


def test_bound_and_exact_figure_of_one_score(generator):
    """The same law, its dequantised score for the flow, its points' score for the bound: H, and H and something."""
    law, sde = correlated(4), VP()
    k = law.sample(500, generator=generator)
    y = dequantise(k, levels=4, data_range=(-1.0, 1.0), generator=generator).double()
    flow = bits_per_dim(
        log_likelihood(sde, law.score_fn(sde), y, t_min=1e-6).log_prob, 2, levels=4, data_range=(-1.0, 1.0)
    )
    chain = ddpm(linear_betas(200))
    bound = variational_bound(
        chain, law.score_fn(chain, grid="ends"), k, levels=4, generator=generator, dtype=f64
    ).total / (2 * math.log(2))
    own = -law.log_prob(k) / (2 * math.log(2))
    assert float((flow - own).mean()) == pytest.approx(0.0, abs=0.01)  # the cells' edges blurred by std(1e-6) = 3e-4
    assert 0.02 < float((bound - own).mean()) < 0.5


def test_floats_on_the_grid_are_their_integers(generator):
    chain, score = CHAINS["ddpm"], lambda x, t: -x
    k = torch.randint(0, 256, (3, 1, 2, 2), generator=generator)
    for grid, data_range in (("ends", (-1.0, 1.0)), ("centres", (0.0, 1.0))):
        x = grid_values(k, 256, data_range, grid=grid)
        run = lambda v, grid=grid, data_range=data_range: variational_bound(
            chain, score, v, grid=grid, data_range=data_range, generator=torch.Generator().manual_seed(1)
        )
        assert torch.equal(run(x).total, run(k).total)
        assert torch.equal(run(x).total, run(k.to(torch.uint8)).total)
        y = dequantise(k, data_range=data_range, generator=generator)
        with pytest.raises(ValueError, match="x0: needs values on the grid of 256 levels .* not dequantised"):
            run(y)


def test_draws_are_averaged_and_no_graph_is_kept(generator):
    chain, weight = CHAINS["ddpm"], torch.tensor(0.7, requires_grad=True)
    k = torch.randint(0, 256, (2, 3), generator=generator)
    calls = []

    def score(x, t):
        calls.append(float(t[0]))
        return -weight * x

    found = variational_bound(chain, score, k, draws=3, generator=torch.Generator().manual_seed(0))
    assert not found.total.requires_grad
    assert len(calls) == 3 * chain.N
    assert calls[::3] == pytest.approx([i / chain.N for i in range(1, chain.N + 1)])
    assert found.terms.shape == (chain.N - 1, 2)
    assert found.total.dtype == torch.float32
    many = variational_bound(chain, score, k, draws=400, generator=torch.Generator().manual_seed(0))
    ones = torch.stack(
        [variational_bound(chain, score, k, generator=torch.Generator().manual_seed(i)).total for i in range(400)]
    )
    torch.testing.assert_close(many.total, ones.mean(0), rtol=0, atol=5 * float(ones.std(0).max()) / 14)


good = {"chain": CHAINS["ddpm"], "score": lambda x, t: -x, "x0": torch.zeros(2, 3, dtype=torch.long)}
refused = [
    ({"chain": VP()}, TypeError, r"chain: needs a Chain, got VP; Chain\.from_sde"),
    ({"chain": ddpm(torch.tensor([0.5]))}, ValueError, "chain: needs at least 2 levels"),
    ({"score": 3}, TypeError, "score: needs a function"),
    ({"score": lambda x, t: x[:, :1]}, ValueError, "score: needs the shape of x0"),
    ({"x0": torch.full((2, 3), 256)}, ValueError, "x0: needs whole numbers from 0 to 255"),
    ({"x0": [1]}, TypeError, "x0: needs a tensor"),
    ({"x0": torch.full((2, 3), 3.0)}, ValueError, "x0: needs values on the grid"),
    ({"x0": torch.full((2, 3), math.nan)}, ValueError, "x0: needs finite values"),
    ({"variance": "learned"}, ValueError, "variance: needs one of 'posterior', 'forward'"),
    ({"grid": "middle"}, ValueError, "grid: needs one of 'ends', 'centres'"),
    ({"levels": 1}, ValueError, "levels: needs at least 2"),
    ({"data_range": (1, 0)}, ValueError, "data_range: needs"),
    ({"draws": 0}, ValueError, "draws: needs a whole number of draws"),
    ({"decoder_std": 0.0}, ValueError, "decoder_std: needs a finite number above 0"),
]


@pytest.mark.parametrize("change, error, message", refused, ids=[m[:40] for _, _, m in refused])
def test_bad_input(change, error, message):
    arguments = good | change
    with pytest.raises(error, match=message):
        variational_bound(*[arguments.pop(k) for k in ("chain", "score", "x0")], **arguments)
