"""Predictors and what composes steps: formulas by hand, ready steps against direct calls, order, time, mean and cost."""

import math

import pytest
import torch
from torch import nn

from sdelib import (
    VE,
    VP,
    Chain,
    Gaussian,
    Ito,
    Stepped,
    SubVP,
    affine_law,
    ancestral,
    annealed_langevin,
    bcast,
    ddpm,
    denoised,
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

SIGMAS, BETAS = geometric_sigmas(12, sigma_min=0.05, sigma_max=20.0), linear_betas(30)
NOISINGS = [VE(), VP(), SubVP(), VP(0.2, 9.0, T=2.0), smld(SIGMAS), ddpm(BETAS)]
G1 = Gaussian([0.5], 0.25)


def score(x, t):
    """A smooth score of any shape that mixes an item's coordinates and sees the time."""
    return -x / (1 + t.to(x).reshape(-1, *[1] * (x.ndim - 1))) + 0.1 * torch.sin(x.flip(-1))


def steps_of(noising, s=score):
    """Every kind of step for a noising."""
    steps = {
        "ancestral": ancestral(noising, s),
        "forward variance": ancestral(noising, s, variance="forward"),
        "reverse diffusion": reverse_diffusion(noising, s),
        "flow": reverse_diffusion(noising, s, eta=0.0),
        "langevin": langevin(noising, s, n_steps=2),
        "own norms": langevin(noising, s, norm="sample"),
        "annealed": annealed_langevin(noising, s, n_steps=2),
        "hmc": hmc(noising, s, n_leapfrog=3, n_steps=2),
        "corrector first": then(langevin(noising, s), ancestral(noising, s)),
        "corrector last": then(
            reverse_diffusion(noising, s, eta=0.0), then(annealed_langevin(noising, s), langevin(noising, s))
        ),
        "nested": then(
            then(annealed_langevin(noising, s), annealed_langevin(noising, s)), reverse_diffusion(noising, s)
        ),
        "identity": identity(),
    }
    if not isinstance(noising, Chain):
        steps["Euler-Maruyama"] = euler_maruyama(*reverse(noising, s))
        steps["flow by Euler"] = euler_maruyama(*reverse(noising, s, eta=0.0))
        steps["Runge-Kutta"] = stochastic_runge_kutta(*reverse(noising, s))
        steps["flow by Runge-Kutta"] = stochastic_runge_kutta(*reverse(noising, s, eta=0.0))
        steps["Runge-Kutta on a drift"] = stochastic_runge_kutta(lambda x, t: -x * bcast(t, x), lambda t: 1 + t)
    return steps


def grid_of(noising):
    return noising.times()[-6:] if isinstance(noising, Chain) else time_grid(5, t_min=0.1, T=noising.T)


def seeded(seed=7):
    return torch.Generator().manual_seed(seed)


ALL = [(n, k) for n in NOISINGS for k in steps_of(n)]


@pytest.mark.parametrize("noising, kind", ALL, ids=lambda v: v if isinstance(v, str) else repr(v))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ready_steps_and_direct_calls_agree_to_the_bit(noising, kind, dtype):
    """Along a whole grid, to time 0, with one generator each: same states, means, times, and the same draws."""
    step, times = steps_of(noising)[kind], grid_of(noising)
    x = y = torch.randn(4, 3, generator=seeded(1), dtype=torch.float64).to(dtype)
    g, h = seeded(), seeded()
    for ready, t, t_next in zip(step.plan(times), times[:-1].tolist(), times[1:].tolist(), strict=True):
        now, later = (torch.full((4,), v, dtype=torch.float64) for v in (t, t_next))
        one, two = ready(x, now, later, g), step(y, now, later, h)
        for a, b in zip(one, two, strict=True):
            assert torch.equal(a, b)
        assert one.x.dtype == one.mean.dtype == dtype
        x, y = one.x, two.x
    assert torch.equal(g.get_state(), h.get_state())
    assert bool(torch.isfinite(x).all())


@pytest.mark.parametrize("noising, kind", ALL, ids=lambda v: v if isinstance(v, str) else repr(v))
@pytest.mark.usefixtures("untouched")
def test_randomness_shape_and_neighbours(noising, kind):
    """Same generator, same bits; images take the path of points; and only Langevin's batch norms couple neighbours."""
    step, times = steps_of(noising)[kind], grid_of(noising)
    run = lambda x: simulate(step, x, times, generator=seeded()).x
    x = torch.randn(5, 2, generator=seeded(1))
    once = run(x)
    assert torch.equal(once, run(x))
    # the same numbers in another shape; norms over other strides may round differently
    torch.testing.assert_close(run(x.reshape(5, 1, 2)).reshape(5, 2), once, rtol=1e-5, atol=1e-5)
    moved = run(torch.cat([x[:1] + 1.0, x[1:]]))
    assert not torch.equal(moved[0], once[0])
    coupled = kind in ("langevin", "corrector first", "corrector last")
    assert torch.equal(moved[1:], once[1:]) != coupled


# --- formulas by hand ---------------------------------------------------------------------------------------------------


def one_step(step, chain, i):
    """x, score, noise and what the step from level i to i - 1 made of them."""
    x = torch.randn(6, 2, generator=seeded(2), dtype=torch.float64)
    t = torch.full((6,), i / chain.N, dtype=torch.float64)
    stepped = step(x, t, t - 1 / chain.N, seeded(3))
    return x, score(x, t), torch.randn(6, 2, generator=seeded(3), dtype=torch.float64), stepped


@pytest.mark.parametrize("i", [1, 2, 7, 12])
def test_smlds_published_updates(i):
    """Appendix F: x + (sigma_i^2 - sigma_{i-1}^2) s + sqrt(sigma_{i-1}^2 (sigma_i^2 - sigma_{i-1}^2)/sigma_i^2) z, sigma_0 = 0;
    reverse diffusion has the same mean with noise sqrt(sigma_i^2 - sigma_{i-1}^2) z."""
    chain = smld(SIGMAS)
    high, low = float(SIGMAS[i - 1]) ** 2, float(SIGMAS[i - 2]) ** 2 if i > 1 else 0.0
    for step, spread in (
        (ancestral(chain, score), math.sqrt(low * (high - low) / high)),
        (reverse_diffusion(chain, score), math.sqrt(high - low)),
    ):
        x, s, z, stepped = one_step(step, chain, i)
        mean = x + (high - low) * s
        torch.testing.assert_close(stepped.mean, mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(stepped.x, mean + spread * z, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("i", [1, 2, 17, 30])
def test_ddpms_published_updates(i):
    """Eq. 4 with sqrt(beta_i) z; with the posterior's variance (Ho et al. 2020, eq. 7); and reverse diffusion's VP formula."""
    chain, beta = ddpm(BETAS), float(BETAS[i - 1])
    alpha = float(torch.cumprod(1 - BETAS, 0)[i - 1])
    before = alpha / (1 - beta)
    posterior = math.sqrt(beta * (1 - before) / (1 - alpha)) if i > 1 else 0.0
    for step, mean, spread in (
        (
            ancestral(chain, score, variance="forward"),
            lambda x, s: (x + beta * s) / math.sqrt(1 - beta),
            math.sqrt(beta),
        ),
        (ancestral(chain, score), lambda x, s: (x + beta * s) / math.sqrt(1 - beta), posterior),
        (reverse_diffusion(chain, score), lambda x, s: (2 - math.sqrt(1 - beta)) * x + beta * s, math.sqrt(beta)),
        (reverse_diffusion(chain, score, eta=0), lambda x, s: (2 - math.sqrt(1 - beta)) * x + 0.5 * beta * s, 0.0),
    ):
        x, s, z, stepped = one_step(step, chain, i)
        torch.testing.assert_close(stepped.mean, mean(x, s), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(stepped.x, mean(x, s) + spread * z, rtol=1e-11, atol=1e-11)
        assert torch.equal(stepped.t, torch.full((6,), i / 30, dtype=torch.float64) - 1 / 30)


@pytest.mark.parametrize("t, t_next", [(0.6, 0.55), (0.3, 0.7)])
def test_euler_maruyama_is_its_formula_in_both_directions(t, t_next):
    """x + f dt + g sqrt|dt| z for g(t), for a diagonal G(x, t) and for a matrix."""
    x = torch.randn(5, 2, generator=seeded(2), dtype=torch.float64)
    z = torch.randn(5, 2, generator=seeded(3), dtype=torch.float64)
    now, later = (torch.full((5,), v, dtype=torch.float64) for v in (t, t_next))
    drift, dt = lambda x, t: torch.sin(x) + t[:, None], t_next - t
    mean = x + (torch.sin(x) + t) * dt
    root = math.sqrt(abs(dt))
    A = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.float64)

    class Module(nn.Module):
        def forward(self, x, t):
            return x**2

    for diffusion, noise in (
        (lambda t: 3 * t, 3 * t * z),
        (lambda t: 0.7, 0.7 * z),
        (lambda x, t: x**2, x**2 * z),
        (Module(), x**2 * z),
        (lambda x, t: x[:, 0], x[:, :1] * z),
        (lambda x, t: A * x[:, :1, None], x[:, :1] * (z @ A.T)),
    ):
        stepped = euler_maruyama(drift, diffusion)(x, now, later, seeded(3))
        torch.testing.assert_close(stepped.mean, mean, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(stepped.x, mean + root * noise, rtol=1e-13, atol=1e-13)
        assert torch.equal(stepped.t, later)


@pytest.mark.parametrize("sde", [VE(), SubVP(), VP(0.2, 9.0, T=2.0)], ids=repr)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("way", [1, -1])
def test_euler_maruyama_knows_a_reversals_coefficients(sde, eta, way):
    """What reverse returns for an SDE becomes (1 + f h) x + q h s, planned; wrapped in a function it is called like any drift."""
    drift, diffusion = reverse(sde, score, eta=eta)
    planned, called = euler_maruyama(drift, diffusion), euler_maruyama(lambda x, t: drift(x, t), lambda t: diffusion(t))
    x, times = torch.randn(4, 2, generator=seeded(1), dtype=torch.float64), [0.9, 0.7, 0.4, 0.2][::way]
    one, two = (simulate(step, x, times, generator=seeded()).x for step in (planned, called))
    torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
    assert planned.nfe == 1


@pytest.mark.parametrize("noising", NOISINGS, ids=repr)
def test_the_last_mean_is_tweedies(noising):
    """Stepping to time 0: exactly for ancestral, and for reverse diffusion where a = 1 (VE, SMLD)."""
    x = torch.randn(6, 2, generator=seeded(2), dtype=torch.float64)
    for t in (
        1 / 30 if noising.T == 1.0 and isinstance(noising, Chain) and noising.N == 30 else noising.T / 12,
        noising.T,
    ):
        now = torch.full((6,), t, dtype=torch.float64)
        clean = denoised(noising, score, x, now)
        stepped = ancestral(noising, score)(x, now, 0 * now, seeded())
        torch.testing.assert_close(stepped.mean, clean, rtol=1e-10, atol=1e-10)
        assert torch.equal(stepped.x, stepped.mean)  # given x_t and x_0, x_0 has no spread
        if bool((noising.scale(now) == 1).all()):
            torch.testing.assert_close(reverse_diffusion(noising, score)(x, now, 0 * now, seeded()).mean, clean)


def test_vps_reverse_diffusion_denoises_up_to_the_square_of_its_contraction():
    """(2 - a) x + b^2 s against (x + b^2 s)/a: they differ by (1 - a)^2 x/a + (1 - a) b^2 s/a, and b^2 = 1 - a^2."""
    x, sde = torch.randn(6, 2, generator=seeded(2), dtype=torch.float64), VP()
    for t in (1e-3, 1e-2, 1e-1):
        now = torch.full((6,), t, dtype=torch.float64)
        a = float(sde.scale(now)[0])
        gap = denoised(sde, score, x, now) - reverse_diffusion(sde, score)(x, now, 0 * now, seeded()).mean
        expected = (1 - a) ** 2 / a * (x + (1 + a) * score(x, now))
        torch.testing.assert_close(gap, expected, rtol=1e-7, atol=1e-13)


# --- then and identity ------------------------------------------------------------------------------------------------------


def _adds(amount, *, moves):
    """A plain function as a step: adds to x; as its mean says 100 less."""
    return lambda x, t, t_next, generator=None: Stepped(x + amount, x + amount - 100, t_next if moves else t)


def test_then_keeps_order_time_and_mean():
    seen = []
    note = lambda name, moves: (
        lambda x, t, t_next, g=None: (
            seen.append((name, t.item(), t_next.item())),
            Stepped(2 * x if name == "double" else x + 1, x, t_next if moves else t),
        )[1]
    )
    one, zero = torch.ones(1, 1), torch.zeros(1)
    step = then(note("add", False), note("double", True), note("add", False))
    stepped = step(one, zero + 0.5, zero + 0.25, None)
    assert stepped.x.item() == 5.0  # (1 + 1) 2 + 1
    assert stepped.mean.item() == 4.0  # of the last part
    assert seen == [("add", 0.5, 0.25), ("double", 0.5, 0.25), ("add", 0.25, 0.25)]
    assert then(_adds(1, moves=True), identity())(one, zero, zero, None).mean.item() == -98.0  # identity keeps the mean


def test_a_corrector_behind_the_last_predictor_leaves_its_mean():
    """At time 0 there is nothing to correct: the sampler still ends at the denoised sample."""
    sde, x = VP(), torch.randn(3, 2, generator=seeded(1), dtype=torch.float64)
    t = torch.full((3,), 0.2, dtype=torch.float64)
    both = then(ancestral(sde, score, variance="forward"), langevin(sde, score))
    alone = ancestral(sde, score, variance="forward")(x, t, 0 * t, seeded())
    for step in (both, both.plan(torch.tensor([0.2, 0.0], dtype=torch.float64))[0]):
        stepped = step(x, t, 0 * t, seeded())
        assert torch.equal(stepped.mean, alone.mean)
        assert torch.equal(stepped.x, alone.x)


@pytest.mark.parametrize(
    "kind, each", [("ancestral", 1), ("langevin", 2), ("corrector first", 2), ("corrector last", 3), ("identity", 0)]
)
def test_nfe_is_counted_truly(kind, each):
    """As many as there were calls; a corrector at time 0 makes none."""
    calls = []
    step = steps_of(VP(), lambda x, t: (calls.append(1), -x)[1])[kind]
    assert step.nfe == each
    path = simulate(step, torch.ones(3, 2), time_grid(4, t_min=0.1), generator=seeded())
    assert path.nfe == len(calls) == 4 * each - (2 if kind == "corrector last" else 0)


def test_smld_and_ddpm_in_one_line_each():
    """Both samplers as the paper has them, on N(0.5, 0.25) with the exact score: the law they end with, in closed form."""
    ladder = smld(geometric_sigmas(25, sigma_min=0.02, sigma_max=10.0))
    chain = ddpm(linear_betas(200))
    smld_sampler = then(annealed_langevin(ladder, G1.score_fn(ladder), snr=0.16, n_steps=60), identity())
    ddpm_sampler = ancestral(chain, G1.score_fn(chain), variance="forward")
    # Corrections only: KL 1.6e-1, 2.5e-2 and 2.2e-3 with 10, 20 and 60 of them a level. DDPM: 5.8e-5 at N = 200.
    for noising, step, limit in ((ladder, smld_sampler, 3e-3), (chain, ddpm_sampler, 1e-4)):
        prior = Gaussian([0.0], noising.prior_std**2)
        assert affine_law(step, prior, noising.times(), denoise=True)[-1].kl(G1) < limit


# --- what they refuse ----------------------------------------------------------------------------------------------------------


def test_bad_input():
    sde, s = VP(), lambda x, t: -x
    for build in (ancestral, reverse_diffusion, langevin, annealed_langevin, hmc):
        with pytest.raises(
            TypeError, match=r"noising: needs scale, std and transition, which Ito lacks; .* euler_maruyama"
        ):
            build(Ito(s, lambda t: t), s)
        with pytest.raises(TypeError, match=r"score: needs a function of \(x, t\), got Tensor"):
            build(sde, torch.ones(1))
    with pytest.raises(ValueError, match="variance: needs one of 'posterior', 'forward', got 'fixed'"):
        ancestral(sde, s, variance="fixed")
    with pytest.raises(ValueError, match="eta: needs a finite number above 0, got -1"):
        reverse_diffusion(sde, s, eta=-1.0)
    with pytest.raises(ValueError, match="steps: needs at least one step"):
        then()
    with pytest.raises(TypeError, match=r"steps: needs a function of \(x, t, t_next, generator\), got str"):
        then(identity(), "langevin")
    with pytest.raises(TypeError, match="diffusion: needs a function, got float"):
        euler_maruyama(s, 1.0)
    with pytest.raises(ValueError, match="times: this predictor runs backward in time"):
        simulate(ancestral(sde, s), torch.ones(2, 2), [0.1, 0.2])
    x, t = torch.ones(2, 2), torch.zeros(2)
    with pytest.raises(ValueError, match=r"diffusion: G\(x, t\) needs shape .* got \(2, 2, 3\) on \(2, 2\)"):
        euler_maruyama(s, lambda x, t: torch.ones(2, 2, 3))(x, t, t + 1)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ancestral(VP, score), r"noising: needs an SDE or a chain, got the class VP; write VP\(\)"),
        (lambda: reverse(VP, score), r"sde: needs an SDE, got the class VP; write VP\(\)"),
        (lambda: ancestral(VP(), G1), r"score: needs a function of \(x, t\), got Gaussian; .*law.score_fn\(noising\)"),
        (lambda: reverse(VP(), G1), r"score: needs a function of \(x, t\), got Gaussian; .*law.score_fn\(noising\)"),
        (lambda: langevin(score, VP()), "noising: needs scale, std and transition, which function lacks"),
        (lambda: then(Stepped), r"steps: needs a function of .*, got the class Stepped; .*Stepped\(\.\.\.\)"),
        (lambda: Ito(VP().drift, 1.0), "diffusion: needs a function, got float"),
    ],
)
def test_errors_guess_what_was_meant(build, words):
    with pytest.raises(TypeError, match=words):
        build()
