"""Predictors as samplers: orders of their laws without Monte Carlo, chains against SDEs, another library, and broken scores."""

import math

import pytest
import torch

from sdelib import (
    VE,
    VP,
    Chain,
    NonFiniteError,
    SubVP,
    affine_law,
    ancestral,
    annealed_langevin,
    ddpm,
    euler_maruyama,
    geometric_sigmas,
    hmc,
    identity,
    langevin,
    linear_betas,
    reverse,
    reverse_diffusion,
    simulate,
    smld,
    stochastic_runge_kutta,
    then,
    time_grid,
)
from tests.problems import g1, gm2
from tests.test_orders import slope

f64 = torch.float64


def seeded(seed=7):
    return torch.Generator().manual_seed(seed)


KINDS = {
    "posterior": lambda noising, s: ancestral(noising, s),
    "forward": lambda noising, s: ancestral(noising, s, variance="forward"),
    **{f"eta {eta}": lambda noising, s, eta=eta: reverse_diffusion(noising, s, eta=eta) for eta in (0.0, 0.5, 1.0)},
}


@pytest.mark.parametrize("sde", [VE(), VP(), SubVP()], ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_laws_converge_at_order_one(sde, kind):
    """On N(0.5, 0.25) with the exact score, from the exact law at T to t = 0.01: every kind has the marginals in the limit.

    Error of the variance on 100, 200 and 400 steps. The slopes were between 0.91 and 1.07.
    """
    step, truth, ns = KINDS[kind](sde, g1().score_fn(sde)), g1().at(sde, 0.01), [100, 200, 400]
    laws = [affine_law(step, g1().at(sde, 1.0), torch.linspace(1, 0.01, n + 1, dtype=f64))[-1] for n in ns]
    assert slope(ns, [abs(float(law.cov - truth.cov)) for law in laws]) == pytest.approx(1.0, abs=0.1)
    gaps = [abs(float(law.mean - truth.mean)) for law in laws]
    if isinstance(sde, VE) or kind in ("posterior", "forward"):
        assert (
            max(gaps) < 1e-12
        )  # ancestral sampling carries a Gaussian's mean along exactly, and on VE it stands still
    else:
        assert slope(ns, gaps) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0, 2.0])
@pytest.mark.parametrize(
    "noising", [VE(), SubVP(), smld(geometric_sigmas(20)), ddpm(linear_betas(20, beta_max=10.0))], ids=repr
)
def test_reverse_diffusion_is_its_formula_for_every_eta(noising, eta):
    """(2 - a) x + (1 + eta^2)/2 b^2 s + eta b z, with b from std_t^2 = a^2 std_s^2 + b^2; eta = 0 draws nothing."""
    x, z = torch.randn(2, 4, 3, generator=seeded(1), dtype=f64)
    t, t_next = (torch.full((4,), v, dtype=f64) for v in (0.5, 0.45))
    a = float(noising.scale(t)[0] / noising.scale(t_next)[0])
    b2 = float(noising.std(t)[0] ** 2 - a * a * noising.std(t_next)[0] ** 2)
    g = seeded(2)
    z = torch.randn(4, 3, generator=seeded(2), dtype=f64)
    stepped = reverse_diffusion(noising, lambda x, t: -torch.sin(x), eta=eta)(x, t, t_next, g)
    mean = (2 - a) * x - (1 + eta**2) / 2 * b2 * torch.sin(x)
    torch.testing.assert_close(stepped.mean, mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(stepped.x, mean + eta * math.sqrt(b2) * z, rtol=1e-9, atol=1e-9)
    assert torch.equal(g.get_state(), seeded(2).get_state()) == (eta == 0.0)


@pytest.mark.parametrize("sde", [VE(), VP(), SubVP()], ids=repr)
def test_a_chain_made_from_an_sde_is_walked_like_it(sde):
    """Level i sits at i/N and the SDE at its own time; the steps, and so the samples from the same noise, are the same."""
    levels = torch.linspace(0.05, 1.0, 12, dtype=f64)
    chain, score = Chain.from_sde(sde, levels), gm2().score_fn(sde)
    at = torch.cat([torch.zeros(1, dtype=f64), levels])
    on_levels = lambda x, t: score(x, at[(t * 12).round().long()])
    times, x = (
        torch.cat([levels.flip(0), torch.zeros(1, dtype=f64)]),
        sde.prior_sample((50, 2), generator=seeded(), dtype=f64),
    )
    for build in KINDS.values():
        one = simulate(build(sde, score), x, times, generator=seeded()).x
        two = simulate(build(chain, on_levels), x, chain.times(), generator=seeded()).x
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("ours, theirs", [("posterior", "fixed_small"), ("forward", "fixed_large")])
@pytest.mark.parametrize("N", [20, 1000])
def test_diffusers_ddpm_walks_the_same_path(ours, theirs, N):
    """Another library's DDPM from the same normal numbers: every state to the rounding of its float32 tables.

    It takes the noise as predicted, -std times the score, and keeps its coefficients in float32; the two differ by 8e-5 after
    1,000 steps, where x is of order 1.
    """
    diffusers = pytest.importorskip("diffusers")
    betas = linear_betas(N, beta_max=10.0)
    chain = ddpm(betas)
    score = gm2().score_fn(chain)
    scheduler = diffusers.DDPMScheduler(
        N, trained_betas=betas.tolist(), variance_type=theirs, clip_sample=False, prediction_type="epsilon"
    )
    scheduler.set_timesteps(N)
    x = y = chain.prior_sample((20, 2), generator=seeded(), dtype=torch.float32)
    path = simulate(ancestral(chain, score, variance=ours), x, chain.times(), generator=seeded(), denoise=True)
    g = seeded()
    for k in scheduler.timesteps.tolist():
        t = torch.full((20,), (k + 1) / N)
        y = scheduler.step(-chain.std(t)[:, None] * score(y, t), k, y, generator=g).prev_sample
    torch.testing.assert_close(path.x, y, rtol=0, atol=5e-4)


# --- what goes wrong ----------------------------------------------------------------------------------------------------------

BROKEN = {
    "ancestral": ancestral,
    "flow": lambda n, s: reverse_diffusion(n, s, eta=0.0),
    "Euler-Maruyama": lambda n, s: euler_maruyama(*reverse(n, s)),
    "Runge-Kutta": lambda n, s: stochastic_runge_kutta(*reverse(n, s)),
    "langevin": lambda n, s: then(langevin(n, s), ancestral(n, lambda x, t: -x)),
    "own norms": lambda n, s: then(langevin(n, s, norm="sample"), ancestral(n, lambda x, t: -x)),
    "annealed": lambda n, s: then(annealed_langevin(n, s), identity()),
    "hmc": lambda n, s: then(hmc(n, s), identity()),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_score_stops_the_loop_there_and_says_in_how_many_items(kind, bad):
    """From t = 0.5 down the score of items 0 and 3 is no number: the step that starts there is named, and 2 of 5 items.

    Langevin's norm over the batch leaves broken items out, so the count is true there too.
    """
    sde = VP()
    items = torch.tensor([True, False, False, True, False])[:, None]
    score = lambda x, t: torch.where(items & (t[:, None] <= 0.5), bad, -x)
    with pytest.raises(
        NonFiniteError, match=r"the step from t = 0\.5 to 0\.4 gave NaN or infinity in 2 of 5 items"
    ) as caught:
        simulate(BROKEN[kind](sde, score), torch.ones(5, 2), [1.0, 0.6, 0.5, 0.4, 0.2], generator=seeded(), keep=5)
    assert caught.value.path.times.tolist() == [1.0, 0.6, 0.5]
    assert bool(torch.isfinite(caught.value.path.xs).all())


def test_identity_before_a_predictor_is_no_corrector():
    """DDPM as the paper's table has it, ancestral with the identity: it must not move time before the predictor does."""
    chain, score = ddpm(linear_betas(10, beta_max=5.0)), lambda x, t: -torch.sin(x)
    x, alone = torch.randn(4, 2, generator=seeded(1)), ancestral(chain, score)
    for step in (then(identity(), alone), then(alone, identity()), then(identity(), then(identity(), alone))):
        for whole in (step, lambda *args, step=step: step(*args)):  # planned, and called directly
            one, two = (simulate(s, x, chain.times(), generator=seeded(), denoise=True).x for s in (whole, alone))
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
    corrected = then(
        identity(), langevin(chain, score)
    )  # no other predictor: it moves, and the corrector works at t_next
    t = torch.full((4,), 0.5)
    assert torch.equal(corrected(x, t, t - 0.1, seeded()).t, t - 0.1)


def test_two_predictors_in_a_row_are_refused():
    sde, s = VP(), lambda x, t: -x
    for second in (ancestral(sde, s), euler_maruyama(*reverse(sde, s)), stochastic_runge_kutta(*reverse(sde, s))):
        with pytest.raises(ValueError, match="steps: need one predictor at most, got 2 that move from t to t_next"):
            then(reverse_diffusion(sde, s), langevin(sde, s), second)


def test_runge_kutta_may_end_at_time_zero():
    """Its last stage stands a quarter of the way before the end, where the score exists; nothing is evaluated at 0."""
    sde, seen = VP(), []
    law = gm2().score_fn(sde)
    step = stochastic_runge_kutta(*reverse(sde, lambda x, t: (seen.append(float(t[0])), law(x, t))[1]))
    x = simulate(step, torch.randn(2000, 2, generator=seeded()), time_grid(60, t_min=0.01), generator=seeded()).x
    assert min(seen) == pytest.approx(0.0025)
    assert float((x.mean(0) - gm2().sample(20_000, generator=seeded()).float().mean(0)).abs().max()) < 0.15
